"""Files are not trusted: what one may claim, and how a damaged one is told.

A header is a few bytes that anyone can write. Before memory is taken for what it claims, the
claim is held against the bytes that are really there.
"""

import contextlib
import io
import pathlib
from collections.abc import Iterator

from data_pipeline.errors import InputError

LARGEST_IMAGE_PIXELS = 2**26  # 8,192 x 8,192; the largest X-ray detectors have 20 million
LARGEST_SCAN_BYTES = 2**34  # as stored; 16 GiB are 32,768 slices of 512 x 512 in 16 bit

# No deflate stream (gzip, zlib, ZIP) is longer than this many times its compressed bytes.
DEFLATE_RATIO = 1032
# Nor does a real image compress better; a black one does, so small claims are not held to it.
_IMAGE_RATIO = 2000
_SMALL_CLAIM_BYTES = 2**26

_MOST_BEHIND_BYTES = 2**20  # that a writer may have left behind an image


@contextlib.contextmanager
def damaged(name: object, kind: str) -> Iterator[None]:
    """Tells whatever a library stumbles over in a damaged file as one InputError.

    Its message is left out: libraries quote values of the header, which may be a patient's.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a parser of a damaged file raises whatever it runs into
        raise InputError(
            f"{name} is damaged, cut short, or no {kind} at all ({type(error).__name__})"
        ) from error


def check_claim(name: object, claimed_bytes: int, stored_bytes: int, ratio: int = 1) -> None:
    """Refuses a header that claims more than its file can hold.

    Args:
      name: of the file, for the message.
      claimed_bytes: what the header makes of the image.
      stored_bytes: what the file has for it.
      ratio: how well the encoding can compress at most.

    Raises:
      InputError: if the claim cannot be true, or is beyond what is read at all.
    """
    if claimed_bytes <= 0:
        raise InputError(f"{name} says that its image is empty")
    if claimed_bytes > LARGEST_SCAN_BYTES:
        raise InputError(
            f"{name} says that its image has {claimed_bytes:,} bytes; "
            f"up to {LARGEST_SCAN_BYTES:,} are read"
        )
    if claimed_bytes > stored_bytes * ratio:
        raise InputError(
            f"{name} is cut short or damaged: its header asks for {claimed_bytes:,} bytes, "
            f"the file has {stored_bytes:,}" + (" compressed" if ratio > 1 else "")
        )


def check_image_claim(name: object, claimed_bytes: int, stored_bytes: int) -> None:
    """As `check_claim`, for image compression, in which a black image may be very short."""
    small = claimed_bytes <= _SMALL_CLAIM_BYTES
    check_claim(name, claimed_bytes, claimed_bytes if small else stored_bytes, _IMAGE_RATIO)


def check_end(name: object, file: io.BufferedIOBase) -> None:
    """Reads to the end of a file behind its image, so that gzip compares its check sum.

    A damaged byte mostly inflates to other numbers, which nothing else would tell.

    Raises:
      InputError: if there is more than a little behind the image.
    """
    if len(file.read(_MOST_BEHIND_BYTES + 1)) > _MOST_BEHIND_BYTES:
        raise InputError(f"{name} holds more than its header says")


def file_bytes(path: pathlib.Path) -> int:
    """Returns the size of a file.

    Raises:
      InputError: if there is no such file.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
