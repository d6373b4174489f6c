"""TensorProto to array and back, with as few copies as Python allows.

A reply of a million floats must not pass through a million Python objects: the packed
fields of a TensorProto (`float_val`, `double_val`, ...) are the array's own bytes after a
tag and a length, so they are written as such.
"""

import math
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.server import status

# A few bytes can ask for an array of any size by repeating one value; stop at what a
# request could have carried in full.
MAX_TENSOR_BYTES = 2**31 - 1
MAX_RANK = 254

# dtype -> (field of TensorProto that holds its values, field number, dtype on the wire if
# the packed field is the array's own bytes).
_FIELDS: dict[int, tuple[str, int, str | None]] = {
    types_pb2.DT_FLOAT: ("float_val", 5, "<f4"),
    types_pb2.DT_DOUBLE: ("double_val", 6, "<f8"),
    types_pb2.DT_COMPLEX64: ("scomplex_val", 9, "<c8"),
    types_pb2.DT_COMPLEX128: ("dcomplex_val", 12, "<c16"),
    types_pb2.DT_BOOL: ("bool_val", 11, "|b1"),
    types_pb2.DT_INT64: ("int64_val", 10, None),
    types_pb2.DT_UINT32: ("uint32_val", 16, None),
    types_pb2.DT_UINT64: ("uint64_val", 17, None),
    types_pb2.DT_STRING: ("string_val", 8, None),
    types_pb2.DT_HALF: ("half_val", 13, None),
    types_pb2.DT_BFLOAT16: ("half_val", 13, None),
    **dict.fromkeys(
        (
            types_pb2.DT_INT32,
            types_pb2.DT_INT16,
            types_pb2.DT_INT8,
            types_pb2.DT_UINT8,
            types_pb2.DT_UINT16,
            types_pb2.DT_QINT8,
            types_pb2.DT_QUINT8,
            types_pb2.DT_QINT16,
            types_pb2.DT_QUINT16,
            types_pb2.DT_QINT32,
        ),
        ("int_val", 7, None),
    ),
}


class TensorParsingError(ValueError):
    """A TensorProto that is not a tensor."""


def dtype_name(dtype: int) -> str:
    """The dtype as TensorFlow writes it in messages: float, int32, string."""
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower() if dtype else "INVALID"


def dtype_name_of(array: np.ndarray) -> str:
    """The dtype of an array as TensorFlow writes it in messages."""
    if array.dtype == object:
        return "string"
    return dtype_name(tf.dtypes.as_dtype(array.dtype).as_datatype_enum)


def decode(proto: tensor_pb2.TensorProto) -> np.ndarray:
    """The array a TensorProto stands for; the last value of a short list is repeated.

    Returns:
      An array of the proto's shape; object dtype holding bytes for strings. Read-only
      where it is a view of the message.

    Raises:
      TensorParsingError: if dtype, shape and values do not make a tensor.
    """
    if proto.dtype not in _FIELDS:
        raise TensorParsingError(f"dtype {proto.dtype} carries no values")
    shape = _shape(proto)
    count = math.prod(shape)
    dtype = tf.dtypes.as_dtype(proto.dtype).as_numpy_dtype
    if count * np.dtype(dtype).itemsize > MAX_TENSOR_BYTES:
        raise TensorParsingError(f"shape {shape} is larger than a request can carry")
    if proto.tensor_content:
        return _from_content(proto, dtype, count).reshape(shape)
    return _from_field(proto, dtype, count).reshape(shape)


def _shape(proto: tensor_pb2.TensorProto) -> tuple[int, ...]:
    dims = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in dims):
        raise TensorParsingError("the shape is not fully known")
    if len(dims) > MAX_RANK:
        raise TensorParsingError(f"{len(dims)} dimensions; at most {MAX_RANK}")
    return dims


def _from_content(proto: tensor_pb2.TensorProto, dtype: type, count: int) -> np.ndarray:
    content = proto.tensor_content
    if proto.dtype == types_pb2.DT_STRING:
        return _strings_from_content(content, count)
    if len(content) != count * np.dtype(dtype).itemsize:
        raise TensorParsingError(f"{len(content)} bytes for {count} values")
    return np.frombuffer(content, dtype)


