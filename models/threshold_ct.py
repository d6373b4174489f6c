"""Lung and infection on CT slices by thresholds, without training.

In HU the thresholds are fixed. In stored values they come from the slice itself: Otsu's
threshold (IEEE Trans. Syst. Man Cybern. 9:62, 1979) parts air from tissue.

Lung is the air inside the body in large components, with vessels and nodules filled in.
Infection is what lies between aerated lung and soft tissue within the lungs' convex hulls, less
what is as thin as a vessel.
"""

import numpy as np
from scipy import ndimage
from skimage import filters

from models import threshold_shape as shape

LUNG_BELOW_HU = -400.0  # half way between lung (about -800) and soft tissue (about 40)
# Ground glass and the aerated part of consolidation; vessels and pleura are above.
INFECTION_HU = (-750.0, -100.0)
# The same for stored values: share of the way from the slice's median lung to its median tissue.
_INFECTION_SHARES = (0.10, 0.85)

_BLUR = 1.0  # pixels: noise of a thin slice must not perforate the lung
_TABLE_RADIUS = 3  # an opening by this removes the table's shell and leaves the body
_BODY_SHARE = 0.02  # of the slice: tissue that counts as body
_LUNG_SHARE = 0.01  # of a slice: smaller air is airway, bowel or noise
_SMALLER_LUNG = 0.1  # of the larger one: less is no lung
_CLOSING_RADIUS = 7  # vessels and nodules at the pleura, up to about 20 mm
_HOLE_SHARE = 0.02  # of the slice: a larger hole is heart or liver
_VESSEL_RADIUS = 4  # what a disc of this radius does not fit into is no infection


def air_inside(voxels: np.ndarray, units: str) -> np.ndarray:
    """Returns air inside the body on a slice: lung, airways and bowel gas.

    Dark components that reach a corner of the picture are the room, also where a slice is
    cropped so tightly that the lungs reach its border.

    Args:
      voxels: (rows, cols) on the working grid, in `units`.
      units: "HU" or "stored".

    Returns:
      bool (rows, cols); empty for a constant slice.
    """
    smooth = shape.blurred(voxels, _BLUR)
    if smooth.min() == smooth.max():
        return np.zeros(voxels.shape, np.bool_)
    dark = smooth < (LUNG_BELOW_HU if units == "HU" else filters.threshold_otsu(smooth))
    room = shape.touching(dark, shape.corners(dark.shape))
    return shape.opened(dark & ~room & _body(~dark), 1)


def _body(tissue: np.ndarray) -> np.ndarray:
    """Returns the convex hull of the large pieces of tissue: the table is not among them."""
    solid = shape.opened(tissue, _TABLE_RADIUS)
    return shape.hull(shape.at_least(solid, _BODY_SHARE * tissue.size))


def select_lungs(air: np.ndarray) -> np.ndarray:
    """Returns the lungs among air: the large components of a slice or of a volume.

    Args:
      air: bool (rows, cols) or (slices, rows, cols).
    """
    _, sizes = shape.components(air)
    slice_size = air.shape[-2] * air.shape[-1]
    return shape.at_least(air, max(_LUNG_SHARE * slice_size, _SMALLER_LUNG * sizes.max(initial=0)))


def complete(lung: np.ndarray) -> np.ndarray:
    """Takes vessels and nodules into the lungs of a slice: closing, then filling small holes."""
    whole = shape.closed(lung, _CLOSING_RADIUS)
    holes = ndimage.binary_fill_holes(whole) & ~whole
    return np.asarray(whole | (holes & ~shape.at_least(holes, _HOLE_SHARE * holes.size)))


def infection(voxels: np.ndarray, aerated: np.ndarray, units: str) -> np.ndarray:
    """Returns what is denser than aerated lung, not as dense as tissue and not thin.

    Args:
      voxels: (rows, cols) on the working grid, in `units`.
      aerated: bool (rows, cols), the lungs as `select_lungs` gives them. Their convex hulls
        are searched: infection at the pleura is not among their air.
      units: "HU" or "stored".

    Returns:
      bool (rows, cols).
    """
    tissue = _tissue(voxels)
    if not aerated.any() or not tissue.any():
        return np.zeros(voxels.shape, np.bool_)
    low, high = INFECTION_HU
    if units != "HU":
        start = np.median(voxels[aerated])
        way = np.median(voxels[tissue]) - start
        low, high = (start + share * way for share in _INFECTION_SHARES)
    smooth = shape.blurred(voxels, _BLUR)
    between = shape.each_hull(aerated) & (smooth > low) & (smooth < high)
    return shape.opened(between, _VESSEL_RADIUS)


def _tissue(voxels: np.ndarray) -> np.ndarray:
    if voxels.min() == voxels.max():
        return np.zeros(voxels.shape, np.bool_)
    return np.asarray(voxels > filters.threshold_otsu(voxels))
