"""Fifty versions of a model, one after the other, while clients keep asking."""

import json
import pathlib
import shutil
import threading
import time
import urllib.request

import grpc
import numpy as np
import pytest
import served_models
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

SWAPS = 50
WEIGHTS = 4_000_000  # float32: 16 MB a version


def save_version(path: pathlib.Path, number: int) -> None:
    """y = x + version, by way of weights that a leak of versions would show."""

    class Adds(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(np.full(WEIGHTS, number, np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def add(self, x):
            return {"y": x + tf.reduce_max(self.weights)}

    module = Adds()
    tf.saved_model.save(module, str(path), {"serving_default": module.add})


class Client(threading.Thread):
    """Asks all the time, and notes what is wrong with an answer."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self.stop = threading.Event()
        self.wrong: list[str] = []
        self.versions: set[int] = set()

    def run(self) -> None:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "adds"
        request.inputs["x"].CopyFrom(served_models.tensor(np.float32([0, 1])))
        with grpc.insecure_channel(self._address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not self.stop.is_set():
                try:
                    reply = stub.Predict(request, timeout=60)
                except grpc.RpcError as error:
                    self.wrong.append(f"{error.code()}: {error.details()}")
                    continue
                version = reply.model_spec.version.value
                self.versions.add(version)
                if list(reply.outputs["y"].float_val) != [version, version + 1]:
                    self.wrong.append(f"version {version} answered {reply.outputs['y'].float_val}")


class RestClient(Client):
    """The same over REST, whose replies do not tell the version."""

    def run(self) -> None:
        url = f"http://{self._address}/v1/models/adds:predict"
        while not self.stop.is_set():
            try:
                with urllib.request.urlopen(url, b'{"instances": [0, 1]}', timeout=60) as reply:
                    first, second = json.load(reply)["predictions"]
            except OSError as error:
                self.wrong.append(str(error))
                continue
            self.versions.add(int(first))
            if second != first + 1 or first != int(first):
                self.wrong.append(f"{first}, {second}")


def resident_mib(running) -> float:
    text = pathlib.Path(f"/proc/{running.process.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def serves(running, number: int) -> bool:
    return running.get(f"/v1/models/adds/versions/{number}")[1].count('"AVAILABLE"') == 1


def ended(running, number: int) -> bool:
    return running.get(f"/v1/models/adds/versions/{number}")[1].count('"END"') == 1


def until(condition, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.slow
def test_50_swaps_under_load_lose_nothing_and_keep_the_memory_where_it_was(tmp_path):
    base = tmp_path / "adds"
    base.mkdir()
    save_version(base / "1", 1)
    with served_models.serving(
        f"--model_base_path={base}", "--model_name=adds", log=tmp_path / "log"
    ) as running:
        clients = [Client(running.address) for _ in range(3)]
        clients += [RestClient(f"127.0.0.1:{running.rest_port}") for _ in range(2)]
        for client in clients:
            client.start()
        settled = 0.0
        for number in range(2, SWAPS + 2):
            save_version(tmp_path / "next", number)
            (tmp_path / "next").rename(base / str(number))
            until(lambda n=number: serves(running, n))
            until(lambda n=number: ended(running, n - 1))
            shutil.rmtree(base / str(number - 1))
            if number == 6:
                settled = resident_mib(running)
        after = resident_mib(running)
        for client in clients:
            client.stop.set()
        for client in clients:
            client.join()
    assert [wrong for client in clients for wrong in client.wrong] == []
    # Asked all the while: a client that has waited for a swap has missed versions.
    assert all(len(client.versions) > SWAPS / 2 for client in clients)
    assert SWAPS + 1 in set.union(*(client.versions for client in clients))
    assert all(client.versions <= set(range(1, SWAPS + 2)) for client in clients)
    assert after < settled * 1.1, f"{settled:.0f} MiB after 5 swaps, {after:.0f} after {SWAPS}"
