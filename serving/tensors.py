"""NumPy arrays as TensorProto, and back: the typed fields and the raw bytes."""

import math
from typing import Any

import numpy as np
from google.protobuf import message

from serving import messages

_BYTES: np.dtype[Any] = np.dtype(object)

# tensorflow/core/framework/types.proto: number -> NumPy's type and the field of typed values.
_TYPES: dict[int, tuple[np.dtype[Any], str]] = {
    1: (np.dtype("<f4"), "float_val"),
    2: (np.dtype("<f8"), "double_val"),
    3: (np.dtype("<i4"), "int_val"),
    4: (np.dtype("u1"), "int_val"),
    5: (np.dtype("<i2"), "int_val"),
    6: (np.dtype("i1"), "int_val"),
    7: (_BYTES, "string_val"),
    9: (np.dtype("<i8"), "int64_val"),
    10: (np.dtype("?"), "bool_val"),
    17: (np.dtype("<u2"), "int_val"),
    19: (np.dtype("<f2"), "half_val"),
    22: (np.dtype("<u4"), "uint32_val"),
    23: (np.dtype("<u8"), "uint64_val"),
}
_NUMBERS = {dtype: number for number, (dtype, _) in _TYPES.items()}


def encode(array: np.ndarray) -> Any:
    """Returns a TensorProto; an array of dtype object is taken as one of bytes.

    Raises:
      ValueError: if TensorFlow has no such type.
    """
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _NUMBERS:
        raise ValueError(
            f"no tensor type for {array.dtype}; known: {[str(known) for known in _NUMBERS]}"
        )
    tensor = messages.TensorProto(dtype=_NUMBERS[dtype])
    for side in array.shape:
        tensor.tensor_shape.dim.add(size=side)
    if dtype == _BYTES:
        tensor.string_val.extend(array.ravel().tolist())
    else:
        # Raw bytes: for a 512 x 512 image a thousand times faster than one float at a time.
        tensor.tensor_content = np.ascontiguousarray(array, dtype).tobytes()
    return tensor


def decode(tensor: Any) -> np.ndarray:
    """Returns the array of a TensorProto; strings as bytes in an array of dtype object.

    Fewer typed values than the shape asks for mean that the last one is repeated.

    Raises:
      ValueError: if the type is unknown or the values do not fill the shape.
    """
    if tensor.dtype not in _TYPES:
        raise ValueError(f"tensor of type {tensor.dtype}, which is not one of {list(_TYPES)}")
    dtype, field = _TYPES[tensor.dtype]
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values = getattr(tensor, field)
    if field == "half_val":
        flat = np.array(values, np.uint16).view(dtype)
    else:
        flat = np.array(values, dtype)
    size = int(np.prod(shape))
    if len(flat) < size:
        # tensor.proto: the last value stands for all that follow; no value at all for zeros.
        last = flat[-1:] if len(flat) else np.array([b""] if dtype == _BYTES else [0], dtype)
        flat = np.concatenate([flat, np.repeat(last, size - len(flat))])
    return flat.reshape(shape)


def decode_reply(raw: bytes) -> tuple[dict[str, np.ndarray], int]:
    """Returns the outputs of a serialised PredictResponse by name, and the version that answered.

    Floats are taken as the bytes that they are on the wire, since a mask's 65,536 probabilities
    one by one take milliseconds; where that does not fit, the reply is parsed by the letter.

    Raises:
      ValueError: if it is not a PredictResponse, or a tensor in it is none.
    """
    try:
        reply = messages.PackedResponse.FromString(raw)
        found = {name: _unpacked(tensor) for name, tensor in reply.outputs.items()}
        named = {name: array for name, array in found.items() if array is not None}
        if len(named) < len(found):
            reply = messages.PredictResponse.FromString(raw)
            named = {name: decode(tensor) for name, tensor in reply.outputs.items()}
    except message.DecodeError as error:
        raise ValueError(f"what is no PredictResponse: {error}") from error
    return named, reply.model_spec.version.value


def _unpacked(tensor: Any) -> np.ndarray | None:
    """Returns the array of a PackedTensor; None if it has to be parsed by the letter."""
    dtype, field = _TYPES.get(tensor.dtype, (_BYTES, ""))
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if field == "string_val":
        flat = np.array(list(tensor.string_val), object)
    elif field in ("float_val", "double_val"):
        content = tensor.tensor_content or getattr(tensor, field)
        if len(content) % dtype.itemsize:
            return None
        flat = np.frombuffer(content, dtype)
    else:
        return None
    return flat.reshape(shape) if len(flat) == math.prod(shape) else None
