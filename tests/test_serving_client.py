import contextlib
import socket
import threading
import time

import fake_server
import grpc
import numpy as np
import pytest

from data_pipeline import ports
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan
from serving import client, connection, grpc_client, protocol, rest_client
from serving.connection import Access

BUSY = (grpc.StatusCode.UNAVAILABLE, "queue is full")


@pytest.fixture
def model(address):
    model = client.connect(address, "fake")
    yield model
    model.close()


def rest(address, **settings):
    return rest_client.RestConnection(Access(address, **settings))


def voxels(**values):
    return {"voxels": np.zeros((1, 2), np.float32)} | values


def test_three_lines_bring_an_array_to_its_mask(address):
    image = np.zeros((8, 8))
    image[2:5, 3:6] = 200
    model = client.connect(address, "fake")
    mask = model.segment(image)
    assert mask.labels == ("lung",)
    assert (mask.planes[0] == (image > 100)).all()
    model.close()


def test_a_busy_server_is_asked_again(fake, model):
    fake.failures = [
        BUSY,
        (grpc.StatusCode.CANCELLED, "stopping"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "late"),
    ]
    assert model.segment(np.full((8, 8), 200)).planes.all()
    assert not fake.failures


def test_a_request_that_is_refused_is_not_sent_again(fake, model):
    fake.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "bad\nshape"), BUSY]
    with pytest.raises(connection.Refused, match="INVALID_ARGUMENT: bad shape"):
        model.segment(np.zeros((8, 8)))
    assert fake.failures == [BUSY]


def test_replies_larger_than_grpcs_own_limit_arrive(model):
    million = np.full((16, 8, 8, 1200), 200, np.float32)  # 4.9 MB
    reply = model.server.predict("fake", "serving_default", {"voxels": million})
    assert reply.outputs["probabilities"].shape == million.shape


def test_a_reply_tells_its_version(fake, model):
    fake.levels[7] = 0.0
    reply = model.server.predict("fake", "serving_default", voxels())
    assert reply.version == 7
    reply = model.server.predict("fake", "serving_default", voxels(), version=1)
    assert reply.version == 1


def test_the_latest_version_that_answers_is_taken(fake, address):
    fake.levels = {3: 100.0, 12: 100.0, 4: 100.0}
    model = client.connect(address, "fake")
    assert model.served.version == 12
    model.close()


def test_a_label_chooses_its_version(fake, address):
    fake.levels, fake.labels = {1: 100.0, 2: 250.0}, {"stable": 1}
    model = client.connect(address, "fake", label="stable")
    assert model.served.version == 1
    assert model.segment(np.full((8, 8), 200)).planes.all()
    model.close()


def test_a_model_stays_with_its_version_while_that_is_served(fake, model):
    fake.levels[2] = 250.0
    assert model.segment(np.full((8, 8), 200)).planes.all()
    assert model.served.version == 1


def test_a_scan_whose_version_goes_is_done_again_from_its_start(fake, model):
    volume = np.full((4, 8, 8), 200, np.float32)
    fake.swap_after = (3, {2: 250.0})  # the spec, and two slices
    mask = model.mask(Scan(volume, "XR", "stored", "test"))
    assert not mask.planes.any()  # all four slices by version 2
    assert [version for _, version in fake.requests] == [1, 1, 1, 2, 2, 2, 2, 2]


def test_a_server_that_was_never_there_is_told_of_within_seconds():
    started = time.monotonic()
    with pytest.raises(connection.ServerDown, match=r"no answer from 127.*serving\.launch"):
        client.connect(f"127.0.0.1:{ports.free_ports(1)[0]}", "fake")
    assert time.monotonic() - started < 10


def test_a_rest_server_that_was_never_there_is_told_of_too():
    with pytest.raises(connection.ServerDown, match=r"no answer from 127.*refused"):
        client.connect(f"127.0.0.1:{ports.free_ports(1)[0]}", "fake", api="rest")


def test_an_unknown_model_is_told_of(address):
    with pytest.raises(connection.NotServed, match=r"Could not find any versions.*--model_name"):
        client.connect(address, "other")


