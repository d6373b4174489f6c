"""Finds the scans that somebody means by some paths, each with a name of its own."""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from data_pipeline import location
from data_pipeline.errors import InputError


@dataclasses.dataclass(frozen=True)
class Item:
    """A scan to segment."""

    name: str  # what its results are called
    path: pathlib.Path  # a file, or the folder of a DICOM series

    def fingerprint(self) -> str:
        """Returns what changes if the files do: their names, sizes and times, not their content."""
        # Deferred, as below.
        from data_pipeline import read

        digest = hashlib.sha256(str(self.path.resolve()).encode())
        for path in read.files(self.path):
            told = path.stat()
            digest.update(f"{path.name} {told.st_size} {told.st_mtime_ns}".encode())
        return digest.hexdigest()


def items(paths: Sequence[pathlib.Path], modality: str, out: pathlib.Path) -> list[Item]:
    """Returns the scans that `paths` hold, in a fixed order.

    A file is a scan. So is every file of a known type in a folder and its sub-folders; but in a
    folder or a ZIP archive with DICOM files of a CT, each series is one. What lies in `out` is a
    result, not a scan.

    Raises:
      InputError: if a path does not exist, or there is no scan.
    """
    found: dict[pathlib.Path, None] = {}
    for path in paths:
        if not path.exists() and "#" not in path.name:  # FOLDER#SERIES, see data_pipeline.location
            raise InputError(f"{path} does not exist")
        inside = (
            _in_folder(path, modality, out.resolve())
            if path.is_dir()
            else _scans_of_file(path, modality)
        )
        found |= dict.fromkeys(inside)
    if not found:
        raise InputError(
            f"no scan in {', '.join(map(str, paths))}; known types are PNG, JPEG, TIFF, BMP, "
            "DICOM, NIfTI, NRRD and MetaImage"
        )
    return [Item(name, path) for path, name in zip(found, _names(list(found)), strict=True)]


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    return (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _in_folder(folder: pathlib.Path, modality: str, out: pathlib.Path) -> Iterator[pathlib.Path]:
    # Deferred: the readers of all formats are most of what a client loads, and not for --help.
    from data_pipeline import dicom, read

    if folder.resolve() == out:
        return
    images, members = [], []
    for path in sorted(_files(folder)):
        kind = location.suffix(path)
        known = kind in read.SUFFIXES
        if kind in (".dcm", ".dicom") or (not known and dicom.is_dicom(dicom.member(path))):
            members.append(path)
        elif known:
            images += _scans_of_file(path, modality)
    holds_slices = bool(members) and modality == "CT"
    if holds_slices:
        yield from _series(folder)
    else:
        yield from _films(members)
    yield from images
    for below in sorted(path for path in folder.iterdir() if path.is_dir()):
        # The folders below a series belong to it, see data_pipeline.series.members.
        if not below.name.startswith(".") and not holds_slices:
            yield from _in_folder(below, modality, out)


def _films(members: Sequence[pathlib.Path]) -> Iterator[pathlib.Path]:
    """Yields the X-rays of a folder's DICOM files, without the reports that lie beside them.

    Of a series of something else the first file stands for all: what is wrong with it is told
    once.
    """
    from data_pipeline import dicom

    told = set()
    for path in members:
        try:
            heading = dicom.heading(dicom.member(path))
        except InputError:
            yield path  # is told when its turn comes
            continue
        if heading.modality in dicom.XRAY_MODALITIES:
            yield path
        elif heading.has_image and heading.series not in told:
            told.add(heading.series)
            yield path


def _scans_of_file(path: pathlib.Path, modality: str) -> list[pathlib.Path]:
    is_archive = path.suffix.lower() == ".zip" and path.is_file()
    return _series(path) if is_archive and modality == "CT" else [path]


def _series(whole: pathlib.Path) -> list[pathlib.Path]:
    """Returns a folder or archive of CT slices, or a FOLDER#NUMBER for each of its series."""
    from data_pipeline import series

    try:
        names = series.names(series.members(whole))
    except InputError:
        return [whole]  # is told when its turn comes, and does not stop the others
    named = _absolute(whole) if whole.name in ("", "..") else whole
    return [named.with_name(f"{named.name}#{name}") for name in names] or [whole]


def _names(paths: Sequence[pathlib.Path]) -> list[str]:
    """Returns each path's stem, with as many folders before it as it takes to be the only one."""
    stems = {path: _stem(path) for path in paths}
    names = dict(stems)
    for depth in range(1, max(len(_absolute(path).parts) for path in paths)):
        taken = collections.Counter(names.values())
        shared = [path for path, name in names.items() if taken[name] > 1]
        for path in shared:
            folders = _absolute(path).parent.parts[-depth:]
            names[path] = "-".join([*(part.strip("/") for part in folders), stems[path]])
        if not shared:
            break
    _check_unique(names.items())
    return list(names.values())


def _absolute(path: pathlib.Path) -> pathlib.Path:
    # Not resolve(): a link is called what it is called, not what it leads to.
    return pathlib.Path(os.path.abspath(path))


def _check_unique(names: Iterable[tuple[pathlib.Path, str]]) -> None:
    seen: dict[str, pathlib.Path] = {}
    for path, name in names:
        if name in seen:
            raise InputError(f"{seen[name]} and {path} would both be called {name}; rename one")
        seen[name] = path


def _stem(path: pathlib.Path) -> str:
    # A folder's name may hold dots, as the UIDs of DICOM do.
    name = _absolute(path).name
    if path.is_dir() or "#" in name:
        return name.replace(".zip#", "#").replace("#", "-")
    for end in (".nii.gz", path.suffix):
        if end and name.lower().endswith(end.lower()):
            return name[: -len(end)]
    return name
