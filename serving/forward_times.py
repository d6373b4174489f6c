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
    # Deferred: they load TensorFlow, which those who measure need not have.
    from data_pipeline import quiet_tensorflow  # noqa: F401 - first: it silences the import

    # isort: split

    from tensorflow.core.protobuf import config_pb2

    from serving.server import memory, servable

    # As the server has it, which adds nothing to the graph; the client's way to it adds a third.
    memory.keep_together()
    config = config_pb2.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads
    )
    config.experimental.disable_thread_spinning = True
    options = servable.LoadOptions(session_config=config)
    model = servable.Servable(version.parent.name, 1, str(version), options)
    signature = model.signatures[servable.DEFAULT_SIGNATURE]
    voxels, probabilities = signature.inputs["voxels"], signature.outputs["probabilities"]
    _, *tile = (dimension.size for dimension in voxels.tensor_shape.dim)
    least: dict[int, float] = {}
    for number in range(1 + repeats):  # first uncounted: graphs are built and buffers laid out
        for rows in sizes:
            feeds = {voxels.name: np.zeros((rows, *tile), np.float32)}
            started = time.perf_counter()
            model.run(feeds, [probabilities.name])
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
