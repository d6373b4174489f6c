"""Mistakes in what a user gave, told in one line and without a traceback."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

BAD_INPUT_EXIT_CODE = 2

_FULL_OR_CLOSED = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS,
    errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG,
)  # fmt: skip


class InputError(ValueError):
    """What a user gave cannot be used: the message says what, why and what would work."""


@contextlib.contextmanager
def one_line_for_bad_input() -> Iterator[None]:
    """Ends the process with one line on stderr and exit code 2 on a user's mistake.

    A full disk counts as one: nothing was lost, and the user can make room. Any other
    error is ours and keeps its traceback.
    """
    try:
        yield
    except InputError as error:
        _leave(str(error))
    except OSError as error:
        if error.errno in _FULL_OR_CLOSED:
            _leave(f"cannot write {error.filename or 'the output'}: {error.strerror}")
        _leave_if_full(error)
        raise
    except Exception as error:
        _leave_if_full(error)
        raise


def _leave_if_full(error: Exception) -> None:
    # HDF5 and TensorFlow tell it in words only, and with errors of their own.
    if os.strerror(errno.ENOSPC) in str(error):
        _leave(f"cannot write the output: {os.strerror(errno.ENOSPC)}")


def _leave(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201 - the one place that speaks to a user
    sys.exit(BAD_INPUT_EXIT_CODE)
