"""From an array to a mask, by a model that a server has.

    from serving import client
    model = client.connect("localhost:8500", "lung_unet")
    mask = model.segment(array)

The client has no TensorFlow, no preprocessing of its own and no copy of the model's spec: it
asks the server what the model takes, and leaves the rest to data_pipeline.inference, which is
what evaluation uses too.
"""

import dataclasses
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

import numpy as np

from data_pipeline import inference, spec
from data_pipeline.errors import InputError
from data_pipeline.scan import Mask, Scan
from data_pipeline.spec import InputSpec
from serving import connection, encoded, grpc_client, in_flight, protocol, rest_client
from serving.connection import Access, Connection

T = TypeVar("T")

PARALLEL = 4  # requests on their way at once; a server with more cores takes more

APIS: dict[str, Callable[[Access], Connection]] = {
    "grpc": grpc_client.GrpcConnection,
    "rest": rest_client.RestConnection,
}


@dataclasses.dataclass(frozen=True)
class Served:
    """One version of a model on a server."""

    server: Connection
    name: str
    version: int
    spec: InputSpec
    each: inference.Each = map  # how it is asked for the tiles of a scan: see there

    def predict(self, voxels: np.ndarray) -> np.ndarray:
        """Returns probabilities (n, *shape, labels) of tiles (n, *shape, channels)."""
        inputs = {"voxels": np.asarray(voxels, np.float32)}
        return self._run("serving_default", inputs, "probabilities")

    def probabilities(self, scan: Scan) -> np.ndarray:
        """Returns float32 (labels, *scan.shape)."""
        return inference.probabilities(scan, self.spec, self.predict, each=self.each)

    def mask(self, scan: Scan) -> Mask:
        """Returns the mask of a scan, on its grid."""
        return inference.mask(self.probabilities(scan), self.spec)

    def mask_of_file(self, image_bytes: bytes, signature: str = "masks") -> Mask:
        """Returns the mask of a PNG or JPEG file, which the server decodes."""

        def masks(files: np.ndarray) -> np.ndarray:
            return self._run(signature, {"image_bytes": files}, "mask_bytes")

        [[png]] = self.each(masks, [np.array([image_bytes], object)])
        return encoded.mask_from_png(png, self.spec.labels)

    def _run(self, signature: str, inputs: dict[str, np.ndarray], output: str) -> np.ndarray:
        reply = self.server.predict(
            self.name, signature, inputs, version=self.version, outputs=(output,)
        )
        return reply.outputs[output]


class Model:
    """A model on a server; each scan is segmented by one version of it from start to end.

    Up to `parallel` requests are on their way at once, for all scans together.
    """

    def __init__(
        self, server: Connection, name: str, label: str = "", parallel: int = PARALLEL
    ) -> None:
        self.server = server
        self._name, self._label = name, label
        self._pool = futures.ThreadPoolExecutor(parallel)
        self._each = in_flight.in_order(self._pool, parallel)
        self.served = self._ask()

    @property
    def spec(self) -> InputSpec:
        """What the model takes and gives."""
        return self.served.spec

    def segment(self, voxels: np.ndarray) -> Mask:
        """Returns the mask of voxels in spec.units: (rows, cols) or (slices, rows, cols)."""
        array = np.asarray(voxels, np.float32)
        return self.mask(Scan(array, self.spec.modality, self.spec.units, "array"))

    def mask(self, scan: Scan) -> Mask:
        """Returns the mask of a scan, on its grid."""
        return self.on_one_version(lambda served: served.mask(scan))

    def on_one_version(self, work: Callable[[Served], T]) -> T:
        """Returns work(version), done again from its start if that version goes meanwhile."""
        served = self.served
        try:
            return work(served)
        except connection.NotServed:
            # Either a newer version has taken its place, or the server has just come back and
            # is not done loading.
            self.served = connection.patiently(self._ask_again, self.server.access)
            return work(self.served)

    def _ask(self) -> Served:
        served = _ask(self.server, self._name, self._label)
        return dataclasses.replace(served, each=self._each)

    def _ask_again(self) -> Served:
        try:
            return self._ask()
        except connection.NotServed as error:
            raise connection.Busy(str(error)) from error

    def close(self) -> None:
        """Ends the connection; what is on its way is given up."""
        self.server.close()
        self._pool.shutdown(cancel_futures=True)


def connect(
    address: str, model: str, *, api: str = "grpc", label: str = "", parallel: int = PARALLEL
) -> Model:
    """Returns a model of a server.

    Args:
      address: HOST:PORT; TensorFlow Serving's ports are 8500 for gRPC and 8501 for REST.
      model: the name it is served under.
      api: "grpc" or "rest".
      label: such as "stable"; "" for the latest version.
      parallel: tiles, slices and files that are on their way at once.

    Raises:
      InputError: if there is no server, no such model, or it is not one of this project.
    """
    return reach(Access(address), model, api=api, label=label, parallel=parallel)


def reach(
    access: Access, model: str, *, api: str = "grpc", label: str = "", parallel: int = PARALLEL
) -> Model:
    """As connect, for a server behind TLS or a token, or with other patience.

    The first answer must come within seconds: a server that was never there is a mistake in
    the address more often than an outage.
    """
    hasty = dataclasses.replace(access, outage_s=min(access.outage_s, 2.0), deadline_s=20.0)
    first = APIS[api](hasty)
    try:
        first.version(model, label)
    except connection.ServerDown as error:
        if wrong := protocol.advice(access, api):
            raise connection.ServerDown(f"{access.address} {wrong}") from error
        raise connection.ServerDown(
            f"{error}; is a server running there? `python -m serving.launch "
            f"--model_name {model} --model_base_path EXPORT` starts one"
        ) from error
    except connection.NoneAvailable:
        raise
    except connection.NotServed as error:
        raise connection.NotServed(
            f"{error}; a model is called as its server was told (--model_name, or models.config)"
        ) from error
    finally:
        first.close()
    return Model(APIS[api](access), model, label, parallel)


def _ask(server: Connection, model: str, label: str) -> Served:
    """Returns the version to use, with its spec.

    Raises:
      InputError: if the model has no signature that tells.
    """
    version = server.version(model, label)
    query = {"query": np.array([b"spec"], object)}
    try:
        reply = server.predict(model, "spec", query, version=version, outputs=("spec",))
    except connection.Refused as error:
        raise InputError(
            f"{model} does not say what it takes, so it is no export of serving.export: {error}"
        ) from error
    told = spec.parse(reply.outputs["spec"][0], f"what {model} says of itself")
    return Served(server, model, version, told)
