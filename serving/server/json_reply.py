"""Arrays to REST reply bodies, to the character as TensorFlow Serving writes them."""

import base64
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from serving.server import json_text, status, tensors

_BYTES_SUFFIX = "_bytes"  # outputs named so hold bytes, not text
_WRITABLE = frozenset("float double string bool int8 int16 int32 int64 uint8 uint32 uint64".split())
_INDENT = "    "


def rows(outputs: Mapping[str, np.ndarray]) -> bytes:
    """`{"predictions": [...]}`: one entry a row, an object where there are several outputs.

    Raises:
      ServingError: if the outputs have no common first dimension or no JSON form.
    """
    size = _batch_size(outputs)
    names = sorted(outputs)
    for name in names:
        _check_writable(outputs[name])
    if len(names) == 1:
        items = ", ".join(_items(outputs[names[0]], _is_bytes(names[0], outputs), level=2))
    else:
        items = _objects(names, outputs)
    closing = f"\n{_INDENT}" if size else ""
    return _utf8(f'{{\n{_INDENT}"predictions": [{items}{closing}]\n}}')


def _objects(names: list[str], outputs: Mapping[str, np.ndarray]) -> str:
    columns = [_items(outputs[name], _is_bytes(name, outputs), level=3) for name in names]
    keys = [json_text.quoted(name) for name in names]
    objects = []
    for values in zip(*columns, strict=True):
        lines = (f"{_INDENT * 3}{key}: {value}" for key, value in zip(keys, values, strict=True))
        objects.append(f"\n{_INDENT * 2}{{\n" + ",\n".join(lines) + f"\n{_INDENT * 2}}}")
    return ",".join(objects)


def columns(outputs: Mapping[str, np.ndarray]) -> bytes:
    """`{"outputs": ...}`: a whole tensor, or an object of them, every value on its line."""
    names = sorted(outputs)
    if not names:
        raise status.invalid("Cannot convert empty tensor map to JSON")
    for name in names:
        _check_writable(outputs[name])
    if len(names) == 1:
        text = _spread(outputs[names[0]], _is_bytes(names[0], outputs), 1)
    else:
        entries = (
            f"{_INDENT * 2}{json_text.quoted(name)}: "
            f"{_spread(outputs[name], _is_bytes(name, outputs), 2)}"
            for name in names
        )
        text = "{\n" + ",\n".join(entries) + f"\n{_INDENT}}}"
    return _utf8(f'{{\n{_INDENT}"outputs": {text}\n}}')


def classifications(results: list[list[tuple[str, float]]]) -> bytes:
    """`{"results": [[[label, score], ...], ...]}`, a list of pairs for each example."""
    if not results:
        raise status.invalid("Cannot convert empty ClassificationResults to JSON")
    lines = []
    for result in results:
        pairs = (
            f"[{json_text.quoted(label)}, {decimals(np.array([score], np.float32))[0]}]"
            for label, score in result
        )
        lines.append("[" + ", ".join(pairs) + "]")
    joined = ", ".join(lines)
    return _utf8(f'{{\n{_INDENT}"results": [{joined}\n{_INDENT}]\n}}')


def regressions(values: Sequence[float]) -> bytes:
    """`{"results": [value, ...]}`, a value for each example."""
    if not len(values):
        raise status.invalid("Cannot convert empty RegressionResults to JSON")
    joined = ", ".join(decimals(np.asarray(values, np.float32)))
    return _utf8(f'{{\n{_INDENT}"results": [{joined}]\n}}')


def _batch_size(outputs: Mapping[str, np.ndarray]) -> int:
    if not outputs:
        raise status.invalid("Cannot convert empty tensor map to JSON")
    size = None
    for name, array in sorted(outputs.items()):
        if array.ndim == 0:
            raise status.invalid(f"Tensor name: {name} has no shape information ")
        if size is not None and len(array) != size:
            raise status.invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {size}"
            )
        size = len(array)
    return size or 0


def _check_writable(array: np.ndarray) -> None:
    name = tensors.dtype_name_of(array)
    if name not in _WRITABLE:
        raise status.invalid(f"Failed to write JSON value for tensor type: {name}")


