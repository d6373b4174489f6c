"""Lung and infection on CT slices by thresholds, without training.

HU: everything below `LUNG_BELOW_HU` inside the body. Stored values: the same with Otsu's
threshold (IEEE Trans. Syst. Man Cybern. 9:62, 1979) in its place.
"""

import numpy as np
from scipy import ndimage
from skimage import filters

from models import threshold_shape as shape

LUNG_BELOW_HU = -400.0  # half way between lung (about -800) and soft tissue (about 40)
_BLUR = 1.0  # pixels: noise of a thin slice must not perforate the lung
_TABLE_RADIUS = 3  # an opening by this removes the table's shell and leaves the body
_BODY_SHARE = 0.02  # of the slice: tissue that counts as body
_LUNG_SHARE = 0.01  # of the slice: smaller air is airway, bowel or noise
_CLOSING_RADIUS = 5  # vessels and nodules at the pleura, up to about 15 mm


def air_inside(voxels: np.ndarray, units: str) -> np.ndarray:
    """Returns air inside the body on a slice: bool (rows, cols); lung, airways and bowel gas."""
    smooth = ndimage.gaussian_filter(voxels, _BLUR, mode="nearest")
    if smooth.min() == smooth.max():
        return np.zeros(voxels.shape, np.bool_)
    dark = smooth < (LUNG_BELOW_HU if units == "HU" else filters.threshold_otsu(smooth))
    corners = np.zeros(voxels.shape, np.bool_)
    corners[:: voxels.shape[0] - 1 or 1, :: voxels.shape[1] - 1 or 1] = True
    inside = dark & _body(~dark) & ~shape.touching(dark, corners)
    return shape.opened(inside, 1)


def _body(tissue: np.ndarray) -> np.ndarray:
    solid = shape.opened(tissue, _TABLE_RADIUS)
    numbers, sizes = shape.components(solid)
    large = np.flatnonzero(sizes >= _BODY_SHARE * tissue.size) + 1
    return shape.hull(np.isin(numbers, large))


def select_lungs(air: np.ndarray) -> np.ndarray:
    """Returns the lungs among air: the large components, a slice's or a volume's."""
    numbers, sizes = shape.components(air)
    extent = air.size if air.ndim == 2 else np.count_nonzero(air)
    smallest = max(_LUNG_SHARE * extent, sizes.max(initial=0) * 0.1)
    return np.isin(numbers, np.flatnonzero(sizes >= smallest) + 1)


def complete(lung: np.ndarray) -> np.ndarray:
    """Takes vessels and nodules into the lungs of a slice: closing, then hole filling."""
    return ndimage.binary_fill_holes(shape.closed(lung, _CLOSING_RADIUS))


def infection(voxels: np.ndarray, lung: np.ndarray, units: str) -> np.ndarray:
    """Returns what is denser than aerated lung and no vessel, inside the lungs of a slice."""
    smooth = ndimage.gaussian_filter(voxels, _BLUR, mode="nearest")
    if not lung.any() or smooth[lung].min() == smooth[lung].max():
        return np.zeros(voxels.shape, np.bool_)
    floor = -700.0 if units == "HU" else filters.threshold_otsu(smooth[lung])
    return shape.opened(lung & (smooth > floor), 2)
