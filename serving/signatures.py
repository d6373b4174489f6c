"""The functions that an exported model serves, in TensorFlow ops only.

`serving_default` takes voxels as stored or in HU and gives probabilities. `encoded` takes the
bytes of PNG or JPEG files and gives masks on their own grids, by the whole-number arithmetic of
data_pipeline.raster and data_pipeline.geometry, so that both ways end in the same bits. `masks`
is `encoded` without the probabilities, which are a megabyte of JSON. `spec` tells a client what
the model takes.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow.experimental.numpy as tnp

from data_pipeline import geometry
from data_pipeline.spec import InputSpec
from serving.encoded import LARGEST_PNG_CHANNELS, takes_files

_LUMA_RGB = (299, 587, 114)  # thousandths, as in data_pipeline.raster
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_GREY = 0  # colour type in the IHDR chunk of a PNG
_PNG_HEADER = 33  # bytes: the signature and the IHDR chunk

# Of what data_pipeline.raster refuses, that which a decoder would pass over in silence: an EXIF
# orientation other than upright, and the frame count of an animation.
_BEFORE_PIXELS = 65536  # bytes; where these stand
_NOT_AS_SHOWN = (
    r"\C*((Exif\x00\x00|eXIf)"
    r"(MM\C*\x01\x12\x00\x03\x00\x00\x00\x01\x00[\x02-\x08]"
    r"|II\C*\x12\x01\x03\x00\x01\x00\x00\x00[\x02-\x08]\x00)"
    r"|\x00\x00\x00\x08acTL)\C*"
)


class Served(tf.Module):
    """What is saved: the functions, their weights among their constants."""

    def __init__(self, forward: Callable[[tf.Tensor], tf.Tensor], spec: InputSpec) -> None:
        """Takes a network.

        Args:
          forward: from voxels (1, *shape, channels) in spec.units to probabilities.
          spec: what the network takes and gives.
        """
        super().__init__(name="served")
        self._forward = forward
        self._spec = spec
        self._told = spec.to_json()

    def functions(self) -> dict[str, Any]:
        """Returns the signatures by name."""
        functions = {"serving_default": _graph(self._predict, _voxels(self._spec))}
        if takes_files(self._spec):
            functions["encoded"] = _graph(self._segment, _strings("image_bytes"))
            functions["masks"] = _graph(self._masks, _strings("image_bytes"))
        return functions | {"spec": _graph(self._tell, _strings("query"))}

    def _predict(self, voxels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": self._guarded(voxels)}

    def _guarded(self, voxels: tf.Tensor) -> tf.Tensor:
        # A server does not check shapes against the signature, and a convolution that is given
        # another rank takes the whole process down (tensorflow/tensorflow#112555).
        voxels = tf.ensure_shape(voxels, _voxels(self._spec).shape)
        # Each row on its own: kernels round differently for larger batches, and a server that
        # batches must not change a mask. On a CPU this costs nothing.
        return tf.map_fn(
            lambda row: self._forward(row[None])[0],
            voxels,
            fn_output_signature=tf.TensorSpec(
                (*self._spec.shape, len(self._spec.labels)), tf.float32
            ),
        )

    def _segment(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        frames, grids = tf.map_fn(
            self._framed,
            tf.ensure_shape(image_bytes, (None,)),
            fn_output_signature=(
                tf.TensorSpec(self._spec.shape, tf.float32),
                tf.TensorSpec((2,), tf.int32),
            ),
        )
        probabilities = self._guarded(frames[..., None])
        files = tf.map_fn(
            lambda one: self._png(*one),
            (probabilities, grids),
            fn_output_signature=tf.TensorSpec((), tf.string),
        )
        return {"probabilities": probabilities, "mask_bytes": files}

    def _masks(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"mask_bytes": self._segment(image_bytes)["mask_bytes"]}

    def _framed(self, image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.cast(decode(image_bytes), tf.float64)
        grid = tf.shape(image)
        extent, offset = _letterbox(grid, self._spec.shape)
        margins = tf.stack([offset, tf.constant(self._spec.shape) - offset - extent], axis=1)
        frame = tf.pad(_resample(image, extent), margins, constant_values=tf.reduce_min(image))
        return tf.ensure_shape(tf.cast(frame, tf.float32), self._spec.shape), grid

    def _png(self, probabilities: tf.Tensor, grid: tf.Tensor) -> tf.Tensor:
        extent, offset = _letterbox(grid, self._spec.shape)
        planes = []
        for index, threshold in enumerate(self._spec.above):
            inside = tf.slice(probabilities[..., index], offset, extent)
            whole = tf.round(tf.cast(inside, tf.float64) * geometry.PROBABILITY_ONE)
            on_grid = tf.cast(_resample(whole, grid) / geometry.PROBABILITY_ONE, tf.float32)
            planes.append(tf.cast(on_grid > threshold, tf.uint8) * tf.uint8.max)
        if len(planes) > 1:
            blank = tf.zeros_like(planes[0])
            planes += [blank] * (LARGEST_PNG_CHANNELS - len(planes))
        return tf.io.encode_png(tf.stack(planes, axis=-1))

    def _tell(self, query: tf.Tensor) -> dict[str, tf.Tensor]:
        # One answer a row of the query, because a server that batches needs equal counts.
        rows = tf.shape(tf.ensure_shape(query, (None,)))
        return {"spec": tf.fill(rows, self._told)}


def _graph(function: Callable[..., Any], argument: tf.TensorSpec) -> Any:
    return tf.function(function, input_signature=[argument])


def _voxels(spec: InputSpec) -> tf.TensorSpec:
    return tf.TensorSpec((None, *spec.shape, spec.channels), tf.float32, "voxels")


def _strings(name: str) -> tf.TensorSpec:
    return tf.TensorSpec((None,), tf.string, name)


def decode(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the grey values of a PNG or JPEG file: int32 (rows, cols), as raster.read does."""
    whole_header = tf.strings.length(image_bytes) >= _PNG_HEADER
    is_png = (tf.strings.substr(image_bytes, 0, len(_PNG)) == _PNG) & whole_header
    is_jpeg = tf.strings.substr(image_bytes, 0, len(_JPEG)) == _JPEG
    start = tf.strings.substr(image_bytes, 0, _BEFORE_PIXELS)
    as_shown = ~tf.strings.regex_full_match(start, _NOT_AS_SHOWN)
    with tf.control_dependencies(
        [
            tf.debugging.Assert(is_png | is_jpeg, ["image_bytes holds neither a PNG nor a JPEG"]),
            tf.debugging.Assert(as_shown, ["image_bytes holds a turned or an animated image"]),
        ]
    ):
        colour = tf.cond(is_png, lambda: _png_colour(image_bytes), lambda: _jpeg(image_bytes))
    return (tf.reduce_sum(colour * tf.constant(_LUMA_RGB), axis=-1) + 500) // 1000