def _is_bytes(name: str, outputs: Mapping[str, np.ndarray]) -> bool:
    return outputs[name].dtype == object and name.endswith(_BYTES_SUFFIX)


def _items(array: np.ndarray, as_bytes: bool, level: int) -> Iterator[str]:
    """Each row on one line; `level` is how deep it lies in the document."""
    if array.ndim == 1:
        yield from _texts(array, as_bytes, level)
    else:
        for row in array:
            yield _on_one_line(row, as_bytes, level + 1)


def _on_one_line(array: np.ndarray, as_bytes: bool, level: int) -> str:
    if array.ndim == 1:
        return "[" + ", ".join(_texts(array, as_bytes, level)) + "]"
    return "[" + ", ".join(_on_one_line(row, as_bytes, level + 1) for row in array) + "]"


def _spread(array: np.ndarray, as_bytes: bool, level: int) -> str:
    """Every value on a line of its own, indented by its depth."""
    if array.ndim == 0:
        return _texts(array.reshape(1), as_bytes, level)[0]
    if not len(array):
        return "[]"
    before = "\n" + _INDENT * (level + 1)
    if array.ndim == 1:
        texts = _texts(array, as_bytes, level + 1)
    else:
        texts = [_spread(row, as_bytes, level + 1) for row in array]
    return "[" + before + ("," + before).join(texts) + "\n" + _INDENT * level + "]"


def _texts(array: np.ndarray, as_bytes: bool, level: int) -> list[str]:
    """The JSON of each value of a 1-D array."""
    if array.dtype == object:
        return [_string(value, as_bytes, level) for value in array]
    if array.dtype == np.bool_:
        return ["true" if value else "false" for value in array.tolist()]
    if array.dtype.kind == "f":
        return decimals(array)
    return [str(value) for value in array.tolist()]


def _string(value: bytes | str, as_bytes: bool, level: int) -> str:
    raw = value if isinstance(value, bytes) else value.encode()
    if as_bytes:
        inner = f'"b64": "{base64.b64encode(raw).decode()}"'
        return f"{{\n{_INDENT * (level + 1)}{inner}\n{_INDENT * level}}}"
    return json_text.quoted(raw.decode("utf-8", "surrogateescape"))


def decimals(array: np.ndarray) -> list[str]:
    """float32 or float64 values in six significant digits, or in as many as read back equal.

    Whole numbers get `.0`, unless they are in scientific notation.
    """
    longest = 9 if array.dtype == np.float32 else 17
    wide = array.astype(np.float64)
    finite = np.isfinite(wide)
    if not finite.all():
        return [_decimal(value, longest, array.dtype) for value in wide.tolist()]
    if array.dtype == np.float64:
        return [_decimal(value, longest, array.dtype) for value in wide.tolist()]
    six = _reads_back_from_six_digits(wide)
    whole = wide == np.trunc(wide)
    formats = np.where(six, "%.6g", "%.9g").astype(object)
    plain = np.where(six, np.abs(wide) < 1e6, np.abs(wide) < 1e9)
    formats = np.where(whole & plain, formats + ".0", formats)
    return ("\n".join(formats.tolist()) % tuple(wide.tolist())).split("\n") if len(wide) else []


def _reads_back_from_six_digits(wide: np.ndarray) -> np.ndarray:
    """Whether rounding a float32 to six significant digits loses nothing."""
    with np.errstate(all="ignore"):
        magnitude = np.abs(wide)
        exponent = np.floor(np.log10(np.where(magnitude > 0, magnitude, 1.0)))
        scale = 10.0 ** (5 - exponent)
        rounded = np.rint(wide * scale) / scale
        same: np.ndarray = rounded.astype(np.float32) == wide.astype(np.float32)
        return same


def _decimal(value: float, longest: int, dtype: np.dtype) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    text = f"{value:.6g}"
    if dtype.type(float(text)) != dtype.type(value):
        text = f"{value:.{longest}g}"
    return text if "." in text or "e" in text else text + ".0"


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
