"""Clients that break off in the middle of a large body: what they sent is not kept."""

import pathlib
import socket
import struct
import threading
import time

import grpc
import numpy as np
import pytest
import served_models
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

MIB = 1024 * 1024
PIECE = bytes(MIB)
# What a server may have grown by after many bodies, each larger: pools, and the heap's loose ends.
SLACK_MIB = 60
# The server gives freed memory back every ten seconds, and a busy machine is slower.
TIDY_S = 60.0

pytestmark = pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    served_models.half_plus(base / "half" / "1")
    flags = ("--model_name=half", f"--model_base_path={base}/half")
    with served_models.serving(*flags, log=base / "server.log") as running:
        yield running
        assert running.process.poll() is None, "the server died"


def resident_mib(server: served_models.Running) -> float:
    text = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def break_off_over_rest(server: served_models.Running, size_mib: int, share: float = 0.5) -> None:
    """Posts a share of a body and resets the connection."""
    head = b"POST /v1/models/half:predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.rest_port), 60) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(head % (size_mib * MIB))
        for _ in range(int(size_mib * share)):
            client.sendall(PIECE)


def break_off_over_grpc(server: served_models.Running, size_mib: int, share: float = 0.5) -> None:
    """Lets a share of a message's bytes through from a client, then resets and cancels."""
    message = predict_pb2.PredictRequest()
    message.inputs["x"].tensor_content = bytes(size_mib * MIB)
    with socket.create_server(("127.0.0.1", 0)) as relay:
        address = f"127.0.0.1:{relay.getsockname()[1]}"
        with grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel:
            call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.future(
                message
            )
            near, _ = relay.accept()
            with near, socket.create_connection(("127.0.0.1", server.port), 60) as far:
                far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                back = threading.Thread(target=_pass_on, args=(far, near, None), daemon=True)
                back.start()
                _pass_on(near, far, int(size_mib * MIB * share))
                far.shutdown(socket.SHUT_RD)  # wakes the other direction, which holds the socket
                back.join(60)
            call.cancel()


def _pass_on(source: socket.socket, target: socket.socket, limit: int | None) -> None:
    passed = 0
    try:
        while (limit is None or passed < limit) and (piece := source.recv(MIB)):
            target.sendall(piece)
            passed += len(piece)
    except OSError:
        pass  # the other direction has been reset


@pytest.mark.parametrize("share", [0.5, 1.0], ids=["in the middle", "before the answer"])
@pytest.mark.parametrize("break_off", [break_off_over_rest, break_off_over_grpc])
def test_bodies_that_break_off_are_forgotten(server, break_off, share):
    check(server, break_off, times=4, size_mib=96, share=share)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("break_off", [break_off_over_rest, break_off_over_grpc])
def test_50_bodies_of_200_mb_that_break_off_are_forgotten(server, break_off):
    check(server, break_off, times=50, size_mib=200)


def check(
    server: served_models.Running, break_off, times: int, size_mib: int, share: float = 0.5
) -> None:
    break_off(server, size_mib, share)  # the first one makes pools that stay
    is_served(server)
    before = resident_mib(server)
    for _ in range(times):
        break_off(server, size_mib, share)
    is_served(server)
    until = time.monotonic() + TIDY_S
    while (grown := resident_mib(server) - before) > SLACK_MIB and time.monotonic() < until:
        time.sleep(0.5)
    assert grown <= SLACK_MIB, f"{grown:.0f} MiB more after {times} bodies of {size_mib} MiB"


def is_served(server: served_models.Running) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half"
    request.inputs["x"].CopyFrom(served_models.tensor(np.float32([2])))
    with grpc.insecure_channel(server.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert stub.Predict(request, timeout=300).outputs["y"].float_val == [3.0]