def test_a_model_that_does_not_say_what_it_takes_is_told_of(fake, address):
    fake.knows_itself = False
    with pytest.raises(InputError, match="fake does not say what it takes"):
        client.connect(address, "fake")


def test_a_server_that_goes_and_comes_back_is_waited_for(fake):
    [port] = ports.free_ports(1)
    with fake_server.over_grpc(fake, port) as address:
        model = client.reach(Access(address, outage_s=20.0), "fake")
    found = []
    thread = threading.Thread(target=lambda: found.append(model.segment(np.full((8, 8), 200))))
    thread.start()
    time.sleep(0.5)
    assert not found
    with fake_server.over_grpc(fake, port):
        thread.join(20)
    assert found[0].planes.all()
    model.close()


def test_a_server_that_stays_away_is_given_up(fake):
    with fake_server.over_grpc(fake) as address:
        model = client.reach(Access(address, outage_s=0.3), "fake")
    with pytest.raises(connection.ServerDown, match=f"no answer from {address}"):
        model.segment(np.zeros((8, 8)))
    model.close()


def test_an_answer_that_takes_too_long_is_a_server_that_is_down(fake, address):
    server = grpc_client.GrpcConnection(Access(address, deadline_s=0.2, outage_s=0.1))
    fake.delay_s = 0.6
    with pytest.raises(connection.ServerDown, match=r"(?i)deadline"):
        server.predict("fake", "serving_default", voxels())
    server.close()


def test_the_token_travels_with_each_grpc_call(fake, address):
    server = grpc_client.GrpcConnection(Access(address, token="secret"))
    server.predict("fake", "serving_default", voxels())
    assert fake.metadata["authorization"] == "Bearer secret"
    server.close()


def test_a_missing_certificate_file_is_told_of():
    with pytest.raises(InputError, match=r"none\.pem cannot be read"):
        grpc_client.GrpcConnection(Access("localhost:1", ca_file="none.pem"))


def test_rest_sends_bytes_as_base64_and_reads_them_back():
    answer = {"outputs": {"mask_bytes": [{"b64": "AP8="}], "probabilities": [[[0.25]]]}}
    with fake_server.over_http([(200, answer)]) as (address, seen):
        image = np.array([b"\xff\x00"], object)
        reply = rest(address, token="secret").predict(
            "a b", "encoded", {"image_bytes": image}, version=3, outputs=("mask_bytes",)
        )
    assert reply.outputs["mask_bytes"].tolist() == [b"\x00\xff"]
    path, headers, body = seen[0]
    assert path == "/v1/models/a%20b/versions/3:predict"
    assert headers["Authorization"] == "Bearer secret"
    assert body == {"signature_name": "encoded", "inputs": {"image_bytes": [{"b64": "/wA="}]}}


def test_a_single_rest_output_comes_without_its_name():
    with fake_server.over_http([(200, {"outputs": [[0.1]]})]) as (address, _):
        reply = rest(address).predict("m", "s", {}, outputs=("probabilities",))
    assert reply.outputs["probabilities"].dtype == np.float32
    assert reply.outputs["probabilities"][0, 0] == np.float32(0.1)


def test_rest_waits_for_a_busy_server_and_reads_nan():
    answers = [(503, {"error": "full"}), (502, b"<html>"), (200, b'{"outputs": [NaN]}')]
    with fake_server.over_http(answers) as (address, seen):
        reply = rest(address).predict("m", "s", {}, outputs=("y",))
    assert np.isnan(reply.outputs["y"][0])
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((404, {"error": "Servable not found"}), connection.NotServed, "Servable not found"),
        ((400, {"error": "bad"}), connection.Refused, "HTTP 400: bad"),
        ((401, b"who are you"), connection.Refused, "HTTP 401: who are you"),
        ((200, b"<html>hello</html>"), connection.Refused, "does not speak"),
        ((200, {"something": 1}), connection.Refused, "does not speak"),
        ((503, {"error": "full"}), connection.ServerDown, "full"),
    ],
)
def test_what_rest_answers_is_told(answer, error, message):
    with fake_server.over_http([answer]) as (address, _):
        with pytest.raises(error, match=message):
            rest(address, outage_s=0.2).predict("m", "s", {}, outputs=("y",))


