"""Looks at scans and masks for what goes wrong between a scanner and a network.

`refuse` and `refuse_unlike_hu` stand at the border: what they find makes every result
meaningless, so reading stops. `examine` tells what deserves a look, for `data_pipeline.check`
and for whoever serves a model.
"""

import dataclasses

import cv2
import numpy as np
from scipy import ndimage

from data_pipeline.errors import InputError
from data_pipeline.scan import Mask, Scan

# In every CT of a chest, however cropped or padded, some voxels are below -300 HU (air, lung)
# and some above (vessels, soft tissue).
_LUNG_BELOW_HU = -300.0
_LEAST_SHARE = 0.001

# Where air and lung come to lie if -1024 is added a second time. Padding around the field of
# view lies there too, but all of it at one value.
_TWICE_HU = (-1990.0, -1500.0)
_TWICE_SHARE = 0.05


def refuse(scan: Scan) -> None:
    """Refuses a scan from which nothing can be outlined.

    Raises:
      InputError: if voxels are not numbers, or all are the same.
    """
    low, high = float(scan.voxels.min()), float(scan.voxels.max())
    if not np.isfinite([low, high]).all():
        raise InputError(f"{scan.source} holds values that are no numbers (NaN or infinity)")
    if low == high:
        raise InputError(f"{scan.source} is constant: every value is {low:g}")


def refuse_unlike_hu(values: np.ndarray, source: str, *, told: bool) -> None:
    """Refuses a CT volume whose values cannot be HU.

    Args:
      values: of the whole volume.
      source: the file, for the message.
      told: whether the user said how to come to HU.

    Raises:
      InputError: saying what the values look like and what to give.
    """
    problem = unlike_hu(values)
    if problem is None:
        return
    raise InputError(
        f"{source}: its values are not HU: {problem}"
        + (" (after the rescale_slope and rescale_intercept given)" if told else "")
    )


def unlike_hu(values: np.ndarray) -> str | None:
    """Returns why the values of a CT cannot be HU; None if they can."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        return None  # which `refuse` tells
    if low >= 0 and high <= 1:
        return "they lie between 0 and 1, as after normalising; give the slope and intercept of it"
    if low >= 0 and high <= 255:
        return (
            "they lie between 0 and 255, as in a picture of a window; if that was, for example, "
            "-1250 to 250 HU, give rescale_slope 5.882 and rescale_intercept -1250"
        )
    lung = float(np.mean(values < _LUNG_BELOW_HU))
    if lung < _LEAST_SHARE:
        return (
            f"none of them, {low:g} to {high:g}, is that of air or lung; if the file stores "
            "HU + 1024, give rescale_intercept -1024"
        )
    low_values = values[(values > _TWICE_HU[0]) & (values < _TWICE_HU[1])]
    padding = np.unique(low_values, return_counts=True)[1].max(initial=0)
    twice = (low_values.size - padding) / values.size
    if twice > _TWICE_SHARE:
        return (
            f"{twice:.0%} of them lie between {_TWICE_HU[0]:g} and {_TWICE_HU[1]:g}, where an "
            "intercept of -1024 that was applied twice puts lung"
        )
    return None


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something about a case that deserves a look, or that makes it unfit."""

    severity: str  # "error": unfit to train on or to be served; "warning": look at it
    code: str  # one word a kind, for counting
    message: str


# X-rays are looked at on a grid so coarse that devices, letters and noise do not matter.
_GRID = 64
_MIDDLE = slice(16, 56), slice(24, 40)  # spine, heart and vessels
_SIDES = ((slice(16, 48), slice(8, 24)), (slice(16, 48), slice(40, 56)))  # the lungs

# Measured on 1,177 X-rays of four sources: in none are the sides brighter than the middle (in
# 99.7 % they are darker by more than 0.05), so in a negative the difference is this clear.
_NEGATIVE = 0.05

# Measured on the same, and on 430 CT slices that show air around the body: the share of dark
# cells, and of dark cells along the edge, are both exceeded by 2 of 1,177 X-rays and by 81 %
# of those slices.
_DARK = 0.08
_DARK_EVERYWHERE = 0.18
_DARK_AT_THE_EDGE = 0.75

_HU_OF_LUNG_MASK = -300.0  # its median is above this only if it does not lie on lung
_BODY_HU = -500.0
_OUTSIDE_BODY_SHARE = 0.2
_OUTSIDE_LUNG_SHARE = 0.5
_COVERS_SHARE = 0.9
_BODY_SLICES = 24  # of a volume are enough to tell a body from the air around it


def examine(scan: Scan, mask: Mask | None = None) -> list[Finding]:
    """Returns what is odd about a scan and, if there is one, its mask.

    What is measured in stored values is a matter of experience, so it makes a warning; what
    contradicts HU makes an error.

    Args:
      scan: as read.
      mask: on its grid.
    """
    found = _of_ct(scan) if scan.modality == "CT" else _of_xray(scan)
    if mask is not None:
        found += [finding for label in mask.labels for finding in _of_plane(scan, mask, label)]
        found += _infection_in_lung(mask)
    return found


