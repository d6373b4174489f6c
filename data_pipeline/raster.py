"""Reads and writes PNG, JPEG, TIFF, BMP and GIF, keeping the numbers as they are stored."""

import io
import os
import pathlib

import cv2
import numpy as np
from PIL import Image

from data_pipeline import untrusted
from data_pipeline.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")

# Those that TensorFlow decodes inside a graph to the numbers that `read` returns.
GRAPH_SUFFIXES = (".png", ".jpg", ".jpeg")

# What OpenCV's C++ writes to the terminal about a damaged file, the InputError says already.
# The function has moved between OpenCV 4 and 5.
(getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel)(0)

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF")
_EXIF_ORIENTATION = 274
_UPRIGHT = (None, 1)
_TIFF_PHOTOMETRIC = 262
_TIFF_WHITE_IS_ZERO = 0

# ITU-R BT.601 in thousandths: whole numbers, so that every decoder's colour gives the same grey.
LUMA_RGB = np.array([299, 587, 114], np.int64)


def read(path: pathlib.Path) -> np.ndarray:
    """Returns the stored values of a grey, RGB or RGBA image: (rows, cols).

    The type is uint8 or uint16; TIFF may also hold signed 16 or 32 bit or float32, such as HU.
    Colour, also from a palette, becomes ITU-R BT.601 luma; an alpha channel must be opaque.

    Raises:
      InputError: if the file is missing, is no single upright image, or holds transparent
        pixels.
    """
    encoded = _bytes(path)
    header = open_header(path, encoded)
    image = _decoded(path, encoded, header)
    return image if image.ndim == 2 else _grey(image, path)


def size(path: pathlib.Path) -> tuple[int, int]:
    """Returns the rows and columns of an image without decoding it.

    Raises:
      InputError: as `read`.
    """
    cols, rows = open_header(path, _bytes(path)).size
    return rows, cols


def read_classes(path: pathlib.Path) -> np.ndarray:
    """Returns the class numbers of a mask image: (rows, cols).

    As `read`, but a palette's colours are only there to be looked at: its indices count,
    unless the palette is a grey ramp.

    Raises:
      InputError: likewise, or if the pixels are coloured without a palette, or background has
        another index than 0.
    """
    encoded = _bytes(path)
    header = open_header(path, encoded)
    if header.mode == "P":
        return _palette_classes(path, header)
    image = _decoded(path, encoded, header)
    if image.ndim == 3 and (image[..., :3] != image[..., :1]).any():
        raise InputError(
            f"{path} is a coloured mask, and which class a colour means is unknown; "
            "store class numbers or one grey image a label"
        )
    return image if image.ndim == 2 else _grey(image, path)


def _bytes(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def open_header(path: pathlib.Path | str, encoded: bytes) -> Image.Image:
    """Opens an image without decoding it, and refuses what would not be read as it is shown.

    Args:
      path: where it lies, or what to call it.
      encoded: the file.

    Raises:
      InputError: as `read`, for what can be known without decoding.
    """
    if not encoded:
        raise InputError(f"{path} is empty")
    with untrusted.damaged(path, f"image of type {', '.join(_FORMATS)}"):
        header = Image.open(io.BytesIO(encoded), formats=_FORMATS)
        pages = getattr(header, "n_frames", 1)
        turned = header.getexif().get(_EXIF_ORIENTATION) not in _UPRIGHT
    cols, rows = header.size
    if cols * rows > untrusted.LARGEST_IMAGE_PIXELS:
        raise InputError(f"{path} says that it has {cols * rows:,} pixels")
    if pages != 1:
        raise InputError(f"{path} holds {pages} images; one a file is read")
    if turned:
        raise InputError(f"{path} is stored turned, with an EXIF tag; save it upright first")
    return header


def _decoded(path: pathlib.Path, encoded: bytes, header: Image.Image) -> np.ndarray:
    """Returns uint8, uint16 or, from TIFF, int16, int32 or float32; colour as RGB or RGBA."""
    if header.format == "GIF":  # which OpenCV reads only lately
        with untrusted.damaged(path, "GIF image"):
            rgba: np.ndarray = np.asarray(header.convert("RGBA"))
            return rgba
    with untrusted.damaged(path, f"{header.format} image"):
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape[:2] != header.size[::-1]:
        raise InputError(f"{path} is damaged, cut short, or no readable {header.format} image")
    known = ("uint8", "uint16", "int16", "int32", "float32")
    if image.dtype not in known or (image.ndim == 3 and image.dtype.kind != "u"):
        raise InputError(f"{path} stores {image.dtype}; {', '.join(known)} are read")
    image = _white_is_high(path, image, header)
    if image.ndim == 3 and image.shape[2] in (3, 4):
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]  # OpenCV has blue first
    return image


def _white_is_high(path: pathlib.Path, image: np.ndarray, header: Image.Image) -> np.ndarray:
    tags = getattr(header, "tag_v2", {})
    if tags.get(_TIFF_PHOTOMETRIC) != _TIFF_WHITE_IS_ZERO or image.dtype == np.uint8:
        return image  # 8 bit OpenCV has inverted already
    if image.dtype == np.uint16:
        return np.uint16(65535) - image
    raise InputError(f"{path} stores {image.dtype} with white as zero, which has no meaning")


def _palette_classes(path: pathlib.Path, header: Image.Image) -> np.ndarray:
    with untrusted.damaged(path, "palette image"):
        index: np.ndarray = np.asarray(header)
        palette = np.array(header.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        if index.max() >= len(palette):
            raise InputError(f"{path} has pixels that its palette has no colour for")
    used = palette[np.unique(index)]
    if (used == used[:, :1]).all():
        greys: np.ndarray = palette[index, 0]
        return greys
    if palette[0].any():
        raise InputError(f"{path} has a palette whose index 0, the background, is not black")
    return index


def luma(rgb: np.ndarray) -> np.ndarray:
    """Returns the ITU-R BT.601 luma of RGB (rows, cols, 3), rounded, in the type it came in."""
    grey = (rgb.astype(np.int64) @ LUMA_RGB + 500) // 1000
    return np.asarray(grey.astype(rgb.dtype))


def _grey(image: np.ndarray, path: pathlib.Path) -> np.ndarray:
    if image.shape[2] not in (3, 4):
        raise InputError(f"{path} has {image.shape[2]} channels; grey, RGB and RGBA are read")
    if image.shape[2] == 4 and image[..., 3].min() != np.iinfo(image.dtype).max:
        raise InputError(f"{path} has transparent pixels, whose value is unknown; flatten it first")
    return luma(image[..., :3])


def write(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes a grey (rows, cols) or RGB (rows, cols, 3) uint8 or uint16 image as PNG.

    The file appears whole or not at all.
    """
    bgr = image if image.ndim == 2 else image[..., ::-1]
    _, encoded = cv2.imencode(".png", bgr)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(encoded.tobytes())
    unfinished.replace(path)
