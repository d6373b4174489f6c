"""X-rays decoded inside the graph of tf.data, from here or from object storage.

For pipelines of one's own in the tensorflow-io lane. data_pipeline.read stays the authority:
what is decoded in the graph is equal to what it reads, or refused. TIFF is refused by its header;
tensorflow-io's DICOM decoder, which is wrong for signed and rescaled values and slow, has to
agree with the reader on every pixel of every file (measured: docs/speed.md).
"""

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_io as tfio  # type: ignore[import-not-found]

from data_pipeline import dicom, raster
from data_pipeline.errors import InputError


def tiff(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a TIFF of up to 8 bits a channel: float32 (rows, cols), as raster.read has it.

    Fails with InvalidArgumentError on what raster.read refuses, and on more bits, of which
    tensorflow-io's decoder keeps 8.

    Args:
      encoded: the file, a string scalar.
    """
    checked = tf.numpy_function(_check_tiff, (encoded,), tf.bool)
    with tf.control_dependencies([checked]):
        rgba = tf.cast(tfio.experimental.image.decode_tiff(encoded), tf.int32)
    opaque = tf.debugging.assert_equal(rgba[..., 3], 255, "transparent pixels have no value")
    with tf.control_dependencies([opaque]):
        luma = (tf.tensordot(rgba[..., :3], raster.LUMA_RGB.astype(np.int32), 1) + 500) // 1000
    return tf.cast(luma, tf.float32)


def _check_tiff(encoded: bytes) -> np.bool_:
    header = raster.open_header("the TIFF image", encoded)
    if header.format != "TIFF" or header.mode not in ("1", "L", "P", "LA", "RGB", "RGBA"):
        raise InputError(
            f"{header.format} of mode {header.mode} is not decoded in the graph, which has 8 bits "
            "a channel; data_pipeline.read reads it"
        )
    return np.True_


def proven_dicom(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a DICOM X-ray with tensorflow-io, and proves it: float32 (rows, cols).

    Fails with InvalidArgumentError unless every pixel is that of data_pipeline.dicom.

    Args:
      encoded: the file, a string scalar.
    """
    expected = tf.numpy_function(_read_dicom, (encoded,), tf.float32)
    # What our reader refuses is told in its words, whatever tensorflow-io would make of it.
    with tf.control_dependencies([expected]):
        encoded = tf.identity(encoded)
    decoded = tfio.image.decode_dicom_image(encoded, on_error="strict", dtype=tf.uint16)
    decoded = tf.cast(tf.squeeze(decoded), tf.float32)
    told = "tensorflow-io decodes this DICOM file to other values; data_pipeline.read reads it"
    same_shape = tf.debugging.assert_equal(tf.shape(decoded), tf.shape(expected), told)
    with tf.control_dependencies([same_shape]):
        same = tf.debugging.assert_equal(decoded, expected, told)
    with tf.control_dependencies([same]):
        return tf.identity(decoded)


def _read_dicom(encoded: bytes) -> np.ndarray:
    return dicom.xray(dicom.Member("the DICOM file", lambda: io.BytesIO(encoded))).values


DECODERS: Mapping[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "tiff": tiff,
    "proven-dicom": proven_dicom,
}


def stream(paths: Sequence[str], decoder: str) -> tf.data.Dataset:
    """Yields (path, float32 (rows, cols)) of X-rays in their order, decoding several at once.

    Args:
      paths: local ones, s3://, gs:// or az://.
      decoder: one of DECODERS.
    """

    def image(path: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        decoded = DECODERS[decoder](tf.io.read_file(path))
        return path, tf.ensure_shape(decoded, (None, None))

    files = tf.data.Dataset.from_tensor_slices(list(paths))
    return files.map(image, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
