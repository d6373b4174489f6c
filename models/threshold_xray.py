"""Lung and infection on frontal X-rays by thresholds, without training.

Lungs are darker than their surroundings, one on either side of the spine, away from the air
beside the patient. Each is made convex and completed towards the spine, because the region
behind the heart counts as lung; a side on which nothing plausible was found takes the mirror
image of the other. All constants were set by eye and by Dice on development images; none of
them describes a particular image.
"""

import numpy as np
from scipy import ndimage
from skimage import filters

from models import threshold_shape as shape

_BLUR = 2.0  # pixels: ribs stay, grain goes
_SURROUNDINGS = 34.0  # pixels, sigma of the mean that a pixel is compared to
_OUTSIDE_BELOW = 0.18  # of the grey range: air beside the patient, where it reaches the border

# How much darker than its surroundings a pixel must be, in shares of the grey range.
_NEAR_OUTSIDE = (0.45, 10.0)  # at the skin, and the depth in pixels over which it fades
_NEAR_SIDES = (0.3, 0.62)  # a half width further out, from this share of the half width on
_NEAR_TOP = (2.0, 0.06)  # a height further up, above this share of the height
_NEAR_BOTTOM = (1.0, 0.80)  # a height further down, below this share of the height

# Where a lung is looked for, in half widths from the spine and heights from the top.
_CENTRE, _SPREAD = (0.45, 0.45), (0.30, 0.35)
_SECOND_PIECE = 0.4  # of the best piece's score: it belongs to the same lung

_SPINE_GAP = 0.06  # of the width, from the middle of the spine to a lung
_MEDIAL_EDGE = (0.20, 0.92)  # of a lung's height: where it runs along the spine
_DOME = 0.10  # of a lung's height: how far the diaphragm rises into it
_WALL = 5  # pixels by which blur and ribs hide the edge of the lung
_SYMMETRIC = 0.6  # intersection over union of a lung and the mirrored other


def lung(voxels: np.ndarray) -> np.ndarray:
    """Returns both lungs of a frontal X-ray on which air is dark.

    Args:
      voxels: (rows, cols) on the working grid, stored values.

    Returns:
      bool (rows, cols); empty for a constant image.
    """
    grey = _grey(voxels)
    if grey is None:
        return np.zeros(voxels.shape, np.bool_)
    outside = shape.touching(grey < _OUTSIDE_BELOW, shape.border(grey.shape))
    spine = _spine(np.where(outside, 0.0, grey))
    dark = _darker_than_surroundings(grey, outside, spine)
    left, right = _symmetric(dark, spine)
    return np.asarray(left | right)


