"""Writes a mask as a file that lies on its scan as the scan's own file does."""

import os
import pathlib

import numpy as np

from data_pipeline import location, nifti, raster, read, volumes
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan

FOREGROUND = 255  # in PNG; volumes hold 0 and 1
_VOLUMES = {
    ".nii": nifti.write,
    ".nii.gz": nifti.write,
    ".nrrd": volumes.write_nrrd,
    ".mha": volumes.write_metaimage,
}
SUFFIXES = (".png", *_VOLUMES)


def mask(path: pathlib.Path, plane: np.ndarray, scan: Scan) -> None:
    """Writes one plane of a mask on the grid and in the orientation of the scan's own file.

    So the mask of a NIfTI scan that is stored left to right is stored left to right too, and
    a viewer shows the one on the other, whether it reads headers or not. For a DICOM series,
    which has no such order, slices are stored along their normal. The file appears whole.

    Args:
      path: to write; its end tells the format: PNG (0 and 255) for an image, or .nii.gz,
        .nii, .nrrd or .mha (0 and 1).
      plane: bool, (rows, cols) or (slices, rows, cols), on the scan's grid.
      scan: as `read.scan` returned it; its source is looked at again.

    Raises:
      InputError: if the format does not suit, or the source is not what it was.
      ValueError: if the plane is not bool or not on the scan's grid.
    """
    if plane.dtype != np.bool_ or plane.shape != scan.shape:
        raise ValueError(f"mask is {plane.dtype} {plane.shape}, scan is {scan.shape}")
    is_ct = scan.modality == "CT"  # an X-ray stays as it is stored
    affine, turn = read.place(pathlib.Path(scan.source)) if is_ct else (None, None)
    volume = plane if plane.ndim == 3 else plane[None]
    stored = volume if turn is None else turn.backward(volume)
    kind = location.suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == ".png" and len(stored) == 1:
        raster.write(path, np.where(stored[0], np.uint8(FOREGROUND), np.uint8(0)))
        return
    if kind not in _VOLUMES:
        raise InputError(
            f"{path}: a mask of shape {plane.shape} is written as {', '.join(SUFFIXES)}"
            + (", but PNG is for images" if plane.ndim == 3 else "")
        )
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    _VOLUMES[kind](unfinished, np.ascontiguousarray(stored, np.uint8), affine)
    unfinished.replace(path)
