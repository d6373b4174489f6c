"""Reads and writes NIfTI volumes (.nii, .nii.gz).

nibabel reads the header; the array is the file's, its first axis last, since NIfTI counts
columns first and the rest of this project slices first.
"""

import gzip
import io
import math
import pathlib

import nibabel as nib
import numpy as np

from data_pipeline import untrusted
from data_pipeline.errors import InputError
from data_pipeline.orientation import Stored

SUFFIXES = (".nii", ".nii.gz")

# NIfTI's world is right to left mirrored and front to back mirrored, seen from DICOM's LPS.
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MM_PER_UNIT = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001}
_HEADER_BYTES = 540  # of NIfTI-2, the longer one


def read(path: pathlib.Path) -> Stored:
    """Returns the volume as stored, with scl_slope and scl_inter applied; its units unsaid.

    Raises:
      InputError: naming the file, if it is damaged or holds no volume of numbers.
    """
    header = _header(path)
    shape, dtype = _shape(header, path), header.get_data_dtype()
    offset = int(header.get_data_offset())
    count = math.prod(shape)
    if offset < 0:
        raise InputError(f"{path} is damaged: its numbers begin before the file does")
    size = untrusted.file_bytes(path)
    ratio = untrusted.DEFLATE_RATIO if _is_compressed(path) else 1
    untrusted.check_claim(path, offset + count * dtype.itemsize, size, ratio)
    with untrusted.damaged(path, "NIfTI file"), _opened(path) as file:
        file.read(offset)
        data = file.read(count * dtype.itemsize)
        untrusted.check_end(path, file)
    untrusted.check_claim(path, count * dtype.itemsize, len(data))
    values = np.frombuffer(data, dtype).reshape(shape[::-1])
    slope, intercept = header.get_slope_inter()
    if (slope or 1.0, intercept or 0.0) != (1.0, 0.0):
        values = values * np.float64(slope or 1.0) + np.float64(intercept or 0.0)
    lps = affine(path, header)
    spacing_mm = tuple(s * _mm_per_unit(header, path) for s in header.get_zooms()[2::-1])
    if min(spacing_mm) <= 0 or not np.isfinite(spacing_mm).all():
        raise InputError(f"{path} has the voxel spacing {spacing_mm}")
    return Stored(values, "stored", tuple(float(s) for s in spacing_mm), lps)


def affine(path: pathlib.Path, header: nib.Nifti1Header | None = None) -> np.ndarray | None:
    """Returns the affine of the stored array, to LPS; None if the file does not say it.

    The sform counts where there is one, else the qform. Without either, NIfTI knows the
    spacing and not the orientation, and none is made up.

    Raises:
      InputError: if sform and qform point to different sides.
    """
    header = header or _header(path)
    known = [
        matrix
        for matrix, code in (header.get_sform(coded=True), _qform(header, path))
        if code and matrix is not None
    ]
    if not known:
        return None
    sides = [nib.aff2axcodes(matrix) for matrix in known]
    if len(set(sides)) > 1:
        raise InputError(
            f"{path}: its sform says {''.join(map(str, sides[0]))} and its qform "
            f"{''.join(map(str, sides[1]))}; which one holds is unknown"
        )
    scale = np.diag([*[_mm_per_unit(header, path)] * 3, 1.0])
    lps: np.ndarray = _RAS_TO_LPS @ scale @ known[0]
    return lps[:, [2, 1, 0, 3]]


def _qform(header: nib.Nifti1Header, path: pathlib.Path) -> tuple[np.ndarray | None, int]:
    with untrusted.damaged(path, "NIfTI file"):
        matrix, code = header.get_qform(coded=True)
    return matrix, int(code)


def _mm_per_unit(header: nib.Nifti1Header, path: pathlib.Path) -> float:
    with untrusted.damaged(path, "NIfTI file"):
        unit = header.get_xyzt_units()[0]
    return _MM_PER_UNIT[unit]


def _shape(header: nib.Nifti1Header, path: pathlib.Path) -> tuple[int, int, int]:
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) > 3 and set(shape[3:]) == {1}:
        shape = shape[:3]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"{path} has the shape {shape}; a volume has three axes")
    if header.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path} stores {header.get_data_dtype()}; plain numbers are read")
    return shape


def _header(path: pathlib.Path) -> nib.Nifti1Header:
    with untrusted.damaged(path, "NIfTI file"), _opened(path) as file:
        start = file.read(_HEADER_BYTES)
        if len(start) < 348:
            raise InputError(f"{path} is cut short: it has no NIfTI header")
        second = int.from_bytes(start[:4], "little") == 540 or start[:4] == b"\x00\x00\x02\x1c"
        kind = nib.Nifti2Header if second else nib.Nifti1Header
        header: nib.Nifti1Header = kind.from_fileobj(io.BytesIO(start))
        if header["magic"].item()[:2] == b"ni":
            raise InputError(f"{path} is a NIfTI pair (.hdr and .img); save it as one .nii file")
        header.get_slope_inter()  # which raises on numbers that are none
    return header


def _is_compressed(path: pathlib.Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _opened(path: pathlib.Path) -> io.BufferedIOBase:
    return gzip.open(path) if _is_compressed(path) else path.open("rb")


def write(path: pathlib.Path, values: np.ndarray, lps: np.ndarray | None) -> None:
    """Writes whole numbers (slices, rows, cols) with the affine of their axes, if it is known.

    The orientation is written twice, as sform and qform, since tools read either.
    """
    image = nib.Nifti1Image(values.T, None if lps is None else _ras(lps))
    image.header.set_xyzt_units("mm")
    if lps is not None:
        image.set_sform(_ras(lps), code=1)
        image.set_qform(_ras(lps), code=1)
    data = image.to_bytes()
    path.write_bytes(gzip.compress(data, 6, mtime=0) if path.suffix == ".gz" else data)


def _ras(lps: np.ndarray) -> np.ndarray:
    ras: np.ndarray = _RAS_TO_LPS @ lps[:, [2, 1, 0, 3]]
    return ras
