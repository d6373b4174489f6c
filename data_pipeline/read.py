"""Reads a scan or a mask of any supported type, by what the file is."""

import pathlib

import numpy as np

from data_pipeline import raster
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan


def scan(
    path: pathlib.Path,
    modality: str,
    rescale_slope: float | None = None,
    rescale_intercept: float | None = None,
) -> Scan:
    """Returns a scan.

    Args:
      path: a file, or a folder that holds one DICOM series.
      modality: "XR" or "CT".
      rescale_slope: for a CT whose file does not say so itself: HU = slope * stored + intercept.
      rescale_intercept: likewise, in HU; for example -2000 where a PNG stores HU + 2000.

    Raises:
      InputError: naming the file, if it cannot be read as such a scan.
    """
    if path.suffix.lower() not in raster.SUFFIXES:
        raise InputError(f"{path}: no reader for this type; known: {', '.join(raster.SUFFIXES)}")
    voxels = raster.read(path).astype(np.float32)
    if rescale_slope is None and rescale_intercept is None:
        return Scan(voxels, modality, "stored", str(path))
    if modality != "CT":
        raise InputError(f"{path}: rescale_slope and rescale_intercept are for CT, not {modality}")
    hu = voxels * np.float32(rescale_slope or 1.0) + np.float32(rescale_intercept or 0.0)
    return Scan(hu, "CT", "HU", str(path))


def classes(path: pathlib.Path) -> np.ndarray:
    """Returns the class values that a mask file stores: whole numbers, (rows, cols) or a volume.

    Raises:
      InputError: naming the file, if it cannot be read.
    """
    if path.suffix.lower() not in raster.SUFFIXES:
        raise InputError(f"{path}: no reader for this type; known: {', '.join(raster.SUFFIXES)}")
    return raster.read(path)
