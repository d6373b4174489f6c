"""Which decoder takes which compressed DICOM, and nothing else does.

JPEG and JPEG-LS go to imagecodecs (libjpeg-turbo 3, CharLS), JPEG 2000 to pylibjpeg-openjpeg,
run lengths to pydicom. Left to itself, pydicom would prefer GDCM where that is installed, which
ends the whole process on a damaged file and reads no JPEG of 12 bits (python-gdcm 3.2).

A decoder is only let loose on a stream whose own size is that of the DICOM header: a few
damaged bytes could otherwise ask for gigabytes.
"""

import struct

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder

from data_pipeline.errors import InputError

_LABEL = "data_pipeline"
_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
DECODER_DEPENDENCIES = dict.fromkeys((*_JPEG, *_JPEG_LS), ("imagecodecs",))  # pydicom asks

_PLUGINS = {
    **dict.fromkeys((*_JPEG, *_JPEG_LS), _LABEL),
    **dict.fromkeys(_JPEG_2000, "pylibjpeg"),
    uid.RLELossless: "pydicom",
}

_END_OF_IMAGE = b"\xff\xd9"
_PADDING = b"\0\xff"  # of a stream to an even length; the standard says 0, some write FF
_J2K_START = b"\xff\x4f\xff\x51"  # SOC, SIZ


def plugin(syntax: uid.UID) -> str:
    """Returns what pydicom shall decode a transfer syntax with; "" if it is uncompressed.

    Raises:
      InputError: naming the transfer syntax, if nothing installed decodes it.
    """
    if not syntax.is_encapsulated:
        return ""
    label = _PLUGINS.get(syntax)
    if label is None or label not in get_decoder(syntax).available_plugins:
        raise InputError(f"no decoder for the transfer syntax {syntax.name}")
    return label


def is_available(syntax: uid.UID) -> bool:
    """Whether the decoder below takes a transfer syntax; pydicom asks."""
    return syntax in DECODER_DEPENDENCIES


def decode_frame(stream: bytes, runner: DecodeRunner) -> bytes:
    """Decodes a JPEG or JPEG-LS stream for pydicom, colours as they are stored."""
    if not stream.rstrip(_PADDING).endswith(_END_OF_IMAGE):
        raise ValueError("the JPEG stream is cut short")
    colour = runner.samples_per_pixel != 1
    shape = (runner.rows, runner.columns) + ((runner.samples_per_pixel,) if colour else ())
    pixels = _decoded(stream, runner.transfer_syntax, shape, runner.bits_stored)
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    if colour:
        runner.set_option("planar_configuration", 0)
    return pixels.tobytes()


def _decoded(
    stream: bytes, syntax: uid.UID, shape: tuple[int, ...], bits_stored: int
) -> np.ndarray:
    """Decodes into memory of the shape that the header says; any other shape is an error."""
    options = {}
    if syntax in _JPEG_LS:
        decode = imagecodecs.jpegls_decode
    else:
        decode = imagecodecs.jpeg8_decode
        if len(shape) == 3:  # the same on both sides: no conversion
            options = {"colorspace": "YCBCR", "outcolorspace": "YCBCR"}
    kinds = (np.uint8, np.uint16) if bits_stored <= 8 else (np.uint16, np.uint8)
    try:
        return np.asarray(decode(stream, out=np.empty(shape, kinds[0]), **options))
    except ValueError:  # the stream has the other precision, or another shape
        return np.asarray(decode(stream, out=np.empty(shape, kinds[1]), **options))


def check_stream(stream: bytes, rows: int, columns: int) -> None:
    """Refuses a JPEG 2000 stream of another size than its DICOM header.

    Raises:
      ValueError: if the sizes differ, or the stream does not say its size where it must.
    """
    start = stream.find(_J2K_START, 0, 1024)  # JP2 boxes may come before it
    if start < 0:
        raise ValueError("no JPEG 2000 stream")
    # After the marker: its length and capabilities (2 bytes each), then the image's right and
    # lower edge and its left and upper one (ISO/IEC 15444-1, A.5.1).
    right, lower, left, upper = struct.unpack_from(">4I", stream, start + 8)
    if (lower - upper, right - left) != (rows, columns):
        raise ValueError("the JPEG 2000 stream has another size than the header")


for _syntax in DECODER_DEPENDENCIES:
    if _LABEL not in get_decoder(_syntax).available_plugins:
        get_decoder(_syntax).add_plugin(_LABEL, (__name__, "decode_frame"))
