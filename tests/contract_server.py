"""The embedded server with three models, to be held against the contract's own words."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
import served_models
from google.protobuf.message import Message
from tensorflow_serving.apis import predict_pb2

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@contextlib.contextmanager
def running(base: pathlib.Path) -> Iterator[served_models.Running]:
    """Serves `half` (versions 1, labelled stable, and 2), `text` and `examples` out of a folder."""
    served_models.half_plus(base / "half" / "1", 2.0)
    served_models.half_plus(base / "half" / "00000002", 3.0)
    served_models.strings(base / "text" / "1")
    served_models.examples_tf1(base / "examples" / "1")
    (base / "models.config").write_text(
        "model_config_list {"
        f'config {{ name: "half" base_path: "{base}/half" model_platform: "tensorflow"'
        '  version_labels { key: "stable" value: 1 }'
        "  model_version_policy { all {} } }"
        f'config {{ name: "text" base_path: "{base}/text" model_platform: "tensorflow" }}'
        f'config {{ name: "examples" base_path: "{base}/examples" model_platform: "tensorflow" }}'
        "}"
    )
    (base / "monitoring.config").write_text("prometheus_config { enable: true }")
    with served_models.serving(
        f"--model_config_file={base}/models.config",
        f"--monitoring_config_file={base}/monitoring.config",
        "--allow_version_labels_for_unavailable_models",
        "--enable_grpc_healthcheck_service=true",
        "--rest_api_enable_cors_support",
        log=base / "server.log",
    ) as server:
        yield server


def channel(server: served_models.Running) -> grpc.Channel:
    """A channel for messages of any size; use it in a `with`."""
    return grpc.insecure_channel(server.address, options=_UNLIMITED)


def predict_request(
    name: str = "half",
    signature: str = "",
    version: int | None = None,
    label: str = "",
    **arrays: np.ndarray,
) -> predict_pb2.PredictRequest:
    """A request for a model with inputs by name."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label:
        request.model_spec.version_label = label
    for key, array in arrays.items():
        request.inputs[key].CopyFrom(served_models.tensor(array))
    return request


def refused(call: Callable[..., object], request: Message | bytes) -> tuple[str, str]:
    """The name of the code and the text with which a call is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=120)
    return caught.value.code().name, caught.value.details()
