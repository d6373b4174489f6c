"""Scans in object storage, at s3://, gs:// or az:// paths: a file here to read them from.

Readers never meet one: `here` lends them a copy for as long as they read, so what a file says is
decided by data_pipeline.read alone, wherever the file lies. Bytes come through tf.data
(data_pipeline.remote_streams), in the tensorflow-io lane only; this module needs no TensorFlow.
"""

import contextlib
import importlib
import importlib.util
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import NamedTuple

from data_pipeline import location
from data_pipeline.errors import InputError

# Copies that `staged` has put here before anybody asked for them.
_waiting: dict[pathlib.Path, pathlib.Path] = {}


@contextlib.contextmanager
def here(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Lends a local copy of a remote file or folder; a local path is lent as it is.

    An InputError that names the copy is told with the remote name instead.

    Args:
      path: a file, a folder (what lies below it is copied), or FOLDER#SERIES.

    Raises:
      InputError: if there is nothing at a remote path, it may not be read, or this lane cannot.
    """
    if not location.is_remote(path):
        yield path
        return
    if path in _waiting:
        with _told_as(location.name(path), _waiting[path]):
            yield _waiting[path]
        return
    with tempfile.TemporaryDirectory(prefix="scan-") as folder:
        local = _streams(path).fetch(path, pathlib.Path(folder))
        with _told_as(location.name(path), local):
            yield local


@contextlib.contextmanager
def _told_as(remote: str, local: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(local), remote)) from error


def staged(groups: Sequence[Sequence[pathlib.Path]]) -> Iterator[None]:
    """Steps through groups of files; before each step, copies of its remote ones lie here.

    tf.data fetches the files of the next groups meanwhile, and a group's copies are gone when
    the next one comes: the disk holds a few files, however many there are.

    Raises:
      InputError: as `here`.
    """
    wanted = [[path for path in group if location.is_remote(path)] for group in groups]
    if not any(wanted):
        yield from (None for _ in groups)
        return
    with tempfile.TemporaryDirectory(prefix="scans-") as folder:
        first = next(path for group in wanted for path in group)
        for copies in _streams(first).ahead(wanted, pathlib.Path(folder)):
            _waiting.update(copies)
            try:
                yield
            finally:
                for path, local in copies.items():
                    _waiting.pop(path, None)
                    local.unlink(missing_ok=True)


def below(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files below a remote folder; a file itself; none if there is nothing."""
    found: list[pathlib.Path] = _streams(path).below(path)
    return found


class Stamp(NamedTuple):
    """What tells a file from a later version of it without reading it."""

    size_bytes: int
    changed_ns: int


def stamp(path: pathlib.Path) -> Stamp | None:
    """Returns size and time of the last change of a file, here or remote; None if it is none."""
    if location.is_remote(path):
        return Stamp(*found) if (found := _streams(path).stamp(path)) else None
    if not path.is_file():
        return None
    known = path.stat()
    return Stamp(known.st_size, known.st_mtime_ns)


def _streams(path: pathlib.Path) -> ModuleType:
    """Returns the module with TensorFlow in it, imported only when a remote path is met."""
    if importlib.util.find_spec("tensorflow_io") is None:
        raise InputError(
            f"{location.name(path)} lies in object storage, which the tensorflow-io lane reads: "
            "`make setup-tfio`, then the same command with .venv-tfio/bin/python"
        )
    importlib.import_module("data_pipeline.quiet_tensorflow")  # first: it silences the import
    return importlib.import_module("data_pipeline.remote_streams")
