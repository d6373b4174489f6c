"""The classical baseline: thresholds, morphology and anatomy, nothing learned from masks.

It says what a trained network must beat. Works on any image size: a scan is brought to a
working grid, outlined there, and the outline brought back to the scan's grid.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from data_pipeline import geometry
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan
from data_pipeline.spec import InputSpec
from models import threshold_ct, threshold_shape, threshold_xray

# A mask has no probability of its own. Confidence grows with the distance to the outline:
# logistic(distance / width), width in pixels of the working grid.
CONFIDENCE_WIDTH = 4.0


class Threshold:
    """A Segmenter without weights; takes X-rays, and CT in HU or in stored values."""

    name = "threshold"

    def __init__(self, spec: InputSpec) -> None:
        """Takes modality and labels from `spec`; shape, window and the rest do not matter."""
        self.spec = spec

    def probabilities(self, scan: Scan) -> np.ndarray:
        """Returns float32 (labels, *scan.shape), above one half where the outlines hold.

        Raises:
          InputError: if the scan's modality is not the spec's.
        """
        if scan.modality != self.spec.modality:
            raise InputError(
                f"{scan.source}: it is {scan.modality}, this model is for {self.spec.modality}"
            )
        slices = scan.voxels.reshape(-1, *scan.shape[-2:])
        working = [_shrunk(voxels) for voxels in slices]
        outline = _outline_ct if scan.modality == "CT" else _outline_xray
        result = np.empty((len(self.spec.labels), *slices.shape), np.float32)
        for index, planes in enumerate(outline(working, scan.units, self.spec.labels)):
            for target, plane in zip(result, planes, strict=True):
                target[index] = _confidence(plane, slices.shape[1:])
        return result.reshape(-1, *scan.shape)


def _shrunk(voxels: np.ndarray) -> np.ndarray:
    scale = threshold_shape.SIDE / max(voxels.shape)
    shape = tuple(max(1, int(length * scale + 0.5)) for length in voxels.shape)
    return geometry.resample(voxels, shape)


def _outline_xray(
    images: Sequence[np.ndarray], units: str, labels: tuple[str, ...]
) -> Iterator[list[np.ndarray]]:
    """Yields for each image one bool plane a label."""
    for image in images:
        planes = {"lung": threshold_xray.lung(image)}
        if "infection" in labels:
            planes["infection"] = threshold_xray.infection(image, planes["lung"])
        yield [planes[label] for label in labels]


def _outline_ct(
    slices: Sequence[np.ndarray], units: str, labels: tuple[str, ...]
) -> Iterator[list[np.ndarray]]:
    """Yields for each slice one bool plane a label; lungs are selected in the whole volume."""
    air = np.stack([threshold_ct.air_inside(voxels, units) for voxels in slices])
    for voxels, aerated in zip(slices, threshold_ct.select_lungs(air), strict=True):
        planes = {"lung": threshold_ct.complete(aerated)}
        if "infection" in labels:
            planes["infection"] = threshold_ct.infection(voxels, aerated, units)
        yield [planes[label] for label in labels]


def _confidence(plane: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    distance = geometry.resample(threshold_shape.signed_distance(plane), grid)
    return 1.0 / (1.0 + np.exp(-distance / CONFIDENCE_WIDTH))
