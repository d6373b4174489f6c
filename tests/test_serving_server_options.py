"""What flags and configuration files switch on: TLS, batching, warm-up, watching."""

import asyncio
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import time

import grpc
import numpy as np
import pytest
import served_models
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from data_pipeline import ports
from data_pipeline.errors import InputError
from serving.server import flags as server_flags
from serving.server import metrics, predict, server, status, warmup
from serving.server.batching import Parameters
from serving.server.servable import LoadOptions, Servable


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    return served_models.half_plus(tmp_path_factory.mktemp("half") / "half" / "1").parent


def predict_request(*values: float, name: str = "half") -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.inputs["x"].CopyFrom(served_models.tensor(np.float32(values)))
    return request


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a certificate for localhost that vouches for itself."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return (folder / "key.pem").read_text(), (folder / "cert.pem").read_text()


def ssl_config(path: pathlib.Path, key: str, cert: str, more: str = "") -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace("\n", "\\n") + '"'

    path.write_text(f"server_key: {quoted(key)} server_cert: {quoted(cert)} {more}")
    return str(path)


def test_tls_is_spoken_and_client_certificates_are_checked(tmp_path, half, certificate):
    key, cert = certificate
    ca = '"' + cert.replace("\n", "\\n") + '"'
    config = ssl_config(tmp_path / "ssl.config", key, cert, f"custom_ca: {ca} client_verify: true")
    with served_models.serving(
        f"--model_base_path={half}",
        "--model_name=half",
        f"--ssl_config_file={config}",
        "--enable_serialization_as_tensor_content=true",
        f"--grpc_socket_path={tmp_path}/grpc.sock",
    ) as running:
        address = f"localhost:{running.port}"
        known = grpc.ssl_channel_credentials(cert.encode(), key.encode(), cert.encode())
        for target in (address, f"unix:{tmp_path}/grpc.sock"):
            options = [("grpc.ssl_target_name_override", "localhost")]
            with grpc.secure_channel(target, known, options) as channel:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                reply = stub.Predict(predict_request(2, 4), timeout=120)
                content = reply.outputs["y"].tensor_content
                assert np.frombuffer(content, np.float32).tolist() == [3.0, 4.0]
                assert not reply.outputs["y"].float_val
        stranger = grpc.ssl_channel_credentials(cert.encode())
        for channel in (grpc.secure_channel(address, stranger), grpc.insecure_channel(address)):
            with channel:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                with pytest.raises(grpc.RpcError) as caught:
                    stub.Predict(predict_request(1), timeout=10)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('server_key: "k"', "server_key and server_cert are needed"),
        (
            'server_key: "k" server_cert: "c" client_verify: true',
            "client_verify needs custom_ca",
        ),
        ("key: 1", "Error parsing text-format"),
    ],
)
def test_wrong_tls_files_are_refused(tmp_path, text, words):
    file = tmp_path / "ssl.config"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        server.tls_credentials(str(file))


def test_the_metrics_page_is_where_the_file_says(tmp_path):
    file = tmp_path / "monitoring.config"
    file.write_text('prometheus_config { enable: true path: "/m" }')
    assert server.metrics_path(str(file)) == "/m"
    file.write_text("prometheus_config { enable: true }")
    assert server.metrics_path(str(file)) == "/monitoring/prometheus/metrics"
    file.write_text("prometheus_config { enable: false }")
    assert server.metrics_path(str(file)) is None


# Batching and configuration files, over the wire.


