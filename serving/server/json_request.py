"""REST request bodies to arrays, in the row ("instances") and column ("inputs") format.

A body is first tried as regular nested lists, level by level in C; only a body that fails
is walked value by value, to say what is wrong with it and where.
"""

import base64
import binascii
import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving.server import json_text, status, tensors
from serving.server.json_numbers import Numbers

Inputs = Mapping[str, meta_graph_pb2.TensorInfo]

_INTEGERS = {
    types_pb2.DT_INT8: (np.int8, 31),
    types_pb2.DT_UINT8: (np.uint8, 31),
    types_pb2.DT_INT16: (np.int16, 31),
    types_pb2.DT_INT32: (np.int32, 31),
    types_pb2.DT_INT64: (np.int64, 63),
}
_UNSIGNED = {types_pb2.DT_UINT32: (np.uint32, 32), types_pb2.DT_UINT64: (np.uint64, 64)}
_FLOATS = {types_pb2.DT_FLOAT: np.float32, types_pb2.DT_DOUBLE: np.float64}
_BASE64 = re.compile(r"[A-Za-z0-9+/]*[=.]{0,2}")
_NOT_WORTH_LISTING = 254  # a tensor has no more dimensions


@dataclasses.dataclass(frozen=True)
class PredictBody:
    """A parsed body of `:predict`."""

    inputs: dict[str, np.ndarray]
    rows: bool  # "instances" was given, and "predictions" is the answer


