"""Shapes that the thresholding baseline is made of: discs, components, hulls, distances.

All lengths are pixels of the working grid, whose longer side is `SIDE`. Planes are bool
(rows, cols) unless said otherwise.
"""

import cv2
import numpy as np
from scipy import ndimage

SIDE = 256  # pixels of the working grid's longer side


def disc(radius: int) -> np.ndarray:
    """Returns a bool disc as structuring element, (2 radius + 1) pixels across."""
    offset = np.arange(-radius, radius + 1)
    return offset[:, None] ** 2 + offset[None, :] ** 2 <= radius**2


def blurred(voxels: np.ndarray, sigma: float) -> np.ndarray:
    """Returns Gaussian-smoothed voxels; beyond the picture its border goes on."""
    return np.asarray(ndimage.gaussian_filter(voxels, sigma, mode="nearest"))


def opened(plane: np.ndarray, radius: int) -> np.ndarray:
    """Removes what a disc does not fit into; beyond the picture the plane goes on as it ends."""
    return _morphology(plane, cv2.MORPH_OPEN, radius)


def closed(plane: np.ndarray, radius: int) -> np.ndarray:
    """Fills notches and gaps that a disc does not fit into."""
    return _morphology(plane, cv2.MORPH_CLOSE, radius)


def dilated(plane: np.ndarray, radius: int) -> np.ndarray:
    """Grows a plane by `radius` pixels."""
    return _morphology(plane, cv2.MORPH_DILATE, radius)


def _morphology(plane: np.ndarray, operation: int, radius: int) -> np.ndarray:
    margin = 2 * radius
    padded = np.pad(plane.astype(np.uint8), margin, mode="edge")
    result = cv2.morphologyEx(padded, operation, disc(radius).astype(np.uint8))
    inner = result[margin : margin + plane.shape[0], margin : margin + plane.shape[1]]
    return np.asarray(inner > 0)


def components(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns numbered face-connected components (0 is none) and the size of each, from 1 on.

    Args:
      plane: bool, of any rank.
    """
    numbers, count = ndimage.label(plane)
    return numbers, np.bincount(numbers.ravel(), minlength=count + 1)[1:]


def at_least(plane: np.ndarray, size: float) -> np.ndarray:
    """Returns the components of a plane or volume that have at least `size` pixels."""
    numbers, sizes = components(plane)
    return np.asarray(np.isin(numbers, np.flatnonzero(sizes >= size) + 1))


def touching(plane: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Returns those components of a plane that share a pixel with `where`."""
    numbers, _ = components(plane)
    return plane & np.isin(numbers, np.unique(numbers[plane & where]))


def border(grid: tuple[int, int]) -> np.ndarray:
    """Returns the outermost pixels of a grid."""
    plane = np.ones(grid, np.bool_)
    plane[1:-1, 1:-1] = False
    return plane


def corners(grid: tuple[int, int]) -> np.ndarray:
    """Returns the four corner pixels of a grid."""
    plane = np.zeros(grid, np.bool_)
    plane[np.ix_((0, -1), (0, -1))] = True
    return plane


def hull(plane: np.ndarray) -> np.ndarray:
    """Returns the convex hull of a plane; empty stays empty."""
    points = cv2.findNonZero(plane.astype(np.uint8))
    filled = np.zeros(plane.shape, np.uint8)
    if points is not None:
        cv2.fillConvexPoly(filled, cv2.convexHull(points), 1)
    return np.asarray(filled > 0)


def each_hull(plane: np.ndarray) -> np.ndarray:
    """Returns the union of the convex hulls of a plane's components."""
    numbers, sizes = components(plane)
    union = np.zeros(plane.shape, np.bool_)
    for number in range(1, len(sizes) + 1):
        union |= hull(numbers == number)
    return union


def signed_distance(plane: np.ndarray) -> np.ndarray:
    """Returns how far each pixel is inside (+) or outside (-) the outline, in pixels.

    float64, (rows, cols). Without any outline, `SIDE` with the sign.
    """
    if plane.all() or not plane.any():
        return np.where(plane, float(SIDE), -float(SIDE))
    inside = ndimage.distance_transform_edt(plane)
    outside = ndimage.distance_transform_edt(~plane)
    # The centres on either side of an outline are half a pixel from it.
    return np.asarray(np.where(plane, inside - 0.5, 0.5 - outside))
