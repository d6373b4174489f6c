"""What a path says of itself: its type, a series in a folder, and whether it is here at all.

A path into object storage is a pathlib.Path like any other, which writes s3://bucket/scan.png
with one slash.
"""

import pathlib

_SCHEMES = ("s3", "gs", "az")


def is_remote(path: pathlib.Path) -> bool:
    """Returns whether a path leads into object storage."""
    return path.parts[:1] in {(f"{scheme}:",) for scheme in _SCHEMES}


def name(path: pathlib.Path) -> str:
    """Returns a path as a user writes it: s3://bucket/scan.png, or a local one as it is."""
    return f"{path.parts[0]}//{'/'.join(path.parts[1:])}" if is_remote(path) else str(path)


def suffix(path: pathlib.Path) -> str:
    """Returns the end of a file's name that tells its type, in lower case: ".nii.gz", ".png"."""
    whole = path.name.lower()
    return ".nii.gz" if whole.endswith(".nii.gz") else pathlib.PurePath(whole).suffix


def split_series(path: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Splits FOLDER#SERIES into its parts; a path without one has the series ""."""
    folder, mark, number = path.name.rpartition("#")
    return (path.with_name(folder), number) if mark and not path.exists() else (path, "")


def within_here(path: pathlib.Path) -> pathlib.Path:
    """Returns a path relative to the working directory where it lies in it.

    So results can be shared without telling where their maker keeps files.
    """
    whole, here = path.resolve(), pathlib.Path.cwd()
    return whole.relative_to(here) if whole.is_relative_to(here) else path
