"""Ways to make a scan worse, each with its levels; the grid and the units stay."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from data_pipeline import geometry
from data_pipeline.scan import Mask, Scan

# What a scan's contrast is measured by: the distance of these percentiles.
_RANGE_PERCENTILES = (1.0, 99.0)


@dataclasses.dataclass(frozen=True)
class Damage:
    """One way to spoil a scan, with its levels from none to strong."""

    name: str
    unit: str
    levels: tuple[float, ...]  # the first leaves the scan as it is
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]  # on (rows, cols)
    moves: bool = False  # the mask must be moved alike


def noise(voxels: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise; level is its standard deviation in percent of the scan's range."""
    return voxels + rng.normal(0.0, 1.0, voxels.shape) * level / 100 * _range(voxels)


def blur(voxels: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Blurs by a Gaussian; level is its sigma in percent of the longer side."""
    if not level:
        return voxels
    sigma = level / 100 * max(voxels.shape)
    return np.asarray(cv2.GaussianBlur(voxels.astype(np.float64), (0, 0), sigma))


def contrast(voxels: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Scales the distance to the scan's median; level in percent of the contrast it had."""
    middle = np.median(voxels)
    return np.asarray(middle + (voxels - middle) * level / 100)


def rotation(voxels: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Turns about the middle by degrees; what comes in from outside repeats the edge."""
    if not level:
        return voxels
    rows, cols = voxels.shape
    turn = cv2.getRotationMatrix2D(((cols - 1) / 2, (rows - 1) / 2), level, 1.0)
    return np.asarray(
        cv2.warpAffine(
            voxels.astype(np.float64), turn, (cols, rows), borderMode=cv2.BORDER_REPLICATE
        )
    )


def fewer_pixels(voxels: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Shrinks every side by a factor and enlarges it again: detail is lost, the grid stays."""
    small = tuple(max(1, round(side / level)) for side in voxels.shape)
    return geometry.resample(geometry.resample(voxels, small), voxels.shape)


DAMAGES = (
    Damage("noise", "% of range", (0, 5, 10, 20), noise),
    Damage("blur", "sigma, % of side", (0, 0.5, 1, 2), blur),
    Damage("contrast", "% left", (100, 75, 50, 25), contrast),
    Damage("rotation", "degrees", (0, 5, 10, 20), rotation, moves=True),
    Damage("fewer pixels", "times fewer a side", (1, 2, 4, 8), fewer_pixels),
)


def _range(voxels: np.ndarray) -> float:
    low, high = np.percentile(voxels, _RANGE_PERCENTILES)
    return float(high - low)


def spoil(scan: Scan, damage: Damage, level: float, seed: int) -> Scan:
    """Returns a worse scan on the same grid, in whole numbers within the scan's own bounds.

    Args:
      scan: an X-ray, a slice or a volume; each slice is spoiled on its own.
      damage: how.
      level: how much, one of damage.levels or any other.
      seed: of the noise.
    """
    if level == damage.levels[0]:
        return scan
    rng = np.random.default_rng(seed)
    slices = scan.voxels if scan.voxels.ndim == 3 else scan.voxels[None]
    worse = np.stack([damage.apply(one, level, rng) for one in slices]).reshape(scan.shape)
    whole = np.clip(np.rint(worse), scan.voxels.min(), scan.voxels.max())
    return dataclasses.replace(scan, voxels=whole.astype(np.float32))


def spoil_mask(truth: Mask, damage: Damage, level: float) -> Mask:
    """Moves a mask as `spoil` moves its scan."""
    if not damage.moves or level == damage.levels[0]:
        return truth
    rng = np.random.default_rng(0)
    flat = truth.planes.reshape(-1, *truth.planes.shape[-2:])
    moved = np.stack([damage.apply(plane.astype(np.float64), level, rng) > 0.5 for plane in flat])
    return Mask(moved.reshape(truth.planes.shape), truth.labels)
