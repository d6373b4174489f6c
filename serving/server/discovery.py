"""Which versions of a model lie below its base path.

Any folder whose name is an integer is a version; 00000123 is 123. A version that is still
being copied is not offered until its files have come to rest.
"""

import dataclasses
import logging
import os
import re
import time

import tensorflow as tf

logger = logging.getLogger(__name__)

# A copy in progress touches a file at least this often; seconds.
QUIET_S = 0.75
_NUMBER = re.compile(r"\s*[+-]?\d+\s*")
_MAX_VERSION = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Tree:
    """What a version folder looked like at one moment."""

    complete: bool  # the files that a SavedModel needs are all there
    files: frozenset[tuple[str, int, int]]  # path, size in bytes, time of change in ns
    age_s: float  # since the last change


def versions_below(base_path: str) -> dict[int, str]:
    """Every version folder below a base path.

    Raises:
      OSError: if the base path cannot be listed.
    """
    try:
        names = tf.io.gfile.listdir(base_path)
    except tf.errors.OpError as error:
        raise OSError(error.message) from error
    versions: dict[int, str] = {}
    for name in sorted(names):
        name = name.rstrip("/")
        if not _NUMBER.fullmatch(name) or abs(int(name)) > _MAX_VERSION:
            continue
        path = f"{base_path.rstrip('/')}/{name}"
        if int(name) in versions:
            logger.warning("version %d is loaded from %s; its double is ignored", int(name), path)
        versions[int(name)] = path
    return versions


def tree(path: str) -> Tree:
    """Looks at a version folder; a file that vanishes meanwhile makes it incomplete."""
    try:
        files = _remote_files(path) if "://" in path else _local_files(path)
    except (OSError, tf.errors.OpError):
        return Tree(complete=False, files=frozenset(), age_s=0.0)
    newest_ns = max((changed_ns for _, _, changed_ns in files), default=0)
    complete = _complete({name for name, _, _ in files})
    return Tree(complete, frozenset(files), time.time() - newest_ns / 1e9)


def _local_files(path: str) -> set[tuple[str, int, int]]:
    files = set()
    for folder, _, names in os.walk(path):
        for name in names:
            stat = os.stat(os.path.join(folder, name))
            # A copy may keep the time of its original; it cannot keep the time of change.
            changed_ns = max(stat.st_mtime_ns, stat.st_ctime_ns)
            relative = os.path.relpath(os.path.join(folder, name), path)
            files.add((relative, stat.st_size, changed_ns))
    return files


def _remote_files(path: str) -> set[tuple[str, int, int]]:
    files = set()
    for folder, _, names in tf.io.gfile.walk(path):
        for name in names:
            file = f"{folder.rstrip('/')}/{name}"
            stat = tf.io.gfile.stat(file)
            files.add((file.removeprefix(path).lstrip("/"), stat.length, stat.mtime_nsec))
    return files


def _complete(names: set[str]) -> bool:
    """Whether the graph is there, and as many weight shards as their names promise."""
    if not names & {"saved_model.pb", "saved_model.pbtxt"}:
        return False
    shards = [match for name in names if (match := _SHARD.fullmatch(name))]
    promised = {int(match[1]) for match in shards}
    has_index = "variables/variables.index" in names
    return has_index == bool(shards) and promised <= {len(shards)}


_SHARD = re.compile(r"variables/variables\.data-\d+-of-(\d+)")


class Settling:
    """Remembers how version folders looked, to tell a finished copy from one under way."""

    def __init__(self) -> None:
        self._last: dict[str, Tree] = {}

    def ready(self, path: str) -> bool:
        """Whether a version is complete and at rest: unchanged for a while or since last asked."""
        now = tree(path)
        before = self._last.get(path)
        self._last[path] = now
        if not now.complete:
            return False
        if now.age_s >= QUIET_S:
            return True
        return before is not None and before.files == now.files
