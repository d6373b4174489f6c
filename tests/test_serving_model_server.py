"""The embedded server as a process: its flags, how it ends, where it listens."""

import json
import signal
import socket
import subprocess
import sys

import grpc
import numpy as np
import pytest
import served_models
from contract_server import predict_request
from tensorflow_serving.apis import prediction_service_pb2_grpc

from data_pipeline import ports
from serving.server.protos import HealthCheckRequest, HealthCheckResponse


def run_server(*flags):
    return subprocess.run(  # a busy machine may take minutes to import TensorFlow
        [sys.executable, "-m", "serving.model_server", *flags],
        cwd=served_models.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model_base_path=/x", "--prot=1"], "--prot"),
        ([], "--model_base_path"),
        (["--model_base_path=/x", "--port=0"], "--port"),
        (["--model_base_path=/x", "--use_alts_credentials"], "cannot be honoured"),
        (["--model_base_path=/x", "--batching_parameters_file=/y"], "--enable_batching"),
        (["--model_base_path=/x", "--port=9", "--rest_api_port=9"], "must differ"),
        (["--model_base_path=/x", "--enable_batching=maybe"], "not true or false"),
    ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(flags, words):
    result = run_server(*flags)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert words in line


@pytest.mark.parametrize("mistake", ["port", "models"])
def test_a_mistake_is_told_before_tensorflow_is_imported(mistake, tmp_path, server):
    config = tmp_path / "models.config"
    config.write_text("model_config_list { confg {} }")
    flags = {
        "port": [f"--port={server.port}", "--model_base_path=/x"],
        "models": [f"--port={ports.free_ports(1)[0]}", f"--model_config_file={config}"],
    }[mistake]
    code = (
        "import sys; from serving import model_server\n"
        f"try: model_server.main({flags})\n"
        "except SystemExit as end: print(end.code, 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=served_models.ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "2 False"


def test_a_broken_config_file_is_told_in_the_words_people_search_for(tmp_path):
    config = tmp_path / "models.config"
    config.write_text("model_config_list { confg {} }")
    result = run_server(f"--model_config_file={config}")
    assert result.returncode == 2
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in result.stderr


def test_a_port_in_use_is_one_line_and_exit_code_2(server):
    result = run_server(f"--port={server.port}", "--model_base_path=/x")
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1:{server.port}: Address already in use" in result.stderr


def test_a_model_that_does_not_load_ends_the_server_with_its_name(tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "saved_model.pb").write_bytes(b"no model")
    [port] = ports.free_ports(1)
    result = run_server(
        f"--port={port}", f"--model_base_path={tmp_path}/m", "--max_num_load_retries=0"
    )
    assert result.returncode == 2
    assert "Failed to start server. Error: UNKNOWN: 1 model(s) did not become available" in (
        result.stderr
    )


FOREVER = 2_000_000_000  # steps: minutes


@pytest.fixture(scope="module")
def spin(tmp_path_factory):
    return served_models.spinning(tmp_path_factory.mktemp("spin") / "spin" / "1").parent


def spin_request(steps):
    return predict_request("spin", steps=np.int32(steps))


def test_a_run_may_take_so_long_and_sigterm_waits_for_those_under_way(spin):
    with served_models.serving(
        f"--model_base_path={spin}",
        "--model_name=spin",
        "--rest_api_timeout_in_ms=300",
        "--drain_seconds=120",
    ) as running:
        status, text = running.post("/v1/models/spin:predict", f'{{"inputs": {FOREVER}}}')
        assert (status, list(json.loads(text))) == (504, ["error"])
        with grpc.insecure_channel(running.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            with pytest.raises(grpc.RpcError) as late:
                stub.Predict(spin_request(FOREVER), timeout=0.5)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            steps = [10_000 + n for n in range(8)]
            pending = [stub.Predict.future(spin_request(n)) for n in steps]
            pending[0].result()
            running.process.send_signal(signal.SIGTERM)
            assert [call.result().outputs["y"].int_val[0] for call in pending] == steps
        assert running.process.wait(200) == 0


def test_balancers_are_told_to_turn_elsewhere_while_the_server_ends(spin):
    flags = (f"--model_base_path={spin}", "--model_name=spin", "--enable_grpc_healthcheck_service")
    with (
        served_models.serving(*flags, "--drain_seconds=120") as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            lambda message: message.SerializeToString(),
            HealthCheckResponse.FromString,
        )
        states = watch(HealthCheckRequest(service="PredictionService"), timeout=200)
        assert next(states).status == 1
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        pending = [stub.Predict.future(spin_request(10_000 + n)) for n in range(8)]
        pending[0].result()
        running.process.send_signal(signal.SIGTERM)
        assert next(states).status == 2  # NOT_SERVING
        assert [call.result().outputs["y"].int_val[0] for call in pending][-1] == 10_007
        assert running.process.wait(200) == 0


@pytest.mark.slow
def test_sigterm_waits_for_a_run_without_end_only_as_long_as_it_was_told(spin, tmp_path):
    with served_models.serving(
        f"--model_base_path={spin}", "--model_name=spin", "--drain_seconds=1", log=tmp_path / "log"
    ) as running:
        with grpc.insecure_channel(running.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            endless = stub.Predict.future(spin_request(FOREVER))
            assert stub.Predict(spin_request(7)).outputs["y"].int_val == [7]
            running.process.send_signal(signal.SIGTERM)
            assert endless.exception() is not None
        assert running.process.wait(200) == 0
    assert "still running after --drain_seconds" in (tmp_path / "log").read_text()


def test_the_server_listens_on_loopback_only(server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # The address this host would use to go elsewhere; nothing is sent.
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has no address but loopback")
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this host has no address but loopback")
    for port in (server.port, server.rest_port):
        with pytest.raises(OSError, match=r"refused|timed out"):
            socket.create_connection((address, port), 2)


def test_descriptors_of_our_own_are_not_in_the_common_pool():
    from google.protobuf import descriptor_pool

    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("tensorflow.serving.SSLConfig")
