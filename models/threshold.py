"""The classical baseline: thresholds, morphology and anatomy, nothing learned from masks.

It says what a trained network must beat. Works on any image size: each slice is brought to a
working grid, outlined there, and the outline's signed distance is brought back to the scan's
grid. What it scores stands in docs/threshold.md.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from data_pipeline import geometry
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan
from data_pipeline.spec import InputSpec
from models import threshold_ct, threshold_shape, threshold_xray

# A mask has no probability of its own. Confidence grows with the distance to the outline:
# logistic(distance / width), width in pixels of the working grid. Of 1 to 24 pixels these gave
# the lowest cross-entropy on the sample as it was (lung: 159 X-rays, infection: 50 CT slices).
CONFIDENCE_WIDTH = {"lung": 4.0, "infection": 10.0}


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
            for target, label in zip(result, self.spec.labels, strict=True):
                width = CONFIDENCE_WIDTH[label]
                target[index] = _confidence(planes[label], slices.shape[1:], width)
        return result.reshape(-1, *scan.shape)


def _shrunk(voxels: np.ndarray) -> np.ndarray:
    scale = threshold_shape.SIDE / max(voxels.shape)
    shape = tuple(max(1, int(length * scale + 0.5)) for length in voxels.shape)
    return geometry.resample(voxels, shape)


def _outline_xray(
    images: Sequence[np.ndarray], _units: str, labels: tuple[str, ...]
) -> Iterator[dict[str, np.ndarray]]:
    """Yields for each image its bool planes by label."""
    for image in images:
        planes = {"lung": threshold_xray.lung(image)}
        if "infection" in labels:
            planes["infection"] = threshold_xray.infection(image, planes["lung"])
        yield planes


def _outline_ct(
    slices: Sequence[np.ndarray], units: str, labels: tuple[str, ...]
) -> Iterator[dict[str, np.ndarray]]:
    """Yields for each slice its bool planes by label; lungs are selected in the whole volume."""
    air = np.stack([threshold_ct.air_inside(voxels, units) for voxels in slices])
    for voxels, aerated in zip(slices, threshold_ct.select_lungs(air), strict=True):
        planes = {"lung": threshold_ct.complete(aerated)}
        if "infection" in labels:
            planes["infection"] = threshold_ct.infection(voxels, aerated, units)
        yield planes


def _confidence(plane: np.ndarray, grid: tuple[int, ...], width: float) -> np.ndarray:
    """Returns float64 on `grid`: above one half inside the outline, brought back to the grid."""
    distance = geometry.resample(threshold_shape.signed_distance(plane), grid)
    return np.asarray(1.0 / (1.0 + np.exp(-distance / width)))
