"""Where versions of a model are written: unfinished beside the others, then in place at once."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

from data_pipeline.errors import InputError


@contextlib.contextmanager
def unfinished(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the path of a version folder to write; whatever is left there goes in the end.

    It lies beside the versions, so that moving it is one step, under a name that is no number,
    so that a server that watches them does not load it.

    Args:
      out: the folder of the model's versions; made, and unmade if the block fails.

    Raises:
      InputError: if it is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out takes the folder of a model's versions")
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=out) as scratch:
            yield pathlib.Path(scratch) / out.resolve().name / "1"
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):  # not empty: somebody else is at work there
                folder.rmdir()
        raise


def publish(folder: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Moves a finished version into place under the next free number; returns where it is."""
    while True:
        taken = [int(p.name) for p in out.iterdir() if p.name.isascii() and p.name.isdigit()]
        target = out / str(max(taken, default=0) + 1)
        with contextlib.suppress(FileExistsError):
            # Fails on a folder with content, so two exports at once both get a number.
            target.mkdir()
            return folder.replace(target)
