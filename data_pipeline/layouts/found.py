"""What a layout finds, and how it looks for it."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from data_pipeline.cases import Case

# How deep below the folder that a user names a layout may start: archives are unpacked into
# folders of their own, often twice.
_DEEPEST = 4

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

# Where names carry the patient: BIMCV, Kermany (two kinds), NIH ChestX-ray14, and the
# CT collections, whose volumes are one a patient.
_PATIENT_IN_NAME = (
    re.compile(r"(sub-S\d+)"),
    re.compile(r"(person\d+)_(?:bacteria|virus)"),
    re.compile(r"((?:NORMAL2-)?IM-\d{4})"),
    re.compile(r"^(\d{8})_\d{3}$"),
    re.compile(r"^(coronacases_\d+|radiopaedia_\d+)"),
    re.compile(r"^(ID_\d{4})_Z_\d{4}$"),
)


@dataclasses.dataclass(frozen=True)
class Derived:
    """A mask that has to be made, since what is published does not fit its image as it is."""

    path: pathlib.Path  # where it will lie
    make: Callable[[], np.ndarray]  # uint8 (rows, cols), 0 and 255


@dataclasses.dataclass(frozen=True)
class Found:
    """The cases of one data set, and what a user of it should know."""

    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()
    derived: tuple[Derived, ...] = ()


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way in which a data set lies on disk."""

    name: str
    looks_for: str  # in words, for a user whose data were not recognised
    # From the folder that a user named, and the folder for derived masks.
    find: Callable[[pathlib.Path, pathlib.Path], Found]


def folders(root: pathlib.Path, *path: str) -> Iterator[pathlib.Path]:
    """Yields the folders at or below `root` whose last names are `path`, whatever their case."""
    wanted = tuple(name.lower() for name in path)
    queue = [(root, 0)]
    while queue:
        folder, depth = queue.pop(0)
        last = folder.parts[len(folder.parts) - len(wanted) :]
        if tuple(name.lower() for name in last) == wanted:
            yield folder
        if depth < _DEEPEST:
            queue += [(below, depth + 1) for below in _folders_in(folder)]


def _folders_in(folder: pathlib.Path) -> list[pathlib.Path]:
    with os.scandir(folder) as entries:  # which knows folders without asking for each file
        names = sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")
    return [folder / name for name in names]


def inside(folder: pathlib.Path, *names: str) -> pathlib.Path | None:
    """Returns the folder or file below `folder` with these names, whatever their case."""
    for name in names:
        matches = [p for p in _entries(folder) if p.name.lower() == name.lower()]
        if not matches:
            return None
        folder = matches[0]
    return folder


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def images(folder: pathlib.Path | None) -> list[pathlib.Path]:
    """Returns the pictures in a folder, sorted by name; none if there is no folder."""
    return with_suffix(folder, _IMAGE_SUFFIXES)


def with_suffix(folder: pathlib.Path | None, suffixes: Iterable[str]) -> list[pathlib.Path]:
    """Returns the files in a folder whose names end so, sorted; none if there is no folder."""
    ends = tuple(suffixes)
    files = _entries(folder) if folder is not None else []
    return [p for p in files if p.is_file() and p.name.lower().endswith(ends) and p.name[0] != "."]


def by_stem(files: Iterable[pathlib.Path]) -> dict[str, pathlib.Path]:
    """Returns files by the stem of their name, which for x.nii.gz is x."""
    return {stem(path): path for path in files}


def stem(path: pathlib.Path) -> str:
    """Returns a file's name without what tells its type."""
    return path.name[:-7] if path.name.lower().endswith(".nii.gz") else path.stem


def patient(dataset: str, name: str) -> str:
    """Returns the patient that a file's stem names, with the data set before it; else ""."""
    for pattern in _PATIENT_IN_NAME:
        match = pattern.search(name)
        if match:
            return f"{dataset}-{match.group(1)}"
    return ""


def view(name: str) -> str:
    """Returns the view that a BIMCV name states ("vp-ap"); else ""."""
    match = re.search(r"_vp-(ap|pa|lateral|ll)", name)
    return match.group(1) if match else ""