def _jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    channels = tf.io.extract_jpeg_shape(image_bytes)[2]
    # Decoders differ in how they turn CMYK into colour.
    known = tf.debugging.Assert(channels < 4, ["image_bytes holds a CMYK JPEG"])
    with tf.control_dependencies([known]):
        # The accurate transform gives what libjpeg gives to everyone else; the default does not.
        image = tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.cast(image, tf.int32)


def _png_colour(image_bytes: tf.Tensor) -> tf.Tensor:
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(image_bytes, 24, 2), tf.uint8), tf.int32)
    depth, colour_type = header[0], header[1]
    image = tf.cond(
        depth == 16,
        lambda: tf.cast(tf.io.decode_png(image_bytes, channels=4, dtype=tf.uint16), tf.int32),
        lambda: tf.cast(tf.io.decode_png(image_bytes, channels=4), tf.int32),
    )
    alpha = image[..., 3]
    lowest, opaque = tf.reduce_min(alpha), tf.where(depth == 16, 65535, 255)
    # Below 8 bits a file without transparency is given an alpha that is not 255 but constant.
    filled = (depth < 8) & (lowest == tf.reduce_max(alpha))
    fine = (colour_type == _GREY) | (lowest == opaque) | filled
    with tf.control_dependencies(
        [tf.debugging.Assert(fine, ["image_bytes holds transparent pixels, of unknown value"])]
    ):
        return tf.identity(image[..., :3])


def _letterbox(grid: tf.Tensor, frame: tuple[int, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns extent and offset of geometry.letterbox for a grid known in the graph only."""
    sides, limit = tf.cast(grid, tf.float64), tf.constant(frame)
    scale = tf.reduce_min(tf.cast(limit, tf.float64) / sides)
    extent = tf.clip_by_value(tf.cast(tf.floor(sides * scale + 0.5), tf.int32), 1, limit)
    return extent, (limit - extent) // 2


def _resample(plane: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Does what geometry.resample does to a float64 plane (rows, cols)."""
    rows = _weights(tf.shape(plane)[0], shape[0])
    cols = _weights(tf.shape(plane)[1], shape[1])
    return tf.matmul(tf.matmul(rows, plane), cols, transpose_b=True)


def _weights(pixels_in: tf.Tensor, pixels_out: tf.Tensor) -> tf.Tensor:
    weights = geometry.axis_weights(_pixels(pixels_in), _pixels(pixels_out), tnp)
    return tf.convert_to_tensor(weights)


def _pixels(count: tf.Tensor) -> tf.Tensor:
    return tf.range(tf.cast(count, tf.float64), dtype=tf.float64)
