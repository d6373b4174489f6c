"""The classical baseline: thresholds, morphology and anatomy, nothing learned from masks.

It says what a trained network must beat. Works on any image size: a scan is brought to a
working grid, outlined there, and the outline brought back to the scan's grid.
"""

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
        slices = scan.voxels[None] if scan.voxels.ndim == 2 else scan.voxels
        working = [_shrink(voxels) for voxels in slices]
        lungs = _lungs(working, scan)
        planes = {"lung": lungs}
        if "infection" in self.spec.labels:
            planes["infection"] = [
                _infection(voxels, lung, scan) for voxels, lung in zip(working, lungs, strict=True)
            ]
        result = np.empty((len(self.spec.labels), *slices.shape), np.float32)
        for label, target in zip(self.spec.labels, result, strict=True):
            for index, plane in enumerate(planes[label]):
                target[index] = _confidence(plane, slices.shape[1:])
        return result.reshape(len(self.spec.labels), *scan.shape)


def _shrink(voxels: np.ndarray) -> np.ndarray:
    scale = threshold_shape.SIDE / max(voxels.shape)
    return geometry.resample(
        voxels, tuple(max(1, int(length * scale + 0.5)) for length in voxels.shape)
    )


def _lungs(working: list[np.ndarray], scan: Scan) -> list[np.ndarray]:
    if scan.modality == "XR":
        return [threshold_xray.lung(voxels) for voxels in working]
    air = np.stack([threshold_ct.air_inside(voxels, scan.units) for voxels in working])
    lungs = threshold_ct.select_lungs(air if len(air) > 1 else air[0])
    return [threshold_ct.complete(lung) for lung in lungs.reshape(air.shape)]


def _infection(voxels: np.ndarray, lung: np.ndarray, scan: Scan) -> np.ndarray:
    if scan.modality == "XR":
        return threshold_xray.infection(voxels, lung)
    return threshold_ct.infection(voxels, lung, scan.units)


def _confidence(plane: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    distance = geometry.resample(threshold_shape.signed_distance(plane), grid)
    return 1.0 / (1.0 + np.exp(-distance / CONFIDENCE_WIDTH))
