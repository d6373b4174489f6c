"""Reads and writes PNG and JPEG, keeping the numbers as they are stored."""

import os
import pathlib

import cv2
import numpy as np

from data_pipeline.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")

# ITU-R BT.601 in thousandths: whole numbers, so that every decoder's colour gives the same grey.
_LUMA_BGR = np.array([114, 587, 299], np.int64)


def read(path: pathlib.Path) -> np.ndarray:
    """Returns the stored values of a grey, RGB or RGBA image: uint8 or uint16 (rows, cols).

    Colour becomes ITU-R BT.601 luma; an alpha channel must be opaque.

    Raises:
      InputError: if the file is missing, is no image, or holds transparent pixels.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED) if encoded.size else None
    if image is None:
        raise InputError(f"{path} is not a readable image of type {', '.join(SUFFIXES)}")
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path} stores {image.dtype}; 8 or 16 bit whole numbers are read")
    return image if image.ndim == 2 else _grey(image, path)


def _grey(image: np.ndarray, path: pathlib.Path) -> np.ndarray:
    if image.shape[2] == 4 and image[..., 3].min() != np.iinfo(image.dtype).max:
        raise InputError(f"{path} has transparent pixels, whose value is unknown; flatten it first")
    luma = (image[..., :3].astype(np.int64) @ _LUMA_BGR + 500) // 1000
    return luma.astype(image.dtype)


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
