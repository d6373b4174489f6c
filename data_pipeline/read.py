"""Reads a scan or a mask of any supported type, by what the file is, wherever it lies."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_pipeline import (
    dicom,
    doctor,
    location,
    nifti,
    orientation,
    raster,
    remote,
    series,
    untrusted,
    volumes,
)
from data_pipeline.errors import InputError
from data_pipeline.orientation import Stored
from data_pipeline.scan import Scan

# Formats that know three axes and orientation, and do not say what their numbers mean.
VOLUMES: Mapping[str, Callable[[pathlib.Path], Stored]] = {
    **dict.fromkeys(nifti.SUFFIXES, nifti.read),
    **dict.fromkeys(volumes.NRRD_SUFFIXES, volumes.read_nrrd),
    **dict.fromkeys(volumes.METAIMAGE_SUFFIXES, volumes.read_metaimage),
}
DICOM_SUFFIXES = (".dcm", ".dicom", ".zip")
SUFFIXES = (*raster.SUFFIXES, *DICOM_SUFFIXES, *VOLUMES)


def scan(
    path: pathlib.Path,
    modality: str,
    rescale_slope: float | None = None,
    rescale_intercept: float | None = None,
) -> Scan:
    """Returns a scan: X-ray in stored values, CT in HU where that can be known.

    DICOM says itself how to come to HU. NIfTI, NRRD and MetaImage volumes of CT are in HU by
    custom; one that is evidently not is refused. PNG and the like are HU only with a rescale.

    Args:
      path: a file, a ZIP archive of DICOM files, or a folder that holds one DICOM series; if it
        holds several, FOLDER#NUMBER with the SeriesNumber (or the SeriesInstanceUID). Any of
        them also in object storage, see data_pipeline.remote.
      modality: "XR" or "CT".
      rescale_slope: for a CT whose file does not say so itself: HU = slope * stored + intercept.
      rescale_intercept: likewise, in HU; for example -2000 where a PNG stores HU + 2000.

    Raises:
      InputError: naming the file, if it cannot be read as such a scan.
    """
    rescale = None
    if rescale_slope is not None or rescale_intercept is not None:
        slope = 1.0 if rescale_slope is None else rescale_slope
        rescale = (slope, rescale_intercept or 0.0)
        if modality != "CT":
            raise InputError(
                f"{location.name(path)}: rescale_slope and rescale_intercept are for CT, "
                f"not {modality}"
            )
    with remote.here(path) as file:
        stored = _canonical(file, _stored(file, modality, rescale))
        return _as_scan(location.name(path), modality, stored)


def scan_of_files(paths: Sequence[pathlib.Path], source: str) -> Scan:
    """Returns the CT volume that a list of DICOM files of one series holds, in HU.

    Args:
      paths: the files, in any order; copies and localizers are left out.
      source: what to call the scan, in messages and in Scan.source.

    Raises:
      InputError: if the files do not make one volume.
    """
    files = [dicom.member(path) for path in paths]
    stored = series.volume(series.choose(series.frames(files), source), source)
    return _as_scan(source, "CT", _canonical(pathlib.Path(source), stored))


def _as_scan(source: str, modality: str, stored: Stored) -> Scan:
    voxels = np.ascontiguousarray(stored.values, np.float32)
    result = Scan(voxels, modality, stored.units, source, stored.spacing_mm, stored.affine)
    doctor.refuse(result)
    return result


def _stored(path: pathlib.Path, modality: str, rescale: tuple[float, float] | None) -> Stored:
    folder, number = location.split_series(path)
    if folder.is_dir() or location.suffix(folder) == ".zip":
        return _dicom_folder(folder, number, modality, rescale)
    kind = location.suffix(path)
    if kind in VOLUMES:
        stored = VOLUMES[kind](path)
        if modality == "XR":
            raise InputError(f"{path} is a volume; an X-ray is one image")
        hu = dataclasses.replace(stored, values=_rescaled(stored.values, rescale), units="HU")
        doctor.refuse_unlike_hu(hu.values, str(path), told=rescale is not None)
        return hu
    if kind in raster.SUFFIXES:
        values = raster.read(path)
        units = "stored" if rescale is None else "HU"
        return Stored(_rescaled(values, rescale), units)
    return _dicom_file(path, modality, rescale)


def _rescaled(values: np.ndarray, rescale: tuple[float, float] | None) -> np.ndarray:
    if rescale is None:
        return values
    slope, intercept = rescale
    return values.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def files(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files that a scan or mask is read from; none if the path leads nowhere."""
    whole, _ = location.split_series(path)
    if location.is_remote(path):
        return remote.below(whole)
    if whole.is_dir():
        return sorted(file for file in whole.rglob("*") if file.is_file())
    return [whole] if whole.exists() else []


