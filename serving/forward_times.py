"""What forward passes of an exported model take here, by rows and by threads."""

import pathlib
import time
from collections.abc import Sequence

import numpy as np

from data_pipeline import machine
from serving import fresh_process

_MS_REPEATS = 20
_ENOUGH_S = 10.0  # no repeat begins later: a pass of a large ensemble takes half a minute


def measure_s(
    version: pathlib.Path,
    sizes: Sequence[int],
    *,
    threads: int,
    at_once: int = 0,
    repeats: int = 5,
    longest_s: float = float("inf"),
) -> dict[int, float]:
    """Returns the least seconds of a batch in a fresh process, by its rows.

    All sizes take turns, since a slow moment of the machine at one of them would look like a gain
    of the others.

    Args:
      version: exports/MODEL/VERSION.
      sizes: rows of a batch, in increasing order.
      threads: that an operation is shared among.
      at_once: operations, of one row or of several; 0 leaves it to TensorFlow.
      repeats: of each size, as long as there is time.
      longest_s: no size is larger than the first that takes longer.

    Raises:
      Ended: if a pass ends its process.
    """
    return fresh_process.run(
        _least_s, version, tuple(sizes), (threads, at_once), repeats, longest_s
    )


def _least_s(
    version: pathlib.Path,
    sizes: Sequence[int],
    parallelism: tuple[int, int],
    repeats: int,
    longest_s: float,
) -> dict[int, float]:
    # Deferred: they load TensorFlow, which those who measure need not have.
    from data_pipeline import quiet_tensorflow  # noqa: F401 - first: it silences the import

    # isort: split

    from tensorflow.core.protobuf import config_pb2

    from serving.server import memory, servable

    # As the server has it, which adds nothing to the graph; the client's way to it adds a third.
    memory.keep_together()
    threads, at_once = parallelism
    config = config_pb2.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=at_once
    )
    config.experimental.disable_thread_spinning = True
    options = servable.LoadOptions(session_config=config)
    model = servable.Servable(version.parent.name, 1, str(version), options)
    signature = model.signatures[servable.DEFAULT_SIGNATURE]
    voxels, probabilities = signature.inputs["voxels"], signature.outputs["probabilities"]
    _, *tile = (dimension.size for dimension in voxels.tensor_shape.dim)
    least: dict[int, float] = {}
    begun = time.perf_counter()
    for number in range(1 + repeats):  # first uncounted: graphs are built and buffers laid out
        if number > 1 and time.perf_counter() - begun > _ENOUGH_S:
            break
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
    """Returns what one row takes by threads an operation: by one, and by as many as cores.

    Raises:
      Ended: if a pass ends its process.
    """
    return {
        threads: 1000 * measure_s(version, [1], threads=threads, repeats=_MS_REPEATS)[1]
        for threads in sorted({1, len(machine.cores())})
    }
