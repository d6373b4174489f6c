"""One runtime's forward passes of one exported model, in a process of its own.

evaluation.speed.serving starts it: thread pools of several runtimes in one process get into each
other's way, and TensorFlow's can be set once only.
"""

import argparse
import json
import pathlib
import threading
import time
from collections.abc import Callable
from typing import Any

from data_pipeline import onednn  # noqa: F401 - before TensorFlow is imported

# isort: split

import numpy as np

Forward = Callable[[np.ndarray], np.ndarray]

ONNX = "assets.extra/model.onnx"  # in a version folder, as serving.export --also onnx leaves it
_WARM_UP = 3


def _tensorflow(version: pathlib.Path, threads: int, callers: int) -> Forward:
    del callers
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # Held by the closure: a signature does not keep the model that it belongs to.
    model = tf.saved_model.load(str(version))
    return lambda voxels: model.signatures["serving_default"](voxels=tf.constant(voxels))[
        "probabilities"
    ].numpy()


def _session(version: pathlib.Path, threads: int, callers: int) -> Forward:
    """As model servers run it."""
    del callers
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads)
    config.experimental.disable_thread_spinning = True
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=config)
    with graph.as_default():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(version))
    signature = loaded.signature_def["serving_default"]
    run: Forward = session.make_callable(
        signature.outputs["probabilities"].name, [signature.inputs["voxels"].name]
    )
    return run


def _onnxruntime(version: pathlib.Path, threads: int, callers: int) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(version / ONNX), options, providers=["CPUExecutionProvider"]
    )
    return lambda voxels: session.run(None, {"voxels": voxels})[0]


def _openvino(version: pathlib.Path, threads: int, callers: int) -> Forward:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # the same as the others, also where it has bfloat16
        "PERFORMANCE_HINT": "LATENCY" if callers == 1 else "THROUGHPUT",
        "INFERENCE_NUM_THREADS": threads * callers,
        "NUM_STREAMS": callers,
    }
    compiled = openvino.Core().compile_model(str(version / ONNX), "CPU", settings)
    own = threading.local()

    def forward(voxels: np.ndarray) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        answer: np.ndarray = own.request.infer({"voxels": voxels})[0]
        return answer

    return forward


RUNTIMES: dict[str, Callable[[pathlib.Path, int, int], Forward]] = {
    "tensorflow": _tensorflow,
    "tensorflow session": _session,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def measure(forward: Forward, tile: np.ndarray, callers: int, seconds: float) -> dict[str, Any]:
    """Returns milliseconds of each pass and passes a second, of so many callers at once."""
    spent_s: list[float] = []
    start = threading.Barrier(callers + 1)

    def call() -> None:
        for _ in range(_WARM_UP):
            forward(tile)
        start.wait()
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until:
            forward(tile)
            spent_s.append(time.perf_counter() - started)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    start.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return {
        "a_second": len(spent_s) / (time.perf_counter() - started),
        "milliseconds": [1000 * one for one in spent_s],
    }


def main() -> None:
    """Measures what the command line says and writes it."""
    parser = argparse.ArgumentParser(prog="evaluation.speed.forward", description=__doc__)
    parser.add_argument("version", type=pathlib.Path, help="exports/MODEL/VERSION")
    parser.add_argument("tile", type=pathlib.Path, help=".npy of float32 (1, *shape, channels)")
    parser.add_argument("out", type=pathlib.Path, help=".json; beside it .npy of probabilities")
    parser.add_argument("--runtime", choices=RUNTIMES, required=True)
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each caller")
    parser.add_argument("--seconds", type=float, default=3.0)
    flags = parser.parse_args()
    forward = RUNTIMES[flags.runtime](flags.version, flags.threads, flags.callers)
    tile = np.load(flags.tile)
    np.save(flags.out.with_suffix(".npy"), forward(tile))
    measured = measure(forward, tile, flags.callers, flags.seconds)
    flags.out.write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main()
