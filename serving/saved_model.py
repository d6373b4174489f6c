"""An export on disk: written from a network, and read back as if it were a server."""

import pathlib
from collections.abc import Mapping, Sequence

from data_pipeline import quiet_tensorflow  # noqa: F401 - first: it silences the import

# isort: split

import numpy as np
import tensorflow as tf

from data_pipeline import spec
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec
from models.segmenter import Network
from serving import client, connection, encoded, grpc_client, messages, signatures
from serving.connection import Access, Reply

EXTRA = "assets.extra"  # TensorFlow Serving looks here for the warm-up file
_SPEC = "spec.json"


def write(network: Network, folder: pathlib.Path, drawn: Mapping[str, np.ndarray]) -> None:
    """Writes a network as a version folder: SavedModel, spec and warm-up requests.

    Args:
      network: trained.
      folder: must not exist.
      drawn: an input for each signature, none of it from a patient, for the warm-up.
    """
    served = signatures.Served(network.graph, network.spec)
    tf.saved_model.save(served, str(folder), signatures=served.functions())
    (folder / EXTRA).mkdir()
    network.spec.save(folder / EXTRA / _SPEC)
    _write_warm_up(folder / EXTRA / "tf_serving_warmup_requests", drawn)


def warm_up_inputs(spec: InputSpec, png: bytes | None) -> dict[str, np.ndarray]:
    """Returns an input for each signature that a model of this spec has."""
    voxels = np.zeros((1, *spec.shape, spec.channels), np.float32)
    files = {} if png is None else dict.fromkeys(encoded.SIGNATURES, np.array([png], object))
    return {"serving_default": voxels, "spec": np.array([b"spec"], object)} | files


def _write_warm_up(path: pathlib.Path, drawn: Mapping[str, np.ndarray]) -> None:
    names = {"serving_default": "voxels", "spec": "query"}
    names |= dict.fromkeys(encoded.SIGNATURES, "image_bytes")
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature, array in drawn.items():
            log = messages.PredictionLog()
            request = grpc_client.request_for("warm-up", signature, {names[signature]: array})
            log.predict_log.request.CopyFrom(request)
            file.write(log.SerializeToString())


class InProcess:
    """See connection.Connection: a SavedModel in this process, without a wire."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.access = Access(str(folder))
        try:
            self._model = tf.saved_model.load(str(folder))
        except OSError as error:
            raise InputError(f"{folder} is not a SavedModel: {error}") from error

    def predict(
        self,
        model: str,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: int | None = None,
        outputs: Sequence[str] = (),
    ) -> Reply:
        """See connection.Connection."""
        function = self._model.signatures[signature]
        try:
            found = function(**{name: _tensor(array) for name, array in inputs.items()})
        except tf.errors.InvalidArgumentError as error:
            raise connection.Refused(error.message) from error
        return Reply({name: found[name].numpy() for name in outputs or found}, version)

    def version(self, model: str, label: str = "") -> int:
        """See connection.Connection."""
        return int(pathlib.Path(self.access.address).name)

    def close(self) -> None:
        """See connection.Connection."""


def _tensor(array: np.ndarray) -> tf.Tensor:
    return tf.constant(array.tolist() if array.dtype == object else array)


def load(folder: pathlib.Path) -> client.Served:
    """Returns the model in a version folder, as a client sees it.

    Raises:
      InputError: if it is not one.
    """
    server = InProcess(folder)
    told = spec.load(folder / EXTRA / _SPEC)
    return client.Served(server, folder.parent.name, int(folder.name), told)
