"""Looks at scans and masks for what goes wrong between a scanner and a network.

`refuse` and `refuse_unlike_hu` stand at the border: what they find makes every result
meaningless, so reading stops. `examine` tells what deserves a look, for `data_pipeline.check`
and for whoever serves a model.
"""

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.scan import Scan

# In every CT of a chest, however cropped or padded, some voxels are below -300 HU (air, lung)
# and some above (vessels, soft tissue).
_LUNG_BELOW_HU = -300.0
_LEAST_SHARE = 0.001

# Where air and lung come to lie if -1024 is added a second time. Padding, at one value outside
# the field of view (-2000, -2048, -3024), lies below.
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
    twice = float(np.mean((values > _TWICE_HU[0]) & (values < _TWICE_HU[1])))
    if twice > _TWICE_SHARE:
        return (
            f"{twice:.0%} of them lie between {_TWICE_HU[0]:g} and {_TWICE_HU[1]:g}, where an "
            "intercept of -1024 that was applied twice puts lung"
        )
    return None
