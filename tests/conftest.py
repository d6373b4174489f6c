"""Fixtures that many tests share, and what must be set before TensorFlow is imported."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest

from data_pipeline import (
    onednn,  # noqa: F401 - as in every command
    phantom,
)

if TYPE_CHECKING:
    import fake_server
    import grpc
    import served_models
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    from training import plan


@pytest.fixture
def draw() -> Callable[..., np.ndarray]:
    """Makes a bool mask of rows of text: draw(".##.", "..#.")."""
    return lambda *rows: np.array([[pixel == "#" for pixel in row] for row in rows])


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of twelve phantom X-rays, one a patient; do not write beside it."""
    return phantom.write_manifest(tmp_path_factory.mktemp("phantoms"), count=12)


@pytest.fixture
def tiny_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes training.fit take a small network and short epochs."""
    from models import unet, zoo
    from training import fit

    monkeypatch.setattr(fit, "_LEAST_STEPS", 6)  # an epoch
    monkeypatch.setitem(zoo.NETWORKS, "unet", lambda spec: unet.build(spec, (4, 6)))


@pytest.fixture
def make_plan(tiny_training: None, phantoms: Path, tmp_path: Path) -> "Callable[..., plan.Plan]":
    """Plans a training of seconds: make_plan(name, **settings)."""
    from training import config, plan

    def make(name: str, **settings: Any) -> plan.Plan:
        chosen = config.TrainConfig(
            data=phantoms, cache=tmp_path / "cache", name=name, size=32, precision="float32",
            **({"runs": tmp_path / "runs", "batch_size": 4, "epochs": 2} | settings),
        )  # fmt: skip
        return plan.make(chosen)[0]

    return make


@pytest.fixture
def fake() -> "fake_server.Fake":
    """What a model server answers that has no network behind it."""
    import fake_server

    return fake_server.Fake()


@pytest.fixture
def address(fake: "fake_server.Fake") -> Iterator[str]:
    """Where it answers over gRPC."""
    import fake_server

    with fake_server.over_grpc(fake) as address:
        yield address


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[served_models.Running]":
    """The embedded server with the models of contract_server, one for all tests that only ask."""
    import contract_server

    with contract_server.running(tmp_path_factory.mktemp("contract")) as running:
        yield running


@pytest.fixture(scope="session")
def channel(server: "served_models.Running") -> "Iterator[grpc.Channel]":
    """A channel to it."""
    import contract_server

    with contract_server.channel(server) as channel:
        yield channel


@pytest.fixture(scope="session")
def prediction(channel: "grpc.Channel") -> "prediction_service_pb2_grpc.PredictionServiceStub":
    """Its calls that answer with a model."""
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    return prediction_service_pb2_grpc.PredictionServiceStub(channel)
