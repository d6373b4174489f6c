"""What forward passes of an exported model take here, by rows and by threads."""

import pathlib
import time
from collections.abc import Sequence

import numpy as np

from serving import fresh_process, operation_threads

_MS_REPEATS = 20


def measure_s(
    version: pathlib.Path,
    sizes: Sequence[int],
    *,
    threads: int,
    repeats: int = 5,
    longest_s: float = float("inf"),
) -> dict[int, float]:
    """Returns the least seconds of a batch in a fresh process on so many cores, by its rows.

    All sizes take turns, since a slow moment of the machine at one of them would look like a gain
    of the others.

    Args:
      version: exports/MODEL/VERSION.
      sizes: rows of a batch, in increasing order.
      threads: that operations, and rows of a batch, are shared among.
      repeats: of each size.
      longest_s: no size is larger than the first that takes longer.
    """
    return fresh_process.run(_least_s, version, tuple(sizes), threads, repeats, longest_s)


def _least_s(
    version: pathlib.Path, sizes: Sequence[int], threads: int, repeats: int, longest_s: float
) -> dict[int, float]:
    # Deferred: it loads TensorFlow, which those who measure need not have.
    from serving import saved_model

    # TensorFlow takes it once in a process, before anything runs.
    saved_model.set_threads(threads)
    served = saved_model.load(version)
    least: dict[int, float] = {}
    for number in range(1 + repeats):  # first uncounted: graphs are built and buffers laid out
        for rows in sizes:
            voxels = np.zeros((rows, *served.spec.shape, served.spec.channels), np.float32)
            started = time.perf_counter()
            served.predict(voxels)
            spent = time.perf_counter() - started
            if number:
                least[rows] = min(spent, least.get(rows, spent))
            if spent > longest_s:
                break
    return least


def pass_ms(version: pathlib.Path) -> dict[int, float]:
    """Returns what one row takes by threads an operation: by one, and by as many as cores."""
    return {
        count: 1000 * measure_s(version, [1], threads=count, repeats=_MS_REPEATS)[1]
        for count in sorted({1, operation_threads.cores()})
    }