def infection(voxels: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """Returns what is not among the darkest of three classes within the lungs (Otsu).

    Args:
      voxels: (rows, cols) on the working grid, stored values.
      lungs: bool (rows, cols).

    Returns:
      bool (rows, cols).
    """
    grey = _grey(voxels)
    inner = shape.signed_distance(lungs) > _WALL
    # Three classes need more than three grey values.
    if grey is None or len(np.unique(grey[inner])) <= 3:
        return np.zeros(voxels.shape, np.bool_)
    without_ribs = shape.blurred(grey, 2 * _BLUR)
    aerated_below, _ = filters.threshold_multiotsu(without_ribs[inner], classes=3)
    return shape.opened(inner & (without_ribs > aerated_below), 3)


def _grey(voxels: np.ndarray) -> np.ndarray | None:
    """Returns the image in [0, 1] without grain; None if it is constant."""
    low, high = np.percentile(voxels, (1, 99))
    if low == high:
        return None
    scaled = np.clip((voxels - low) / (high - low), 0.0, 1.0)
    return shape.blurred(scaled, _BLUR)


def _spine(grey: np.ndarray) -> int:
    """Returns the column of the spine: the brightest in the middle of the image."""
    rows, cols = grey.shape
    profile = grey[int(0.1 * rows) : int(0.75 * rows) + 1].mean(axis=0)
    profile = ndimage.gaussian_filter1d(profile, 0.03 * cols)
    first, last = int(0.38 * cols), int(0.62 * cols)
    return first + int(np.argmax(profile[first : last + 1]))


def _position(grid: tuple[int, int], spine: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns heights from the top (rows, 1) and half widths from the spine (1, cols)."""
    rows, cols = grid
    height = (np.arange(rows)[:, None] + 0.5) / rows
    return height, np.abs(np.arange(cols)[None, :] - spine) / (cols / 2)


def _darker_than_surroundings(grey: np.ndarray, outside: np.ndarray, spine: int) -> np.ndarray:
    body = ~outside
    covered = ndimage.gaussian_filter(body.astype(np.float64), _SURROUNDINGS, mode="constant")
    mean = ndimage.gaussian_filter(grey * body, _SURROUNDINGS, mode="constant")
    mean /= np.maximum(covered, 1e-6)

    height, aside = _position(grey.shape, spine)
    needed = _NEAR_SIDES[0] * np.maximum(0.0, aside - _NEAR_SIDES[1])
    needed = needed + _NEAR_TOP[0] * np.maximum(0.0, _NEAR_TOP[1] - height)
    needed = needed + _NEAR_BOTTOM[0] * np.maximum(0.0, height - _NEAR_BOTTOM[1])
    if outside.any():
        depth = ndimage.distance_transform_edt(body)
        needed = needed + _NEAR_OUTSIDE[0] * np.exp(-depth / _NEAR_OUTSIDE[1])
    return shape.opened(body & (mean - grey > needed), 3)


def _symmetric(dark: np.ndarray, spine: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lungs left and right of the spine in the image, the better one for both.

    Both are kept if they are about mirror images; else the one that is better placed and
    better filled by dark pixels stands for the other, too.
    """
    height, aside = _position(dark.shape, spine)
    weight = np.exp(
        -(((aside - _CENTRE[0]) / _SPREAD[0]) ** 2) - ((height - _CENTRE[1]) / _SPREAD[1]) ** 2
    )
    right_of_spine = np.broadcast_to(np.arange(dark.shape[1]) > spine, dark.shape)
    regions = [_pieces(dark & ~right_of_spine, weight), _pieces(dark & right_of_spine, weight)]
    lungs = [_completed(regions[0], spine, -1), _completed(regions[1], spine, 1)]

    mirrored = _mirrored(lungs[1], spine)
    union = np.count_nonzero(lungs[0] | mirrored)
    if union and np.count_nonzero(lungs[0] & mirrored) < _SYMMETRIC * union:
        left, right = (_merit(*pair, weight) for pair in zip(regions, lungs, strict=True))
        worse = 0 if right > left else 1
        lungs[worse] = _mirrored(lungs[1 - worse], spine)
    return lungs[0], lungs[1]


def _pieces(dark: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns the components with the most pixels where a lung is looked for."""
    numbers, sizes = shape.components(dark)
    scores = ndimage.sum_labels(weight, numbers, np.arange(1, len(sizes) + 1))
    kept = np.flatnonzero(scores >= _SECOND_PIECE * np.max(scores, initial=0.0)) + 1
    return np.isin(numbers, kept)


def _completed(region: np.ndarray, spine: int, side: int) -> np.ndarray:
    """Returns a whole lung from its dark part, left (-1) or right (+1) of the spine."""
    if not region.any():
        return region
    cols = region.shape[1]
    gap = _SPINE_GAP * cols
    aside = side * (np.arange(cols) - spine)[None, :]
    occupied = np.flatnonzero(region.any(axis=1))
    top, height = occupied[0], occupied[-1] - occupied[0]

    outline = region & (aside > gap / 2)
    first, last = (int(top + share * height) for share in _MEDIAL_EDGE)
    outline[first : last + 1, int(np.clip(spine + side * gap, 0, cols - 1))] = True
    whole = _above_diaphragm(shape.hull(outline), _DOME * height)
    # Growing must not take the lung across the spine.
    return np.asarray(shape.dilated(whole, _WALL) & (aside > 0.9 * gap))


def _above_diaphragm(whole: np.ndarray, rise: float) -> np.ndarray:
    """Cuts a parabola, `rise` pixels high in its middle, from the lower edge of a lung."""
    rows = np.arange(whole.shape[0])[:, None]
    occupied = np.flatnonzero(whole.any(axis=0))
    across = (np.arange(len(occupied)) + 0.5) / len(occupied)
    lowest = np.zeros(whole.shape[1])
    lowest[occupied] = np.where(whole, rows, 0).max(axis=0)[occupied]
    lowest[occupied] -= rise * 4.0 * across * (1.0 - across)
    return whole & (rows <= lowest)


def _mirrored(plane: np.ndarray, spine: int) -> np.ndarray:
    source = 2 * spine - np.arange(plane.shape[1])
    known = (source >= 0) & (source < plane.shape[1])
    return np.where(known, plane[:, np.clip(source, 0, plane.shape[1] - 1)], False)


def _merit(region: np.ndarray, whole: np.ndarray, weight: np.ndarray) -> float:
    """Returns how well a lung lies where lungs lie, times the share of it that is dark."""
    area = np.count_nonzero(whole)
    if not area:
        return 0.0
    return float(weight[whole].sum() / np.sqrt(area) * np.count_nonzero(region) / area)
