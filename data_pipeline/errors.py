"""Mistakes in what a user gave, told in one line and without a traceback."""

import contextlib
import errno
import sys
from collections.abc import Iterator

BAD_INPUT_EXIT_CODE = 2


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
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        _leave(f"cannot write {error.filename or 'the output'}: {error.strerror}")


def _leave(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201 - the one place that speaks to a user
    sys.exit(BAD_INPUT_EXIT_CODE)
