"""How far apart two outlines lie: in pixels, or in millimetres where the spacing is known.

The outline of a mask is its pixels that touch the background or the grid's edge through a
side (SciPy's binary erosion); distances are Euclidean between pixel centres, by SciPy's k-d
tree. This is MONAI's definition, and the tests hold it to MONAI's numbers.
"""

import dataclasses

import numpy as np
import scipy.ndimage
import scipy.spatial

from evaluation import metrics

HAUSDORFF_PERCENTILE = 95.0

# Two outlines closer than this agree, for the surface Dice: about two pixels of an X-ray or
# CT slice, and of the order of what two readers differ by.
TOLERANCE_MM = 2.0


@dataclasses.dataclass(frozen=True)
class Distances:
    """From each outline pixel of one mask to the nearest of the other."""

    from_truth: np.ndarray  # float64 (pixels of the true outline,)
    from_prediction: np.ndarray  # float64 (pixels of the predicted outline,)
    diagonal: float  # of the grid: the most that two outlines can be apart

    @property
    def neither(self) -> bool:
        """Both masks are empty."""
        return not self.from_truth.size and not self.from_prediction.size

    @property
    def one_missing(self) -> bool:
        """Exactly one of the masks is empty: its distance is taken as the grid's diagonal."""
        return (self.from_truth.size == 0) != (self.from_prediction.size == 0)


def distances(
    truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...] | None = None
) -> Distances:
    """Measures two bool masks of one shape; in the unit of `spacing`, or in pixels.

    Where one mask is empty, every distance to it is the diagonal of the grid.
    """
    metrics.check_masks(truth, prediction)
    steps = np.ones(truth.ndim) if spacing is None else np.asarray(spacing, np.float64)
    diagonal = float(np.linalg.norm((np.asarray(truth.shape) - 1) * steps))
    ends = [outline(mask) * steps for mask in (truth, prediction)]
    if any(len(points) == 0 for points in ends):
        far = [np.full(len(points), diagonal) for points in ends]
        return Distances(far[0], far[1], diagonal)
    return Distances(_nearest(ends[0], ends[1]), _nearest(ends[1], ends[0]), diagonal)


def outline(mask: np.ndarray) -> np.ndarray:
    """Returns the outline's pixels as whole-number coordinates, (pixels, axes)."""
    if not mask.any():
        return np.zeros((0, mask.ndim), np.int64)
    box = scipy.ndimage.find_objects(mask.astype(np.uint8))[0]
    inner = scipy.ndimage.binary_erosion(mask[box])
    points: np.ndarray = np.argwhere(mask[box] & ~inner)
    start = np.array([side.start for side in box])
    return np.asarray(points + start)


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.spatial.cKDTree(others).query(points)[0])


def hd95(between: Distances) -> float:
    """Hausdorff distance with its worst 5 % cut off, the larger of both directions.

    NaN if both masks are empty; the grid's diagonal if one is.
    """
    if between.neither:
        return metrics.NAN
    if between.one_missing:
        return between.diagonal
    ways = (between.from_truth, between.from_prediction)
    return float(max(np.percentile(way, HAUSDORFF_PERCENTILE) for way in ways))


def average_surface_distance(between: Distances) -> float:
    """Mean of all distances of both directions (ASSD); edge cases as hd95."""
    if between.neither:
        return metrics.NAN
    return float(np.concatenate([between.from_truth, between.from_prediction]).mean())


def surface_dice(between: Distances, tolerance: float = TOLERANCE_MM) -> float:
    """Share of both outlines that lies within `tolerance` of the other (NSD).

    NaN if both masks are empty, 0 if one is. Nikolov et al., arXiv:1809.04430.
    """
    if between.neither:
        return metrics.NAN
    if between.one_missing:
        return 0.0
    both = np.concatenate([between.from_truth, between.from_prediction])
    return float(np.count_nonzero(both <= tolerance) / both.size)
