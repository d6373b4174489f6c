"""From the stored pixels of a DICOM X-ray to the values that a display is sent.

The order is that of PS3.4 N.2: Modality LUT or rescale, VOI LUT or window, then inversion of
MONOCHROME1, so that more is always brighter. These P-Values are what a PNG or JPEG made from
an X-ray holds, which is what networks are mostly trained on, so they are what a DICOM X-ray's
"stored values" mean in this project. Where a header offers several VOI LUTs or windows, the
first is taken; where it offers both, the LUT.
"""

import numpy as np
import pydicom

from data_pipeline.errors import InputError

Range = tuple[float, float]  # the lowest and highest value that can occur


def p_values(pixels: np.ndarray, dataset: pydicom.Dataset, name: str) -> np.ndarray:
    """Returns what a display is sent for grey pixels: float64 of the same shape.

    Padding becomes the darkest value of the image.

    Args:
      pixels: as decoded, whole numbers (rows, cols).
      dataset: the header that they came with.
      name: of the file, for messages.

    Raises:
      InputError: if the header asks for something impossible or contradicts itself.
    """
    inverse = dataset.get("PresentationLUTShape") == "INVERSE"
    monochrome1 = dataset.PhotometricInterpretation == "MONOCHROME1"
    if inverse and not monochrome1:
        raise InputError(
            f"{name} says MONOCHROME2 (more is brighter) and PresentationLUTShape INVERSE "
            "(more is darker); which one holds is unknown"
        )
    values, extremes = _modality(pixels.astype(np.float64), dataset, name)
    values, extremes = _voi(values, extremes, dataset, name)
    if monochrome1:
        values = extremes[0] + extremes[1] - values
    padded = is_padding(pixels, dataset)
    if padded.any() and not padded.all():
        values[padded] = values[~padded].min()
    return values


def is_padding(pixels: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Returns where pixels are padding, which is no part of the image (PS3.3 C.7.5.1.1.2)."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(pixels.shape, np.bool_)
    last = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted(_signed(int(v), dataset) for v in (first, first if last is None else last))
    return (pixels >= low) & (pixels <= high)


def _signed(value: int, dataset: pydicom.Dataset) -> int:
    """Undoes the unsigned encoding of a signed value, which scanners write."""
    bits = dataset.BitsAllocated
    return value - 2**bits if dataset.PixelRepresentation and value >= 2 ** (bits - 1) else value


def _stored_range(dataset: pydicom.Dataset) -> Range:
    count = 2.0**dataset.BitsStored
    return (-count / 2, count / 2 - 1) if dataset.PixelRepresentation else (0.0, count - 1)


def _modality(values: np.ndarray, dataset: pydicom.Dataset, name: str) -> tuple[np.ndarray, Range]:
    """Applies the Modality LUT, or else the rescale (PS3.3 C.11.1)."""
    extremes = _stored_range(dataset)
    if dataset.get("ModalityLUTSequence"):
        return _look_up(values, extremes, dataset.ModalityLUTSequence[0], dataset, name)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return values, extremes
    slope, intercept = float(slope), float(intercept)
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise InputError(f"{name} has RescaleSlope {slope} and RescaleIntercept {intercept}")
    low, high = sorted(slope * limit + intercept for limit in extremes)
    return slope * values + intercept, (low, high)


def _voi(
    values: np.ndarray, extremes: Range, dataset: pydicom.Dataset, name: str
) -> tuple[np.ndarray, Range]:
    """Applies the first VOI LUT, or else the first window (PS3.3 C.11.2)."""
    if dataset.get("VOILUTSequence"):
        return _look_up(values, extremes, dataset.VOILUTSequence[0], dataset, name)
    centre, width = (_first(dataset.get(k)) for k in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None:
        return values, extremes
    function = dataset.get("VOILUTFunction") or "LINEAR"
    shares = _window(values, centre, width, function, name)
    return extremes[0] + (extremes[1] - extremes[0]) * shares, extremes


def _first(value: object) -> float | None:
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if value else None
    return None if value in (None, "") else float(value)  # type: ignore[arg-type]


def _window(
    values: np.ndarray, centre: float, width: float, function: str, name: str
) -> np.ndarray:
    """Returns the share of the output range for each value (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if (
        not np.isfinite([centre, width]).all()
        or width <= 0
        or (function, width < 1)
        == (
            "LINEAR",
            True,
        )
    ):
        raise InputError(f"{name} has a window of centre {centre}, width {width}, for {function}")
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise InputError(f"{name} has the unknown VOILUTFunction {function[:16]!r}")
    if width == 0:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0.0, 1.0)


def _look_up(
    values: np.ndarray,
    extremes: Range,
    item: pydicom.Dataset,
    dataset: pydicom.Dataset,
    name: str,
) -> tuple[np.ndarray, Range]:
    """Maps values through a LUT; those beyond its ends to its first or last entry."""
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count or 2**16  # 16 bits cannot say 65536, so 0 does
    # The first value mapped is encoded like the pixels; some files say it unsigned.
    first = first - 2**16 if first >= 2**15 and extremes[0] < 0 else first
    table = _table(item, dataset)
    if len(table) != count or not 1 <= bits <= 16:
        raise InputError(
            f"{name} has a look-up table of {len(table)} entries of {bits} bits; "
            f"its descriptor says {count}"
        )
    index = np.clip(np.rint(values) - first, 0, count - 1).astype(np.int64)
    return table[index], (0.0, 2.0**bits - 1)


def _table(item: pydicom.Dataset, dataset: pydicom.Dataset) -> np.ndarray:
    entries = item.LUTData
    if isinstance(entries, bytes):  # VR OW
        little_endian = dataset.file_meta.TransferSyntaxUID.is_little_endian
        entries = np.frombuffer(entries, "<u2" if little_endian else ">u2")
    return np.atleast_1d(np.asarray(entries, np.float64))