def document_of(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
      ServingError: if the body is no JSON, or no object.
    """
    document = json_text.parse(body)
    if not isinstance(document, dict):
        raise _wrong(document, "Is not object")
    return document


def signature_name(document: dict[str, Any]) -> str:
    """The body's `signature_name`, empty if there is none.

    Raises:
      ServingError: if it is no string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise _wrong(
            document, "not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def predict_inputs(document: dict, inputs: Inputs, signature: str) -> PredictBody:
    """The arrays in a `:predict` body, for a signature's inputs.

    Raises:
      ServingError: naming the value that does not fit.
    """
    if not inputs:
        raise status.invalid(f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    if "instances" in document and "inputs" in document:
        raise _wrong(
            document,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list | Numbers):
            raise _wrong(document, "Expecting 'instances' to be an list/array")
        if not len(instances):
            raise _wrong(document, "No values in 'instances' array")
        return PredictBody(_rows(instances, inputs), rows=True)
    if "inputs" in document:
        return PredictBody(_columns(document["inputs"], inputs), rows=False)
    raise status.invalid("Missing 'inputs' or 'instances' key")


def is_base64(value: object) -> bool:
    """Whether a value is `{"b64": "..."}`, which stands for bytes."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def from_base64(value: Any) -> bytes:
    """The bytes of `{"b64": "..."}`, which `is_base64` must have found the value to be."""
    text = "".join(value["b64"].split())
    bare = text.rstrip("=.")
    if not _BASE64.fullmatch(text) or len(bare) % 4 == 1:
        raise status.invalid("Unable to base64 decode")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4))
    except binascii.Error as error:
        raise status.invalid("Unable to base64 decode") from error


def _wrong(value: object, complaint: str) -> status.ServingError:
    return status.invalid(f"JSON Value: {json_text.debug(value)} {complaint}")


# Column format.


def _columns(value: object, inputs: Inputs) -> dict[str, np.ndarray]:
    if not isinstance(value, dict) or is_base64(value):
        if len(inputs) > 1:
            raise status.invalid(
                "inputs is a plain value/list, but expecting an object as multiple input "
                "tensors required as per tensorinfo_map"
            )
        ((name, info),) = inputs.items()
        return {name: to_array(value, info.dtype)}
    arrays = {}
    for name, info in sorted(inputs.items()):
        if name not in value:
            raise status.invalid(f"Missing named input: {name} in 'inputs' object.")
        arrays[name] = to_array(value[name], info.dtype)
    return arrays


# Row format.


def _rows(instances: list | Numbers, inputs: Inputs) -> dict[str, np.ndarray]:
    if isinstance(instances, Numbers):
        array = _from_numbers(instances, next(iter(inputs.values())).dtype)
        if array is not None and len(inputs) == 1:
            return dict.fromkeys(inputs, array)
        instances = instances.as_lists()
    if not isinstance(instances[0], dict) and len(inputs) > 1:
        raise status.invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    as_objects = _is_named(instances[0])
    if any(_is_named(instance) != as_objects for instance in instances):
        _check_rows(instances, inputs, as_objects)
    if not as_objects:
        return _plain_rows(instances, inputs)
    names = set(inputs)
    if any(set(instance) != names for instance in instances):
        _check_rows(instances, inputs, as_objects)
    return {name: _named_column(name, instances, inputs) for name in inputs}


def _is_named(instance: object) -> bool:
    return isinstance(instance, dict) and not is_base64(instance)


def _plain_rows(instances: list, inputs: Inputs) -> dict[str, np.ndarray]:
    name = min(inputs)
    array = _regular(instances, inputs[name].dtype)
    if array is None:
        _check_rows(instances, inputs, as_objects=False)
        array = to_array(instances, inputs[name].dtype)
    return {name: array}


def _named_column(name: str, instances: list, inputs: Inputs) -> np.ndarray:
    column = [instance[name] for instance in instances]
    array = _regular(column, inputs[name].dtype)
    if array is None:
        _check_rows(instances, inputs, as_objects=True)
        array = to_array(column, inputs[name].dtype)
    return array


def _check_rows(instances: list, inputs: Inputs, as_objects: bool) -> None:
    """Walks the rows in order and raises what is wrong with the first that does not fit."""
    seen: dict[str, tuple[int, ...]] = {}
    for index, instance in enumerate(instances):
        if as_objects:
            if not _is_named(instance):
                raise status.invalid(f"Expecting object but got list at item {index} of input list")
            _check_named_row(index, instance, inputs, seen)
        elif _is_named(instance):
            raise status.invalid(
                f"Expecting value/list but got object at item {index} of input list"
            )
        else:
            with _row_context(index, None):
                _check_item(instance, min(inputs), inputs, seen)


def _check_named_row(
    index: int, instance: dict, inputs: Inputs, seen: dict[str, tuple[int, ...]]
) -> None:
    for name, value in instance.items():
        with _row_context(index, name):
            _check_item(value, name, inputs, seen)
    if set(instance) != set(inputs):
        raise status.invalid(
            f"Failed to process element: {index} of 'instances' list. JSON object: "
            f"{json_text.debug(instance)} keys must be equal to: {','.join(sorted(inputs))}"
        )


@contextlib.contextmanager
def _row_context(index: int, name: str | None) -> Iterator[None]:
    """Puts the row and key of a value in front of what is wrong with it."""
    where = str(index) if name is None else f"{index} key: {name}"
    try:
        yield
    except status.ServingError as error:
        raise status.invalid(
            f"Failed to process element: {where} of 'instances' list. "
            f"Error: {status.absl_text(error)}"
        ) from error


def _check_item(value: object, name: str, inputs: Inputs, seen: dict[str, tuple[int, ...]]) -> None:
    if name not in inputs:
        raise status.invalid(f"JSON object: does not have named input: {name}")
    shape = to_array(value, inputs[name].dtype).shape
    first = seen.setdefault(name, shape)
    size, first_size = int(np.prod(shape)), int(np.prod(first))
    if size != first_size:
        raise status.invalid(f"Expecting tensor size: {first_size} but got: {size}")
    if shape != first:
        raise status.invalid(f"Expecting shape {_brackets(first)} but got: {_brackets(shape)}")


def _brackets(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(str(size) for size in shape) + "]"


# Values.


def to_array(value: object, dtype: int) -> np.ndarray:
    """A nested list, or a single value, as an array.

    Raises:
      ServingError: naming the first value that does not fit.
    """
    if isinstance(value, Numbers):
        array = _from_numbers(value, dtype)
        if array is not None:
            return array
        value = value.as_lists()
    if not isinstance(value, list):
        flat = [_single(value, dtype)]
        return _packed(flat, dtype).reshape(())
    array = _regular(value, dtype)
    if array is None:
        raise _first_fault(value, dtype)
    return array


def _regular(value: list, dtype: int) -> np.ndarray | None:
    """The array of a nested list of one shape and fitting values; None if it is not one."""
    if any(isinstance(item, Numbers) for item in value):
        return _stacked(value, dtype)
    shape: list[int] = []
    level = value
    while True:
        shape.append(len(level) if not shape else len(level[0]))
        if len(shape) > 1:
            if set(map(len, level)) != {shape[-1]}:
                return None
            level = list(itertools.chain.from_iterable(level))
        if not level or not isinstance(level[0], list):
            break
        if set(map(type, level)) != {list}:
            return None
        if len(shape) >= _NOT_WORTH_LISTING:
            return None
    fits = _FITS.get(dtype)
    if fits is None or (level and not fits(set(map(type, level)))):
        return None
    try:
        return _packed(level, dtype).reshape(shape)
    except (OverflowError, status.ServingError, KeyError):
        return None


def _stacked(rows: list, dtype: int) -> np.ndarray | None:
    """The array of rows that are long arrays of numbers, or lists of such."""
    arrays: list[np.ndarray] = []
    for row in rows:
        array = _from_numbers(row, dtype) if isinstance(row, Numbers) else None
        if array is None and isinstance(row, list):
            array = _regular(row, dtype)
        if array is None or (arrays and array.shape != arrays[0].shape):
            return None
        arrays.append(array)
    return np.stack(arrays)


def _from_numbers(numbers: Numbers, dtype: int) -> np.ndarray | None:
    """The array of a long list of numbers; None if they do not fit the dtype."""
    values = numbers.values
    if dtype in _FLOATS:
        with np.errstate(over="ignore"):
            return values.astype(_FLOATS[dtype]).reshape(numbers.shape)
    if not numbers.integers or dtype not in (*_INTEGERS, *_UNSIGNED):
        return None
    low, high = _range(dtype)
    if not low <= int(values.min()) <= int(values.max()) <= high:
        return None
    return values.astype((_INTEGERS | _UNSIGNED)[dtype][0]).reshape(numbers.shape)


_FITS: dict[int, Callable[[set[type]], bool]] = {
    **dict.fromkeys(_FLOATS, lambda types: types <= {int, float}),
    **dict.fromkeys((*_INTEGERS, *_UNSIGNED), lambda types: types == {int}),
    types_pb2.DT_BOOL: lambda types: types == {bool},
    types_pb2.DT_STRING: lambda types: types <= {str, dict},
}


def _packed(flat: list, dtype: int) -> np.ndarray:
    """Values of one type in an array; OverflowError for an integer that does not fit."""
    if dtype in _FLOATS:
        with np.errstate(over="ignore"):
            return np.array(flat, np.float64).astype(_FLOATS[dtype])
    if dtype == types_pb2.DT_BOOL:
        return np.array(flat, np.bool_)
    if dtype == types_pb2.DT_STRING:
        strings = np.empty(len(flat), object)
        strings[:] = [_bytes(value) for value in flat]
        return strings
    return _packed_integers(flat, dtype)


def _packed_integers(flat: list, dtype: int) -> np.ndarray:
    low, high = _range(dtype)
    if flat and not (low <= min(flat) and max(flat) <= high):
        raise OverflowError(f"not in {low}..{high}")
    wide = np.uint64 if dtype in _UNSIGNED else np.int64
    return np.array(flat, wide).astype((_INTEGERS | _UNSIGNED)[dtype][0])


def _range(dtype: int) -> tuple[int, int]:
    """The integers that JSON may give for a dtype; small types are cut to size afterwards."""
    if dtype in _UNSIGNED:
        return 0, 2 ** _UNSIGNED[dtype][1] - 1
    bits = _INTEGERS[dtype][1]
    return -(2**bits), 2**bits - 1


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not is_base64(value):
        raise _wrong(value, "not formatted correctly for base64 data")
    return from_base64(value)


def _single(value: object, dtype: int) -> object:
    """A value that is no list, if it fits the dtype."""
    if isinstance(value, dict):
        if dtype != types_pb2.DT_STRING:
            raise _type_error(value, dtype)
        _bytes(value)
        return value
    fits = _FITS.get(dtype)
    if fits is None:
        raise status.unimplemented(
            f"Conversion of JSON Value: {json_text.debug(value)} to type: "
            f"{tensors.dtype_name(dtype)}"
        )
    if not fits({type(value)}):
        raise _type_error(value, dtype)
    try:
        _packed([value], dtype)
    except OverflowError as error:
        raise _type_error(value, dtype) from error
    return value


def _type_error(value: object, dtype: int) -> status.ServingError:
    return status.invalid(
        f"JSON Value: {json_text.debug(value)} Type: {json_text.type_name(value)} "
        f"is not of expected type: {tensors.dtype_name(dtype)}"
    )


def _first_fault(value: list, dtype: int) -> status.ServingError:
    """What is wrong with a nested list that is no array."""
    value = [_plain(item) for item in value]
    shape: list[int] = []
    first: object = value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    if len(shape) > tensors.MAX_RANK:
        return status.invalid(f"{len(shape)} levels of lists; a tensor has at most 254 dimensions")
    try:
        _walk(value, 0, shape, dtype)
    except status.ServingError as error:
        return error
    return status.invalid(f"JSON Value: {json_text.debug(value)} is not a tensor")


def _plain(value: object) -> object:
    """A value with lists in the place of long arrays of numbers."""
    if isinstance(value, Numbers):
        return value.as_lists()
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _walk(value: object, level: int, shape: list[int], dtype: int) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise status.invalid(
                f"JSON Value: {json_text.debug(value)} found at incorrect level: {level + 1} "
                f"in the JSON DOM. Expected at level: {len(shape)}"
            )
        _single(value, dtype)
        return
    if level >= len(shape):
        raise status.invalid(
            f"Encountered list at unexpected level: {level} expected < {len(shape)}"
        )
    if len(value) != shape[level]:
        raise status.invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    for item in value:
        _walk(item, level + 1, shape, dtype)
