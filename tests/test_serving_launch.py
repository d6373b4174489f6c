"""The launcher: which server it takes, what it waits for, and how it ends."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest
import served_models

from data_pipeline import ports
from data_pipeline.errors import InputError
from serving import launch
from serving.server import flags as server_flags


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"x")
    return tmp_path / "m"


def program(tmp_path, name: str, script: str) -> str:
    file = tmp_path / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A PATH with nothing on it but what a test puts there."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("TENSORFLOW_MODEL_SERVER", raising=False)


def flags(model, *more: str) -> list[str]:
    return [f"--port={ports.free_ports(1)[0]}", f"--model_base_path={model}", *more]


def test_the_real_binary_is_taken_first(tmp_path, path, model):
    binary = program(tmp_path, "tensorflow_model_server", "exit 0")
    program(tmp_path, "docker", "echo 27.0")
    planned = launch.plan(flags(model, "--model_name", "lung"))
    assert planned.kind == "binary"
    assert planned.command[0] == binary
    assert "--model_name=lung" in planned.command
    assert f"--model_base_path={model}" in planned.command
    assert "--rest_api_port=8501" in planned.command


def test_the_real_binary_is_given_no_flag_it_does_not_know(tmp_path, path, model):
    program(tmp_path, "tensorflow_model_server", "exit 0")
    planned = launch.plan(flags(model, "--drain_seconds=5", "--bind_address=127.0.0.1"))
    assert not [a for a in planned.command if "drain" in a or "bind" in a]


def test_docker_is_taken_only_if_an_engine_answers(tmp_path, path, model):
    program(tmp_path, "docker", "exit 1")
    assert launch.plan(flags(model)).kind == "embedded"
    program(tmp_path, "docker", "echo 27.0")
    planned = launch.plan(flags(model, "--rest_api_port=8999"))
    assert planned.kind == "docker"
    assert f"--volume={model}:{model}:ro" in planned.command
    assert "--publish=127.0.0.1:8999:8999" in planned.command
    assert f"--model_base_path={model}" in planned.command


def test_the_embedded_server_is_there_when_nothing_else_is(path, model):
    planned = launch.plan(flags(model, "--enable_batching"))
    assert planned.command[:3] == (sys.executable, "-m", "serving.model_server")
    assert "--enable_batching=true" in planned.command


def test_a_server_that_is_not_there_cannot_be_asked_for(path, model):
    with pytest.raises(InputError, match="no docker engine answers"):
        launch.plan(flags(model), "docker")
    with pytest.raises(InputError, match="tensorflow_model_server is not on the PATH"):
        launch.plan(flags(model), "binary")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda base: base / "nowhere", "there is no folder"),
        (lambda base: base / "1", "no version in"),
    ],
)
def test_a_missing_model_is_named(path, model, make, words):
    with pytest.raises(InputError, match=words):
        launch.plan(flags(make(model)))


def test_models_of_a_config_file_are_checked_too(path, model, tmp_path):
    config = tmp_path / "models.config"
    text = 'model_config_list {{ config {{ name: "a" base_path: "{}" }} }}'
    config.write_text(text.format(tmp_path / "nowhere"))
    port = f"--port={ports.free_ports(1)[0]}"
    with pytest.raises(InputError, match="model a: there is no folder"):
        launch.plan([port, f"--model_config_file={config}"])
    config.write_text(text.format(model))
    assert launch.plan([port, f"--model_config_file={config}"]).models[0].name == "a"


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "serving.launch", *arguments],
        cwd=served_models.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_dry_run_prints_the_command_and_starts_nothing(model):
    result = run("--dry-run", "--backend=embedded", *flags(model))
    assert result.returncode == 0
    assert "serving.model_server" in result.stdout
    assert f"--model_base_path={model}" in result.stdout


def test_mistakes_are_one_line_and_exit_code_2(model):
    result = run(*flags(model, "--no_such_flag=1"))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "--no_such_flag" in line


def test_it_waits_prints_addresses_and_passes_sigterm_on(tmp_path):
    served_models.half_plus(tmp_path / "half" / "1")
    port, rest_port = ports.free_ports(2)
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.launch", "--backend=embedded", "--model_name=half",
         f"--model_base_path={tmp_path}/half", f"--port={port}", f"--rest_api_port={rest_port}"],
        cwd=served_models.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "1"},
    )  # fmt: skip
    watchdog = threading.Timer(400, process.kill)
    watchdog.start()
    try:
        lines = [process.stdout.readline().strip() for _ in range(3)]
        assert lines == [
            "AVAILABLE: half (embedded server)",
            f"gRPC  127.0.0.1:{port}",
            f"REST  http://127.0.0.1:{rest_port}/v1/models/half",
        ]
        running = served_models.Running(process, port, rest_port)
        assert running.post("/v1/models/half:predict", '{"instances": [2]}')[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(200) == 0
        with pytest.raises(OSError, match="refused"):
            running.get("/v1/models/half")
    finally:
        watchdog.cancel()
        process.kill()
        process.stdout.close()
        process.wait()


def test_a_server_that_listens_on_a_unix_socket_only_is_waited_for(tmp_path):
    flags = ["--port=0", "--rest_api_port=0", f"--grpc_socket_path={tmp_path}/grpc"]
    flags = server_flags.parse([*flags, f"--model_base_path={tmp_path}"])
    assert not launch._accepts_grpc(flags)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{tmp_path}/grpc")
        listening.listen()
        assert launch._accepts_grpc(flags)
    assert launch._ready_lines(launch.Launch("embedded", (), (), flags))[1:] == [
        f"gRPC  unix:{tmp_path}/grpc"
    ]


def test_it_ends_with_the_code_of_a_server_that_fails(tmp_path, monkeypatch, model):
    binary = program(tmp_path, "server", "exit 7")
    monkeypatch.setenv("TENSORFLOW_MODEL_SERVER", binary)
    assert run(*flags(model, f"--rest_api_port={ports.free_ports(1)[0]}")).returncode == 7