def _dicom_file(path: pathlib.Path, modality: str, rescale: tuple[float, float] | None) -> Stored:
    untrusted.file_bytes(path)
    file = dicom.member(path)
    if not dicom.is_dicom(file):
        raise InputError(f"{path} is of no known type; known: {', '.join(SUFFIXES)}, DICOM")
    if modality == "XR":
        return dicom.xray(file)
    return series.volume(series.choose(dicom.frames(file), str(path)), str(path), rescale)


def _dicom_folder(
    folder: pathlib.Path, number: str, modality: str, rescale: tuple[float, float] | None
) -> Stored:
    files = series.members(folder)
    if modality == "CT":
        found = series.frames(files, number)
        return series.volume(series.choose(found, str(folder), number), str(folder), rescale)
    if len(files) != 1:
        raise InputError(f"{folder} holds {len(files)} DICOM files; an X-ray is one: name it")
    return dicom.xray(files[0])


def _canonical(path: pathlib.Path, stored: Stored) -> Stored:
    try:
        return orientation.canonical(stored)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def classes(path: pathlib.Path) -> np.ndarray:
    """Returns the class values that a mask file stores: whole numbers, (rows, cols) or a volume.

    A volume is in canonical orientation, as its scan is.

    Raises:
      InputError: naming the file, if it cannot be read.
    """
    return placed_classes(path).values


def placed_classes(path: pathlib.Path) -> Stored:
    """Returns the class values of a mask file with where they lie, in canonical orientation.

    Raises:
      InputError: naming the file, if it cannot be read or its values are not whole numbers.
    """
    with remote.here(path) as file:
        return _placed_classes(file)


def _placed_classes(path: pathlib.Path) -> Stored:
    kind = location.suffix(path)
    if kind in VOLUMES:
        stored = _canonical(path, VOLUMES[kind](path))
    elif kind in raster.SUFFIXES:
        stored = Stored(raster.read_classes(path))
    else:
        known = ", ".join((*raster.SUFFIXES, *VOLUMES))
        raise InputError(f"{path}: no reader of masks for this type; known: {known}")
    values = stored.values
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            raise InputError(f"{path} holds fractions; a mask holds whole numbers")
        values = values.astype(np.int32)
    return dataclasses.replace(stored, values=values)


def place(path: pathlib.Path) -> tuple[np.ndarray | None, orientation.Turn | None]:
    """Returns where the voxels of a CT or its mask lie, reading no pixels where that is possible.

    Returns:
      The affine of the file's array, to LPS, and its turn to canonical orientation; None
      and None if the file knows no orientation.

    Raises:
      InputError: naming the file, if it cannot be read.
    """
    with remote.here(path) as file:
        affine = _stored_affine(file)
        if affine is None:
            return None, None
        try:
            return affine, orientation.turn(affine)
        except InputError as error:
            raise InputError(f"{file}: {error}") from error


def _stored_affine(path: pathlib.Path) -> np.ndarray | None:
    kind = location.suffix(path)
    folder, number = location.split_series(path)
    if folder.is_dir() or kind == ".zip":
        found = series.frames(series.members(folder), number)
        return series.stack(series.choose(found, str(folder), number), str(folder))[1]
    if kind in nifti.SUFFIXES:
        return nifti.affine(path)
    if kind in VOLUMES:
        return VOLUMES[kind](path).affine
    if kind in raster.SUFFIXES:
        return None
    return series.stack(dicom.frames(dicom.member(path)), str(path))[1]
