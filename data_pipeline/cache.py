"""The folder of decoded cases: what lies there, and how much room it may take.

    python -m data_pipeline.cache                    # what is there, and when it was used
    python -m data_pipeline.cache --most-gb 20       # deletes the longest unused beyond that
    python -m data_pipeline.cache --unused-days 30   # deletes what was not used for 30 days

Training does the second by itself, with a bound of 50 GB. A store that a running training reads
or writes is never deleted: each process holds a lock on what it uses (flock), which the system
releases however the process ends.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import os
import pathlib
import re
import shutil
import time

from rich.console import Console

from data_pipeline.errors import one_line_for_bad_input

FOLDER = pathlib.Path(".cache/frames")
MOST_BYTES = 50 * 10**9

_LOCK = "in-use.lock"
_STORE = re.compile(r"\.?[0-9a-f]{16}(\.\d+)?")  # finished, or .unfinished with its process
_DAY_S = 24 * 3600.0


class Pruned(Exception):
    """The store was deleted by another process just now."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """One store in the cache."""

    folder: pathlib.Path
    size: int  # bytes
    used_s: float  # seconds since the epoch when it was last opened
    in_use: bool


def hold(folder: pathlib.Path) -> int:
    """Marks a store as used; it is not pruned until the descriptor returned is closed.

    Raises:
      Pruned: if another process has just deleted it.
    """
    try:
        lock = _open(folder)
    except FileNotFoundError:
        raise Pruned(folder) from None
    fcntl.flock(lock, fcntl.LOCK_SH)
    try:
        there = os.path.samestat(os.fstat(lock), (folder / _LOCK).stat())
    except FileNotFoundError:
        there = False
    if not there:
        os.close(lock)
        raise Pruned(folder)
    os.utime(lock)
    return lock


def _open(folder: pathlib.Path) -> int:
    """Opens the lock of a store, which counts as used when it was made if it has none yet."""
    made_s = folder.stat().st_mtime
    had_one = (folder / _LOCK).exists()
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    if not had_one:
        os.utime(lock, (made_s, made_s))
    return lock


def stored(cache: pathlib.Path) -> list[Stored]:
    """Returns what a cache holds, the longest unused first."""
    found = []
    for folder in cache.glob("*") if cache.is_dir() else ():
        if not _STORE.fullmatch(folder.name) or not folder.is_dir():
            continue
        lock = _claim(folder)
        if lock is not None:
            os.close(lock)
        size = sum(file.stat().st_size for file in folder.iterdir())
        used_s = (folder / _LOCK).stat().st_mtime
        found.append(Stored(folder, size, used_s, lock is None))
    return sorted(found, key=lambda one: one.used_s)


def prune(
    cache: pathlib.Path, most_bytes: float = MOST_BYTES, unused_s: float = float("inf")
) -> list[Stored]:
    """Deletes stores that were not used for long, until the rest fits; returns those deleted.

    What a process that died left unfinished goes too.

    Args:
      cache: the folder; whatever else lies there stays.
      most_bytes: how much may stay; what is in use stays in any case.
      unused_s: what was last opened longer ago than this goes, whatever its size.
    """
    deleted = []
    there = stored(cache)
    size = sum(one.size for one in there)
    for one in there:
        unfinished = one.folder.name.startswith(".")
        if unfinished or size > most_bytes or time.time() - one.used_s > unused_s:
            if _delete(one.folder):
                deleted.append(one)
                size -= one.size
    return deleted


def _delete(folder: pathlib.Path) -> bool:
    """Deletes a store unless a process uses it."""
    lock = _claim(folder)
    if lock is None:
        return False
    # Under a name that no reader looks for, so that a deletion cut short leaves no half store.
    going = (
        folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}.{os.getpid()}")
    )
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        folder.rename(going)
    shutil.rmtree(going, ignore_errors=True)
    os.close(lock)
    return True


def _claim(folder: pathlib.Path) -> int | None:
    """Returns a lock that no reader can hold beside it; None if a process uses the store."""
    lock = _open(folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def main(argv: list[str] | None = None) -> None:
    """Parses the flags, prunes if asked to, and lists what is there."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.cache",
        description="List the decoded cases that training keeps, and delete those long unused.",
    )
    add = parser.add_argument
    add("--cache", type=pathlib.Path, default=FOLDER, help="default: %(default)s")
    add("--most-gb", type=float, help="delete the longest unused until the rest fits")
    add("--unused-days", type=float, help="delete what was not used for so many days")
    flags = parser.parse_args(argv)
    console = Console(highlight=False, soft_wrap=True)
    with one_line_for_bad_input():
        if flags.most_gb is not None or flags.unused_days is not None:
            most = float("inf") if flags.most_gb is None else flags.most_gb * 1e9
            unused = float("inf") if flags.unused_days is None else flags.unused_days * _DAY_S
            for one in prune(flags.cache, most, unused):
                console.print(f"deleted  {_line(one)}")
        there = stored(flags.cache)
        for one in there:
            console.print(f"         {_line(one)}")
        size = sum(one.size for one in there)
        console.print(f"{flags.cache}: {len(there)} stores, {size / 1e6:,.1f} MB")


def _line(one: Stored) -> str:
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used_s))
    state = "in use" if one.in_use else f"last used {used}"
    return f"{one.folder.name}  {one.size / 1e6:10,.1f} MB  {state}"


if __name__ == "__main__":
    main()