def _strings_from_content(content: bytes, count: int) -> np.ndarray:
    """Strings in one piece: all lengths as varints, then all characters."""
    lengths, position = [], 0
    for _ in range(count):
        length, position = _read_varint(content, position)
        lengths.append(length)
    strings = np.empty(count, object)
    for index, length in enumerate(lengths):
        strings[index] = content[position : position + length]
        position += length
    if position != len(content):
        raise TensorParsingError("string lengths do not fill the content")
    return strings


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise TensorParsingError("broken string length")


def _from_field(proto: tensor_pb2.TensorProto, dtype: type, count: int) -> np.ndarray:
    name, _, _ = _FIELDS[proto.dtype]
    field = getattr(proto, name)
    if name == "string_val":
        values = np.empty(len(field), object)
        values[:] = field
    elif name == "half_val":
        values = np.asarray(field, np.int32).astype(np.uint16).view(dtype)
    elif name in ("scomplex_val", "dcomplex_val"):
        part = np.float32 if name == "scomplex_val" else np.float64
        if len(field) % 2:
            raise TensorParsingError("half a complex number")
        values = np.asarray(field, part).view(dtype)
    elif name == "int_val":
        values = np.asarray(field, np.int32).astype(dtype)
    else:
        values = np.fromiter(field, dtype, len(field))
    return _filled(values, count)


def _filled(values: np.ndarray, count: int) -> np.ndarray:
    if len(values) >= count:
        return values[:count]
    if len(values) == 0:
        empty = b"" if values.dtype == object else 0
        return np.full(count, empty, values.dtype)
    return np.concatenate([values, np.full(count - len(values), values[-1], values.dtype)])


def encode(array: np.ndarray, *, as_content: bool) -> bytes:
    """A serialised TensorProto of the array, in its typed field or as tensor_content.

    Raises:
      ServingError: UNIMPLEMENTED if the dtype has no place in a TensorProto.
    """
    return b"".join(encode_parts(array, as_content=as_content))


def encode_parts(array: np.ndarray, *, as_content: bool) -> list[bytes | memoryview]:
    """The pieces of `encode`, so that a large array is copied once, into the reply."""
    array = np.asarray(array)
    dtype = types_pb2.DT_STRING if array.dtype == object else _dtype_number(array)
    if dtype not in _FIELDS:
        raise status.unimplemented(f"Cannot send a tensor of type {dtype_name(dtype)}")
    header = tensor_pb2.TensorProto(dtype=dtype)
    header.tensor_shape.SetInParent()
    for size in array.shape:
        header.tensor_shape.dim.add(size=size)
    return [header.SerializeToString(), *_value_parts(array, dtype, as_content)]


def _dtype_number(array: np.ndarray) -> int:
    return int(tf.dtypes.as_dtype(array.dtype).as_datatype_enum)


def _value_parts(array: np.ndarray, dtype: int, as_content: bool) -> list[bytes | memoryview]:
    name, number, wire_dtype = _FIELDS[dtype]
    if as_content and dtype != types_pb2.DT_STRING:
        return length_delimited(4, [_buffer(array)]) if array.size else []
    if wire_dtype is not None:
        flat = array.astype(wire_dtype, copy=False)
        return length_delimited(number, [_buffer(flat)]) if array.size else []
    values = tensor_pb2.TensorProto()
    flat = array.ravel()
    if name == "half_val":
        flat = flat.view(np.uint16)
    getattr(values, name).extend(_python_values(flat))
    return [values.SerializeToString()]


def _python_values(flat: np.ndarray) -> Iterable[object]:
    if flat.dtype == object:
        return (value if isinstance(value, bytes) else str(value).encode() for value in flat)
    values: list[object] = flat.tolist()
    return values


def _buffer(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def length_delimited(number: int, parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """A protobuf field of wire type 2: tag, length, then the parts."""
    length = sum(len(part) for part in parts)
    return [varint(number << 3 | 2) + varint(length), *parts]


def varint(value: int) -> bytes:
    """A protobuf base-128 integer, for a value that is not negative."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
