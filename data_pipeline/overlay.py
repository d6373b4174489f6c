"""Draws the outlines of a mask on its scan, for people to look at."""

import cv2
import numpy as np

from data_pipeline import labels
from data_pipeline.scan import Mask, Scan

LUNG_WINDOW_HU = (-1350.0, 150.0)  # as radiologists view lungs: level -600, width 1500
_PERCENTILES = (0.5, 99.5)  # of stored values, whose range says nothing
_PIXELS_A_LINE = 300  # an outline is one pixel wide for so many pixels of the image's side


def draw(scan: Scan, mask: Mask, index: int | None = None) -> np.ndarray:
    """Returns the scan in grey with each label outlined in its colour: uint8 (rows, cols, 3).

    An outline runs along the inside of what it encloses, also where that touches the edge of
    the image. Labels are drawn in the mask's order, later ones over earlier ones.

    Args:
      scan: an image or a volume.
      mask: on its grid.
      index: the slice of a volume to show; None for the one with most foreground.
    """
    voxels, planes = scan.voxels, mask.planes
    if voxels.ndim == 3:
        index = fullest_slice(mask) if index is None else index
        voxels, planes = voxels[index], planes[:, index]
    image = np.repeat(_grey(voxels, scan.units)[..., None], 3, axis=-1)
    width = max(1, round(max(voxels.shape) / _PIXELS_A_LINE))
    for label, plane in zip(mask.labels, planes, strict=True):
        image[outline(plane, width)] = labels.LABELS[label].colour_rgb
    return image


def fullest_slice(mask: Mask) -> int:
    """Returns the slice of a volume's mask with most foreground; the middle one if all is empty."""
    areas = mask.planes.sum(axis=(0, 2, 3))
    return int(areas.argmax()) if areas.any() else len(areas) // 2


def outline(plane: np.ndarray, width: int = 1) -> np.ndarray:
    """Returns those pixels of a bool plane that lie within `width` of its outside: bool."""
    framed = np.pad(plane, 1).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inside = cv2.erode(framed, kernel, iterations=width, borderValue=0)
    return plane & (inside[1:-1, 1:-1] == 0)


def _grey(voxels: np.ndarray, units: str) -> np.ndarray:
    """Returns voxels as a screen shows them; this is for the eye, never for a model."""
    if units == "HU":
        low, high = LUNG_WINDOW_HU
    else:
        low, high = np.percentile(voxels, _PERCENTILES)
        if low == high:
            low, high = voxels.min(), voxels.max()
    share = (voxels - low) / max(high - low, 1e-6)
    return np.round(255 * np.clip(share, 0, 1)).astype(np.uint8)
