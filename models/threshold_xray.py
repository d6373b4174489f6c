"""Lung and infection on X-rays by a local threshold, without training.

Lungs are what is darker than its surroundings, one component a side of the spine, each made
convex and completed towards the spine: the region behind the heart counts as lung.
"""

import numpy as np
from scipy import ndimage
from skimage import filters

from models import threshold_shape as shape

_BLUR = 2.0  # pixels: ribs stay, grain goes
_SURROUNDINGS = 32.0  # pixels, sigma of the mean that a pixel is compared to
_OUTSIDE_BELOW = 0.12  # of the grey range: air beside the patient


def lung(voxels: np.ndarray) -> np.ndarray:
    """Returns both lungs of a frontal X-ray: bool (rows, cols); air is dark."""
    grey = _grey(voxels)
    if grey is None:
        return np.zeros(voxels.shape, np.bool_)
    edge = np.ones(voxels.shape, np.bool_)
    edge[1:-1, 1:-1] = False
    body = ~shape.touching(grey < _OUTSIDE_BELOW, edge)
    spine = _spine(np.where(body, grey, 0.0))
    dark = _dark(grey, body, spine)
    return _side(dark, spine, -1) | _side(dark, spine, 1)


def _grey(voxels: np.ndarray) -> np.ndarray | None:
    low, high = np.percentile(voxels, (1, 99))
    if high <= low:
        return None
    return ndimage.gaussian_filter(
        np.clip((voxels - low) / (high - low), 0, 1), _BLUR, mode="nearest"
    )


def _spine(grey: np.ndarray) -> int:
    """Returns the column of the spine: the brightest in the middle of the picture."""
    rows, cols = grey.shape
    profile = grey[int(0.1 * rows) : int(0.75 * rows) + 1].mean(axis=0)
    profile = ndimage.gaussian_filter1d(profile, 0.03 * cols)
    first, last = int(0.38 * cols), int(0.62 * cols)
    return first + int(np.argmax(profile[first : last + 1]))


def _dark(grey: np.ndarray, body: np.ndarray, spine: int) -> np.ndarray:
    rows, cols = grey.shape
    weight = ndimage.gaussian_filter(body.astype(np.float64), _SURROUNDINGS, mode="constant")
    mean = ndimage.gaussian_filter(grey * body, _SURROUNDINGS, mode="constant")
    mean /= np.maximum(weight, 1e-6)
    y = (np.arange(rows)[:, None] + 0.5) / rows
    x = np.abs(np.arange(cols)[None, :] - spine) / (cols / 2)
    penalty = 0.3 * np.maximum(0, x - 0.62)
    penalty = penalty + 2.0 * np.maximum(0, 0.06 - y) + np.maximum(0, y - 0.85)
    return shape.opened(body & (mean - grey > penalty), 3)


def _side(dark: np.ndarray, spine: int, sign: int) -> np.ndarray:
    """Returns the lung left (-1) or right (+1) of the spine in the picture."""
    rows, cols = dark.shape
    gap = 0.045 * cols
    x = sign * (np.arange(cols)[None, :] - spine)
    numbers, sizes = shape.components(dark & (x > gap / 2))
    if not len(sizes):
        return np.zeros(dark.shape, np.bool_)
    y = (np.arange(rows)[:, None] + 0.5) / rows
    weight = np.exp(-(((x / (cols / 2) - 0.45) / 0.35) ** 2) - ((y - 0.45) / 0.35) ** 2)
    score = ndimage.sum(weight, numbers, np.arange(1, len(sizes) + 1))
    region = np.isin(numbers, np.flatnonzero(score >= 0.25 * score.max()) + 1)
    occupied = np.flatnonzero(region.any(axis=1))
    top, height = occupied[0], occupied[-1] - occupied[0]
    medial = int(np.clip(spine + sign * gap, 0, cols - 1))
    region[int(top + 0.12 * height) : int(top + 0.92 * height) + 1, medial] = True
    return shape.hull(region)


def infection(voxels: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """Returns what is bright within the lungs: above Otsu's threshold of their own values."""
    grey = _grey(voxels)
    inner = shape.signed_distance(lungs) > 4
    if grey is None or not inner.any() or grey[inner].min() == grey[inner].max():
        return np.zeros(voxels.shape, np.bool_)
    return shape.opened(inner & (grey > filters.threshold_otsu(grey[inner])), 3)