def test_rest_takes_the_latest_version_that_answers():
    states = [
        {"version": "9", "state": "AVAILABLE"},
        {"version": "10", "state": "AVAILABLE"},
        {"version": "11", "state": "LOADING"},
    ]
    with fake_server.over_http([(200, {"model_version_status": states})]) as (address, seen):
        assert rest(address).version("m") == 10
    assert seen[0][0] == "/v1/models/m"


def test_rest_asks_for_the_version_that_has_a_label():
    spec = {"name": "m", "version": "9", "signature_name": ""}
    with fake_server.over_http([(200, {"model_spec": spec})]) as (address, seen):
        assert rest(address).version("m", "stable") == 9
    assert seen[0][0] == "/v1/models/m/labels/stable/metadata"


def test_no_version_that_answers_is_a_model_that_is_not_served(fake):
    error = {"error_code": "NOT_FOUND", "error_message": "no saved_model.pb"}
    states = [
        {"version": "2", "state": "LOADING"},
        {"version": "1", "state": "END", "status": error},
    ]
    with fake_server.over_http([(200, {"model_version_status": states})]) as (address, _):
        with pytest.raises(
            connection.NotServed,
            match=r"no version of m that answers: version 2 is LOADING; "
            r"version 1 is END: no saved_model\.pb$",
        ):
            client.connect(address, "m", api="rest")
    fake.levels = {}
    with fake_server.over_grpc(fake) as address:
        with pytest.raises(
            connection.NotServed, match=r"no version of fake that answers: version 99 is END$"
        ):
            client.connect(address, "fake")


def test_the_port_of_the_other_api_is_told_of(fake, address):
    with pytest.raises(connection.ServerDown, match="speaks gRPC, not HTTP: give the port of REST"):
        client.connect(address, "fake", api="rest")
    with fake_server.over_http([(404, b"")]) as (http_address, _):
        with pytest.raises(connection.ServerDown, match=r"speaks HTTP, not gRPC.*--api rest$"):
            client.connect(http_address, "fake")


def test_tls_on_one_side_only_is_told_of(tmp_path, address):
    refusal = b"HTTP/1.1 400 Bad Request\r\n\r\nThe plain HTTP request was sent to HTTPS port"
    for said in (refusal, b"\x15\x03\x01\x00\x02\x02\x46"):
        with answering(said) as tls_address:
            for api in ("grpc", "rest"):
                told = protocol.advice(Access(tls_address), api)
                assert told == "speaks TLS: --ca FILE says who signed its certificate"
                assert protocol.advice(Access(tls_address, "ca.pem"), api) == ""
    assert protocol.advice(Access(address, "ca.pem"), "grpc") == "speaks no TLS: leave out --ca"


def test_what_speaks_something_else_is_left_at_that():
    with answering(b"SSH-2.0-OpenSSH_9.2") as address:
        assert protocol.advice(Access(address), "grpc") == ""
    assert protocol.advice(Access(f"127.0.0.1:{ports.free_ports(1)[0]}"), "grpc") == ""


@contextlib.contextmanager
def answering(said):
    """Yields the address of a server that says one thing, whatever it is asked."""

    def answer():
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                with server.accept()[0] as connected:
                    connected.recv(1000)
                    connected.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_pauses_grow_and_end_with_the_outage(monkeypatch):
    now = [0.0]
    pauses = []
    monkeypatch.setattr(connection.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(connection.random, "uniform", lambda low, high: high)

    def sleep(seconds):
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(connection.time, "sleep", sleep)

    def never():
        raise connection.Busy("gone")

    with pytest.raises(connection.ServerDown, match="no answer from here: gone"):
        connection.patiently(never, Access("here", outage_s=6.0))
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0])
