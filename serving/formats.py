"""The same network for other runtimes, as files beside the SavedModel: ONNX and LiteRT.

Another runtime sums in another order, so its masks cannot be promised to be the trained model's
in every pixel. How far they may be off is serving.parity.CLOSE; parity.json says how far they
are, and an export that is further off is refused.
"""

import contextlib
import dataclasses
import logging
import pathlib
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from data_pipeline.errors import InputError
from data_pipeline.inference import Predict
from models.segmenter import Network

_OPSET = 18  # of ONNX; ONNX Runtime 1.14 (2023) and later know it


@dataclasses.dataclass(frozen=True)
class Format:
    """How a network is written for a runtime, and run there."""

    file: str  # its name in assets.extra
    write: Callable[[tf.types.experimental.GenericFunction, pathlib.Path], None]
    load: Callable[[pathlib.Path], Predict]


def write(name: str, network: Network, folder: pathlib.Path) -> pathlib.Path:
    """Writes a network, from `voxels` (1, *shape, channels) to `probabilities`, for a runtime.

    Raises:
      InputError: if what converts or runs it is not installed.
    """
    spec = network.spec
    tile = tf.TensorSpec((1, *spec.shape, spec.channels), tf.float32, name="voxels")
    graph = network.graph  # made here, since it cannot be made inside another graph
    function = tf.function(lambda voxels: {"probabilities": graph(voxels)}, input_signature=[tile])
    path = folder / FORMATS[name].file
    with _extra(name), _quiet():
        FORMATS[name].write(function, path)
    return path


def load(name: str, path: pathlib.Path) -> Predict:
    """Returns the network in a file, as its runtime runs it: tile by tile.

    Raises:
      InputError: if the runtime is not installed.
    """
    with _extra(name), _quiet():
        return FORMATS[name].load(path)


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"--also {name} needs {error.name}: pip install --editable '.[formats]' "
            "-c constraints/main.txt"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what converters say of themselves."""
    kept = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(kept)


def _write_onnx(function: tf.types.experimental.GenericFunction, path: pathlib.Path) -> None:
    import tf2onnx

    tf2onnx.convert.from_function(
        function, function.input_signature, opset=_OPSET, output_path=str(path)
    )


def _load_onnx(path: pathlib.Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda tiles: np.concatenate(
        [session.run(["probabilities"], {"voxels": tile[None]})[0] for tile in tiles]
    )


def _write_litert(function: tf.types.experimental.GenericFunction, path: pathlib.Path) -> None:
    import ai_edge_litert  # noqa: F401 - what is written must be run before it counts

    module = tf.Module()
    module.predict = function
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], module
    )
    path.write_bytes(converter.convert())


def _load_litert(path: pathlib.Path) -> Predict:
    from ai_edge_litert import interpreter

    loaded = interpreter.Interpreter(model_path=str(path))
    loaded.allocate_tensors()
    [voxels], [probabilities] = loaded.get_input_details(), loaded.get_output_details()

    def run(tile: np.ndarray) -> np.ndarray:
        loaded.set_tensor(voxels["index"], tile[None])
        loaded.invoke()
        answer: np.ndarray = loaded.get_tensor(probabilities["index"])
        return answer

    return lambda tiles: np.concatenate([run(tile) for tile in tiles])


FORMATS = {
    "onnx": Format("model.onnx", _write_onnx, _load_onnx),
    "litert": Format("model.tflite", _write_litert, _load_litert),
}