def test_batching_and_config_reload_by_file_and_by_call(tmp_path, half):
    batching = tmp_path / "batching.config"
    batching.write_text(
        "max_batch_size { value: 4 } batch_timeout_micros { value: 100000 } "
        "num_batch_threads { value: 2 } allowed_batch_sizes: 4"
    )
    config = tmp_path / "models.config"

    def entry(name: str) -> str:
        return f'config {{ name: "{name}" base_path: "{half}" model_platform: "tensorflow" }}'

    config.write_text(f"model_config_list {{ {entry('half')} }}")
    with served_models.serving(
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=1",
        "--enable_batching",
        f"--batching_parameters_file={batching}",
        log=tmp_path / "log",
    ) as running:
        with grpc.insecure_channel(running.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            calls = [stub.Predict.future(predict_request(value)) for value in range(9)]
            replies = [call.result(30).outputs["y"].float_val[0] for call in calls]
            assert replies == [value / 2 + 2 for value in range(9)]
            with pytest.raises(grpc.RpcError, match="Task size 5 is larger than maximum input"):
                stub.Predict(predict_request(*range(5)))

            config.write_text(f"model_config_list {{ {entry('half')} {entry('again')} }}")
            wait(lambda: '"AVAILABLE"' in running.get("/v1/models/again")[1])
            assert stub.Predict(predict_request(2, name="again")).outputs["y"].float_val == [3.0]
            config.write_text("model_config_list { nonsense")
            time.sleep(1.5)
            assert stub.Predict(predict_request(2, name="again")).outputs["y"].float_val == [3.0]

            management = model_service_pb2_grpc.ModelServiceStub(channel)
            request = model_management_pb2.ReloadConfigRequest()
            request.config.model_config_list.config.add(
                name="called", base_path=str(half), model_platform="tensorflow"
            )
            management.HandleReloadConfigRequest(request, timeout=300)
            assert stub.Predict(predict_request(2, name="called")).outputs["y"].float_val == [3.0]
            wait(lambda: state(management, "half") == "END")


def test_a_request_that_is_given_up_in_the_queue_is_not_run(tmp_path, half, monkeypatch):
    monkeypatch.setattr(server, "_end_at_once", lambda: None)  # this process is the tests' own
    batching = tmp_path / "batching.config"
    batching.write_text("max_batch_size { value: 9 } batch_timeout_micros { value: 600000000 }")
    port, rest_port = ports.free_ports(2)
    flags = server_flags.parse(
        [f"--port={port}", f"--rest_api_port={rest_port}", f"--model_base_path={half}",
         "--model_name=given_up", "--enable_batching", f"--batching_parameters_file={batching}"]
    )  # fmt: skip

    async def scene():
        # In this process, so that what is in the queue can be seen.
        running = server._Server(flags)
        life = asyncio.create_task(running.run())
        give_up = asyncio.create_task(asyncio.to_thread(give_up_three, running, port, rest_port))
        await asyncio.wait({life, give_up}, return_when=asyncio.FIRST_COMPLETED)
        assert not life.done(), life.result()
        await asyncio.to_thread(running._batcher.close)  # if it failed, requests still wait there
        os.kill(os.getpid(), signal.SIGTERM)
        await life
        give_up.result()

    asyncio.run(scene())


def give_up_three(running: server._Server, port: int, rest_port: int) -> None:
    """Sends four requests, gives three of them up in three ways, and then fills the batch."""
    body = b'{"inputs": [2]}'
    post = b"POST /v1/models/given_up:predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"

    def queued() -> list[bool]:
        """Whether it was given up, for each request in the queue."""
        with running._batcher._changed:
            queues = running._batcher._queues.values()
            return [t.deadline.is_over for q in queues for b in q.batches for t in b.tasks]

    def refused() -> int:
        found = re.search(
            r'model_name="given_up",status="RESOURCE_EXHAUSTED"} (\d+)', metrics.page()
        )
        return int(found[1]) if found else 0

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        kept = stub.Predict.future(
            predict_request(2, name="given_up"), timeout=300, wait_for_ready=True
        )
        wait(lambda: queued() == [False])
        late = stub.Predict.future(predict_request(2, name="given_up"), timeout=5)
        cancelled = stub.Predict.future(predict_request(2, name="given_up"), timeout=300)
        with socket.create_connection(("127.0.0.1", rest_port), 60) as reset:
            reset.sendall(post % (len(body), body))
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            wait(lambda: len(queued()) == 4)
            cancelled.cancel()
        wait(lambda: sorted(queued()) == [False, True, True, True])
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        filling = stub.Predict(predict_request(*range(5), name="given_up"), timeout=300)
        assert list(filling.outputs["y"].float_val) == [2.0, 2.5, 3.0, 3.5, 4.0]
        assert kept.result().outputs["y"].float_val == [3.0]
        wait(lambda: refused() == 3)


def state(management, name: str) -> str:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    (version,) = management.GetModelStatus(request).model_version_status
    return get_model_status_pb2.ModelVersionStatus.State.Name(version.state)


def wait(condition, timeout_s=120.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


# Warm-up.


def recorded(path: pathlib.Path, *logs: prediction_log_pb2.PredictionLog) -> None:
    extra = path / "assets.extra"
    extra.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def predict_log(*values: float) -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(predict_request(*values))
    return log


class Counting:
    """Runs the graph and counts the runs."""

    def __init__(self) -> None:
        self.feeds: list[list[float]] = []

    def __call__(self, servable, feeds, fetches, deadline):
        self.feeds.append(next(iter(feeds.values())).tolist())
        return servable.run(feeds, fetches, deadline.left_s())


@pytest.fixture
def servable(tmp_path, half):
    shutil.copytree(half / "1", tmp_path / "1")
    servable = Servable("half", 1, str(tmp_path / "1"), LoadOptions())
    yield servable
    servable.close()


def test_warm_up_replays_each_record_as_often_as_told(servable):
    run = Counting()
    assert warmup.replay(servable, run, predict.Options()) == 0
    recorded(pathlib.Path(servable.path), predict_log(1), predict_log(2))
    assert warmup.replay(servable, run, predict.Options(), iterations=2) == 2
    assert run.feeds == [[1.0], [1.0], [2.0], [2.0]]
    assert f'model_path="{servable.path}",status="OK"' in metrics.page()


def test_a_failing_record_fails_the_warm_up(servable):
    log = predict_log(1)
    log.predict_log.request.model_spec.signature_name = "no"
    recorded(pathlib.Path(servable.path), log)
    with pytest.raises(status.ServingError, match='Serving signature key "no" not found'):
        warmup.replay(servable, Counting(), predict.Options())


def test_records_that_are_none_fail_the_warm_up(servable):
    recorded(pathlib.Path(servable.path), predict_log(1))
    file = pathlib.Path(servable.path) / warmup.FILE
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(status.ServingError):
        warmup.replay(servable, Counting(), predict.Options())


def test_more_than_1000_records_are_refused(servable):
    recorded(pathlib.Path(servable.path), *[predict_log(1)] * 1001)
    with pytest.raises(status.ServingError, match=r"exceeds the maximum \(1000\)"):
        warmup.replay(servable, Counting(), predict.Options())


def test_every_kind_of_record_is_replayed(tmp_path):
    path = served_models.examples_tf1(tmp_path / "1")
    servable = Servable("examples", 1, str(path), LoadOptions())
    logs = []
    for kind in ("regress", "classify"):
        log = prediction_log_pb2.PredictionLog()
        request = getattr(log, f"{kind}_log").request
        request.model_spec.signature_name = kind
        example = request.input.example_list.examples.add()
        example.features.feature["x"].float_list.value.append(1)
        logs.append(log)
    both = prediction_log_pb2.PredictionLog()
    both.multi_inference_log.request.input.CopyFrom(logs[0].regress_log.request.input)
    task = both.multi_inference_log.request.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.name, task.model_spec.signature_name = "examples", "regress"
    recorded(path, *logs, both)
    assert warmup.replay(servable, Counting(), predict.Options()) == 3
    session_log = prediction_log_pb2.PredictionLog()
    session_log.session_run_log.SetInParent()
    recorded(path, session_log)
    with pytest.raises(status.ServingError, match="Unsupported log_type for warmup"):
        warmup.replay(servable, Counting(), predict.Options())
    servable.close()


# Flags.


def test_method_names_are_checked_only_when_told(tmp_path):
    from serving.server import inference

    servable = Servable(
        "examples", 1, str(served_models.examples_tf1(tmp_path / "1")), LoadOptions()
    )
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "examples", "regress"
    example = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(1)
    checked = predict.Options(check_method_names=True)
    servable.signatures["regress"].method_name = "tensorflow/serving/other"
    lenient = inference.regress(servable, request, Counting(), predict.Options())
    assert lenient.result.regressions[0].value == 2.5
    with pytest.raises(status.ServingError, match="Expected regression signature method_name"):
        inference.regress(servable, request, Counting(), checked)
    servable.close()


def test_flags_are_read_with_and_without_an_equals_sign():
    flags = server_flags.parse(
        ["--port", "1", "--model_base_path=/x", "--enable_batching", "--rest_api_port=2",
         "--flush_filesystem_caches=false"]
    )  # fmt: skip
    assert (flags.port, flags.rest_api_port, flags.enable_batching) == (1, 2, True)
    assert server_flags.warnings(flags) == [
        "--flush_filesystem_caches has no effect in the embedded server: "
        "files are read through the page cache"
    ]


@pytest.mark.parametrize(
    ("flag", "config"),
    [
        ("--tensorflow_session_parallelism=3", (3, 3)),
        ("--tensorflow_intra_op_parallelism=2", (2, 0)),
        ("--tensorflow_inter_op_parallelism=4", (0, 4)),
    ],
)
def test_parallelism_flags_reach_the_session(flag, config):
    made = server.session_config(server_flags.parse(["--model_base_path=/x", flag]), None)
    assert (made.intra_op_parallelism_threads, made.inter_op_parallelism_threads) == config
    assert made.experimental.disable_thread_spinning


def test_every_flag_is_followed_or_says_that_it_is_not():
    package = pathlib.Path(server.__file__).parent
    files = [*package.glob("*.py"), package.parent / "model_server.py"]
    code = "".join(path.read_text() for path in files)
    for flag in dataclasses.fields(server_flags.Flags):
        told = flag.metadata["refused"] or flag.metadata["ignored"]
        followed = re.search(rf"flags\.{flag.name}\b", code)
        assert bool(told) != bool(followed), flag.name


@pytest.mark.parametrize(("batch_threads", "threads_a_batch"), [(1, 8), (2, 4), (8, 1), (9, 1)])
def test_batches_that_run_side_by_side_share_the_cores(monkeypatch, batch_threads, threads_a_batch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    flags = server_flags.parse(["--model_base_path=/x"])
    parameters = Parameters(num_batch_threads=batch_threads)
    made = server.session_config(flags, parameters)
    assert made.intra_op_parallelism_threads == threads_a_batch
    assert server.session_config(flags, None).intra_op_parallelism_threads == 0
    flags = server_flags.parse(["--model_base_path=/x", "--tensorflow_intra_op_parallelism=5"])
    assert server.session_config(flags, parameters).intra_op_parallelism_threads == 5


def test_a_session_config_file_is_taken_as_it_is(tmp_path):
    file = tmp_path / "session.config"
    file.write_text("inter_op_parallelism_threads: 3")
    flags = ["--model_base_path=/x", f"--tensorflow_session_config_file={file}"]
    made = server.session_config(server_flags.parse(flags), Parameters())
    assert made.intra_op_parallelism_threads == 0
    assert made.inter_op_parallelism_threads == 3
    assert not made.experimental.disable_thread_spinning