def _of_ct(scan: Scan) -> list[Finding]:
    if scan.units == "HU":
        problem = unlike_hu(scan.voxels)
        return [Finding("error", "not_hu", f"its values are not HU: {problem}")] if problem else []
    if scan.voxels.max() > 255:
        message = "16-bit values of unknown meaning; give rescale_slope and rescale_intercept"
        return [Finding("warning", "unknown_units", message)]
    return []


def _of_xray(scan: Scan) -> list[Finding]:
    found = []
    if scan.voxels.min() <= -500:
        message = f"values down to {scan.voxels.min():g}, as HU have: a CT sent as an X-ray?"
        found.append(Finding("error", "ct_as_xray", message))
    cells = _cells(scan.voxels)
    lungs = np.concatenate([cells[side].ravel() for side in _SIDES])
    if lungs.mean() - cells[_MIDDLE].mean() > _NEGATIVE:
        message = "lungs are brighter than the spine: a negative, MONOCHROME1 taken for 2?"
        found.append(Finding("warning", "negative", message))
    edge = np.concatenate([cells[0], cells[-1], cells[:, 0], cells[:, -1]])
    if np.mean(cells < _DARK) > _DARK_EVERYWHERE and np.mean(edge < _DARK) > _DARK_AT_THE_EDGE:
        message = "a body surrounded by black, as in a CT slice: a CT sent as an X-ray?"
        found.append(Finding("warning", "ct_as_xray", message))
    return found


def _cells(image: np.ndarray) -> np.ndarray:
    cells = cv2.resize(image, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    low, high = np.percentile(cells, (1, 99))
    return np.asarray(np.clip((cells - low) / max(high - low, 1e-6), 0, 1))


def _of_plane(scan: Scan, mask: Mask, label: str) -> list[Finding]:
    plane = mask.plane(label)
    if plane is None:
        return []
    share = float(plane.mean())
    if share == 0:
        # Nothing infected is a finding of its own; a chest without lung is not.
        return [Finding("warning", "empty", f"{label} mask is empty")] if label == "lung" else []
    found = []
    if share > _COVERS_SHARE:
        message = f"{label} mask covers {share:.0%} of the image: background and it swapped?"
        found.append(Finding("error", "covers_all", message))
    if scan.units == "HU":
        found += _of_plane_on_hu(scan, plane, label)
    elif label == "lung" and scan.modality == "XR" and _brighter_than_around(scan.voxels, plane):
        message = "lung mask is brighter than what lies between: a negative, or another's mask?"
        found.append(Finding("warning", "off_lung", message))
    return found


def _of_plane_on_hu(scan: Scan, plane: np.ndarray, label: str) -> list[Finding]:
    found = []
    if label == "lung":
        median = float(np.median(scan.voxels[plane]))
        if median > _HU_OF_LUNG_MASK:
            message = f"lung mask lies on a median of {median:.0f} HU: shifted or mirrored?"
            found.append(Finding("warning", "off_lung", message))
    outside = _share_outside_body(scan.voxels, plane)
    if outside > _OUTSIDE_BODY_SHARE:
        message = f"{outside:.0%} of the {label} mask lies outside the body"
        found.append(Finding("error", "outside_body", message))
    return found


def _share_outside_body(hu: np.ndarray, plane: np.ndarray) -> float:
    slices = hu if hu.ndim == 3 else hu[None]
    planes = plane if plane.ndim == 3 else plane[None]
    marked = np.flatnonzero(planes.any(axis=(1, 2)))
    chosen = marked[:: max(1, len(marked) // _BODY_SLICES)]
    outside = sum(int(np.sum(planes[i] & ~_body(slices[i]))) for i in chosen)
    return outside / int(planes[chosen].sum())


def _body(hu: np.ndarray) -> np.ndarray:
    """Returns the largest piece of an axial slice that is no air, with what it encloses."""
    # Lungs that a cropped slice cuts open are enclosed all the same.
    framed = np.pad(hu > _BODY_HU, 1, constant_values=False)
    pieces, count = ndimage.label(framed)
    if count == 0:
        return np.zeros(hu.shape, np.bool_)
    sizes = np.bincount(pieces.ravel())[1:]
    body: np.ndarray = ndimage.binary_fill_holes(pieces == 1 + sizes.argmax())[1:-1, 1:-1]
    return body


def _brighter_than_around(image: np.ndarray, plane: np.ndarray) -> bool:
    """Whether a lung mask is clearly brighter than the rest of the box around it."""
    rows, cols = (np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
    inside, around = image[box][plane[box]], image[box][~plane[box]]
    low, high = np.percentile(image, (1, 99))
    return around.size > 0 and float(inside.mean() - around.mean()) > _NEGATIVE * float(high - low)


def _infection_in_lung(mask: Mask) -> list[Finding]:
    lung, infection = mask.plane("lung"), mask.plane("infection")
    if lung is None or infection is None or not infection.any():
        return []
    outside = float(np.mean(~lung[infection]))
    if outside <= _OUTSIDE_LUNG_SHARE:
        return []
    message = f"{outside:.0%} of the infection mask lies outside the lung mask"
    return [Finding("warning", "outside_lung", message)]
