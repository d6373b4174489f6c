"""Bytes from s3://, gs:// and az:// through tf.data; for the tensorflow-io lane.

Only data_pipeline.remote imports this, when it meets a path that needs it. tensorflow-io brings
s3:// and az://, TensorFlow itself gs://. Where a store lies and who asks is said by their
environment variables (docs/data.md).
"""

import contextlib
import ctypes
import pathlib
from collections.abc import Iterator, Sequence

import tensorflow as tf
import tensorflow_io  # type: ignore[import-not-found]  # noqa: F401 - registers file systems

from data_pipeline import location
from data_pipeline.errors import InputError

# Files on their way at once. Each is in memory while it is copied, and volumes are large.
_AT_ONCE = 4


def _end_without_destructors() -> None:
    """Has the process end before C++ tears down its globals.

    Once it has spoken to S3, tensorflow-io 0.37 aborts there with "pure virtual method called",
    which turns every exit code into 134 (github.com/tensorflow/io/issues/2039). By then Python
    has cleaned up and written all it had to.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc; calls _exit(status) before what was registered earlier
        libc.on_exit(libc._exit, None)


_end_without_destructors()


def fetch(path: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Copies a remote file, or all files below a remote folder, into a local folder.

    Args:
      path: a file, a folder, or FOLDER#SERIES.
      folder: where the copy goes, under its own name.

    Returns:
      The copy, with #SERIES again if the path had one.

    Raises:
      InputError: if there is nothing, or it may not be read.
    """
    whole, series = path, ""
    with _one_line(path):
        if "#" in path.name and not tf.io.gfile.exists(location.name(path)):
            whole, series = location.split_series(path)
    files = below(whole) or [whole]  # the latter to fail with the store's own reason
    local = [folder / file.relative_to(whole.parent) for file in files]
    for file in local:
        file.parent.mkdir(parents=True, exist_ok=True)
    for _ in _copies(files, local):
        pass
    return folder / (f"{whole.name}#{series}" if series else whole.name)


def ahead(
    groups: Sequence[Sequence[pathlib.Path]], folder: pathlib.Path
) -> Iterator[dict[pathlib.Path, pathlib.Path]]:
    """Yields for each group of files their local copies, fetching the next meanwhile.

    Raises:
      InputError: if a file is missing or may not be read.
    """
    # One file may hold several masks of a case; it is fetched once.
    wanted = [list(dict.fromkeys(group)) for group in groups]
    files = [path for group in wanted for path in group]
    # The number keeps names apart; the end says the type.
    local = [folder / f"{number}-{path.name}" for number, path in enumerate(files)]
    arriving = _copies(files, local)
    for group in wanted:
        yield {path: next(arriving) for path in group}


def below(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files below a folder, sorted; a file itself; none if there is nothing."""
    with _one_line(path):
        if not tf.io.gfile.isdir(location.name(path)):
            return [path] if tf.io.gfile.exists(location.name(path)) else []
        return sorted(
            pathlib.Path(parent) / name
            for parent, _, names in tf.io.gfile.walk(location.name(path))
            for name in names
            if name
        )


def _copies(files: Sequence[pathlib.Path], local: Sequence[pathlib.Path]) -> Iterator[pathlib.Path]:
    """Yields the local names in order, each once its file has been written."""

    def copy(source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        written = tf.io.write_file(target, tf.io.read_file(source))
        with tf.control_dependencies([written]):
            return tf.identity(target)

    pairs = tf.data.Dataset.from_tensor_slices(
        ([location.name(file) for file in files], [str(file) for file in local])
    )
    arriving = iter(pairs.map(copy, num_parallel_calls=_AT_ONCE).prefetch(_AT_ONCE))
    for file in files:
        with _one_line(file):
            target = next(arriving)
        yield pathlib.Path(target.numpy().decode())


def stamp(path: pathlib.Path) -> tuple[int, int] | None:
    """Returns size in bytes and time of the last change in ns; None if it is no file."""
    try:
        found = tf.io.gfile.stat(location.name(path))
    except tf.errors.NotFoundError:
        return None
    except tf.errors.OpError as error:
        raise _told(path, error) from error
    return None if found.is_directory else (int(found.length), int(found.mtime_nsec))


@contextlib.contextmanager
def _one_line(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except tf.errors.OpError as error:
        raise _told(path, error) from error


def _told(path: pathlib.Path, error: tf.errors.OpError) -> InputError:
    if isinstance(error, tf.errors.NotFoundError):
        return InputError(
            f"{location.name(path)} does not exist, or these credentials do not see it"
        )
    reason = " ".join(str(error.message).split())[:200]
    return InputError(f"{location.name(path)} cannot be read: {reason}")
