"""Calls a model server over gRPC; TensorFlow is not needed and not loaded."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np

from data_pipeline.errors import InputError
from serving import connection, messages, tensors
from serving.connection import Access, Reply

_OPTIONS = (
    # A 3D tile is larger than the 4 MiB that gRPC takes if it is not told otherwise.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that comes back is found in seconds; the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A channel of its own for each connection, so that close() closes it.
    ("grpc.use_local_subchannel_pool", 1),
)
_BUSY = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # by a server that stops; nobody here cancels
)


class GrpcConnection:
    """See connection.Connection."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._channel = _channel(access)
        self._metadata = (("authorization", f"Bearer {access.token}"),) if access.token else ()
        service = "/tensorflow.serving"
        self._predict = self._channel.unary_unary(
            f"{service}.PredictionService/Predict",
            messages.PredictRequest.SerializeToString,  # the reply stays bytes
        )
        self._status = self._channel.unary_unary(
            f"{service}.ModelService/GetModelStatus",
            messages.GetModelStatusRequest.SerializeToString,
            messages.GetModelStatusResponse.FromString,
        )

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
        request = request_for(model, signature, inputs, version=version, outputs=outputs)
        return self._answer(request)

    def version(self, model: str, label: str = "") -> int:
        """See connection.Connection."""
        if label:
            # GetModelStatus passes over labels. Predict does not, and tells who answered.
            query = {"query": np.array([b"version"], object)}
            request = request_for(model, "spec", query)
            request.model_spec.version_label = label
            return int(self._answer(request).version or 0)
        request = messages.GetModelStatusRequest()
        request.model_spec.name = model
        states = self._call(self._status, request).model_version_status
        available = [state.version for state in states if state.state == messages.AVAILABLE]
        if not available:
            told = [
                (one.version, messages.STATES.get(one.state, "?"), one.status.error_message)
                for one in states
            ]
            raise connection.NoneAvailable(self.access.address, model, told)
        return max(available)

    def close(self) -> None:
        """See connection.Connection."""
        self._channel.close()

    def _answer(self, request: Any) -> Reply:
        raw = self._call(self._predict, request)
        try:
            return Reply(*tensors.decode_reply(raw))
        except ValueError as error:
            raise connection.Refused(f"{self.access.address} answered {error}") from error

    def _call(self, method: Any, request: Any) -> Any:
        return connection.patiently(lambda: self._once(method, request), self.access)

    def _once(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self.access.deadline_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _failure(error, self.access.address) from error


def request_for(
    model: str,
    signature: str,
    inputs: Mapping[str, np.ndarray],
    *,
    version: int | None = None,
    outputs: Sequence[str] = (),
) -> Any:
    """Returns a PredictRequest."""
    request = messages.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(tensors.encode(array))
    return request


def _channel(access: Access) -> grpc.Channel:
    if not access.ca_file:
        return grpc.insecure_channel(access.address, _OPTIONS)
    try:
        certificate = pathlib.Path(access.ca_file).read_bytes()
    except OSError as error:
        raise InputError(f"{access.ca_file} cannot be read: {error.strerror}") from error
    return grpc.secure_channel(access.address, grpc.ssl_channel_credentials(certificate), _OPTIONS)


def _failure(error: Any, address: str) -> Exception:
    """Returns the exception that a gRPC status stands for."""
    code, text = error.code(), " ".join((error.details() or "").split())
    if code in _BUSY:
        return connection.Busy(text)
    if code == grpc.StatusCode.NOT_FOUND:
        return connection.NotServed(f"{address}: {text}")
    return connection.Refused(f"{address} answered {code.name}: {text}")
