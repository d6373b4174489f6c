"""One loaded version of a SavedModel, run as the C++ server runs it.

The model goes into a session of its own. `Session.run` is not used: it compares shapes
with the placeholders and refuses what the C++ server hands to the graph. The call below it
does not, takes a deadline, and lets other threads work while the graph runs.
"""

import dataclasses
import gc
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.saved_model import loader_impl

from serving.server import guards, memory, status

logger = logging.getLogger(__name__)

DEFAULT_SIGNATURE = "serving_default"
_TIMED_OUT = "Timed out waiting for notification"


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """How every version of every model is loaded."""

    tags: tuple[str, ...] = ("serve",)
    session_config: config_pb2.ConfigProto | None = None


class Servable:
    """A version of a model that answers. Thread-safe."""

    def __init__(self, name: str, version: int, path: str, options: LoadOptions) -> None:
        """Loads the SavedModel.

        Raises:
          tf.errors.OpError, OSError, RuntimeError, ValueError: if it is not one that
            TensorFlow can load.
        """
        self.name = name
        self.version = version
        self.path = path
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph, config=options.session_config)
        try:
            meta_graph, self.checks_ranks = _load(self._session, options.tags, path)
        except BaseException:
            self._session.close()
            raise
        self.signatures: Mapping[str, meta_graph_pb2.SignatureDef] = {
            name: signature
            for name, signature in meta_graph.signature_def.items()
            if not name.startswith("__saved_model_")
        }
        self._handles: dict[str, object] = {}
        self._handles_lock = threading.Lock()

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        timeout_s: float | None = None,
    ) -> list[np.ndarray]:
        """Runs the graph from tensor names to tensor names.

        Args:
          feeds: tensor name ("x:0") to array.
          fetches: tensor names.
          timeout_s: seconds after which TensorFlow gives the step up; None waits.

        Raises:
          ServingError: with TensorFlow's own code and message if the graph fails.
        """
        options = _run_options(timeout_s)
        try:
            outputs: list[np.ndarray] = self._session._call_tf_sessionrun(
                options,
                {self._handle(name): array for name, array in feeds.items()},
                [self._handle(name) for name in fetches],
                [],
                None,
            )
            return outputs
        except tf.errors.DeadlineExceededError as error:
            raise status.ServingError(status.code_of(error.error_code), _TIMED_OUT) from error
        except tf.errors.OpError as error:
            raise status.ServingError(status.code_of(error.error_code), error.message) from error
        finally:
            if options is not None:
                pywrap_tf_session.TF_DeleteBuffer(options)

    def _handle(self, name: str) -> object:
        handle = self._handles.get(name)
        if handle is None:
            try:
                tensor = self._graph.get_tensor_by_name(name)
            except (KeyError, ValueError, TypeError) as error:
                raise status.invalid(f"Tensor {name} is not in the graph of {self.name}") from error
            with self._handles_lock:
                handle = self._handles[name] = tensor._as_tf_output()
        return handle

    def close(self) -> None:
        """Gives the model's memory back to the system."""
        self._session.close()
        self._handles.clear()
        del self._session, self._graph
        gc.collect()
        memory.give_back()


def _load(
    session: tf.compat.v1.Session, tags: Sequence[str], path: str
) -> tuple[meta_graph_pb2.MetaGraphDef, bool]:
    """Loads a SavedModel; also tells whether the ranks of its inputs are to be checked."""
    loader = loader_impl.SavedModelLoader(path)
    meta_graph = loader.get_meta_graph_def_from_tags(tags)
    convolves = guards.has_convolution(meta_graph)
    if convolves and guards.has_unknown_rank(meta_graph):
        guards.check_ranks_in_graph(meta_graph)
    elif convolves:
        guards.keep_padding(meta_graph)
    loader.load(session, list(tags))
    return meta_graph, convolves


def _run_options(timeout_s: float | None) -> Any:
    if timeout_s is None:
        return None
    options = config_pb2.RunOptions(timeout_in_ms=max(1, int(timeout_s * 1000)))
    return pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString())
