"""Starts a model server and waits until its models answer.

    python -m serving.launch --model_name=lung_unet --model_base_path=exports/lung_unet

Takes the flags of tensorflow_model_server, and runs the best server there is: the
`tensorflow_model_server` on the PATH (or in $TENSORFLOW_MODEL_SERVER), else its container if
a docker engine answers, else the embedded one. Ends with the server, and passes signals on.
"""

# ruff: noqa: T201 - a command speaks to its user

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence

from tensorflow_serving.config import model_server_config_pb2

from data_pipeline import errors, onednn, ports
from data_pipeline.errors import InputError
from serving import operation_threads, proof
from serving.server import flags as server_flags
from serving.server import model_config, version_policy

DOCKER_IMAGE = "tensorflow/serving:2.20.0"
DEFAULT_REST_PORT = 8501
_EMBEDDED_ONLY = ("bind_address", "drain_seconds")
_FILE_FLAGS = (
    "model_config_file",
    "batching_parameters_file",
    "monitoring_config_file",
    "ssl_config_file",
    "tensorflow_session_config_file",
    "platform_config_file",
    "thread_pool_factory_config_file",
)
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that the server is to serve."""

    name: str
    base_path: str


@dataclasses.dataclass(frozen=True)
class Launch:
    """What to run, and what to expect of it."""

    kind: str  # "binary", "docker" or "embedded"
    command: tuple[str, ...]
    models: tuple[Model, ...]
    flags: server_flags.Flags


def plan(argv: Sequence[str], backend: str = "auto") -> Launch:
    """Chooses a server and makes its command line.

    Args:
      argv: flags of tensorflow_model_server.
      backend: "binary", "docker" or "embedded", or "auto" for the first of them there is.

    Raises:
      InputError: if a flag, a port, a model or the server asked for cannot be used.
    """
    flags = server_flags.parse(list(argv), check=False)
    if not any(argument.startswith("--rest_api_port") for argument in argv):
        flags = dataclasses.replace(flags, rest_api_port=DEFAULT_REST_PORT)
    server_flags.check_complete(flags)
    models, versions = _models(flags)
    flags = _with_threads(flags, models, versions)
    for port in (flags.port, flags.rest_api_port):
        ports.check_free(flags.bind_address, port)
    kind, program = _find_server(backend)
    if kind == "embedded":
        server_flags.check_honoured(flags)
    arguments = _arguments(flags, embedded=kind == "embedded")
    if kind == "docker":
        command = (*_docker_run(program, flags, models), *arguments)
    else:
        command = (*program, *arguments)
    return Launch(kind, command, models, flags)


def run(launch: Launch, wait_s: float) -> int:
    """Runs the server, tells when it is ready, and returns its exit code."""
    process = subprocess.Popen(launch.command, start_new_session=True)
    with _forwarding(process):
        if _wait_available(launch, process, wait_s):
            for line in _ready_lines(launch):
                print(line, flush=True)
        elif process.poll() is None:
            print(
                f"error: the models were not available after {wait_s:g} s; stopping",
                file=sys.stderr,
            )
            process.terminate()
            process.wait()
            return errors.BAD_INPUT_EXIT_CODE
        code = process.wait()
    return 128 - code if code < 0 else code


def _models(flags: server_flags.Flags) -> tuple[tuple[Model, ...], list[pathlib.Path]]:
    """The models named on the command line or in the config file, and their versions."""
    if flags.model_config_file:
        config = model_config.read_models(flags.model_config_file)
    else:
        config = model_config.of_one_model(flags.model_name, flags.model_base_path)
    models = config.model_config_list.config
    versions = [version for model in models for version in _versions(model)]
    for version in versions:
        if _is_ours(version):
            proof.check_setting(version)
    return tuple(Model(model.name, model.base_path) for model in models), versions


def _is_ours(version: pathlib.Path) -> bool:
    """Whether a version was proven; any SavedModel is served."""
    return (version / proof.PLACE).exists()


def _with_threads(
    flags: server_flags.Flags, models: Sequence[Model], versions: Sequence[pathlib.Path]
) -> server_flags.Flags:
    """The flags with as many threads an operation as were best where the models were exported.

    Batches are left alone, and so is what somebody has chosen.
    """
    chosen = (
        *(flags.tensorflow_session_parallelism, flags.tensorflow_intra_op_parallelism),
        *(flags.tensorflow_inter_op_parallelism, flags.tensorflow_session_config_file),
        *(flags.platform_config_file, flags.enable_batching),
    )
    known = all("://" not in model.base_path for model in models) and all(map(_is_ours, versions))
    if any(chosen) or not known:
        return flags
    best = operation_threads.best([proof.read(version).pass_ms for version in versions])
    return dataclasses.replace(flags, tensorflow_intra_op_parallelism=best or 0)


def _versions(model: model_server_config_pb2.ModelConfig) -> list[pathlib.Path]:
    """The versions that a server would load; none of a model that lies elsewhere."""
    if "://" in model.base_path:
        return []
    path = pathlib.Path(model.base_path)
    if not path.is_dir():
        raise InputError(f"model {model.name}: there is no folder {path}")
    versions = [p for p in path.iterdir() if re.fullmatch(r"\d+", p.name)]
    whole = {int(p.name): str(p) for p in versions if (p / "saved_model.pb").exists()}
    if not whole:
        raise InputError(
            f"model {model.name}: no version in {path}; expected a folder with a number for a "
            f"name and a saved_model.pb in it, such as {path}/1/saved_model.pb"
        )
    return list(
        map(pathlib.Path, version_policy.chosen(model.model_version_policy, whole).values())
    )


def _find_server(backend: str) -> tuple[str, tuple[str, ...]]:
    if backend in ("auto", "binary") and (binary := _binary()):
        return "binary", (binary,)
    if backend in ("auto", "docker") and (docker := _answering_docker()):
        return "docker", (docker,)
    if backend in ("auto", "embedded"):
        return "embedded", (sys.executable, "-m", "serving.model_server")
    missing = {
        "binary": "tensorflow_model_server is not on the PATH and not in $TENSORFLOW_MODEL_SERVER",
        "docker": "no docker engine answers",
    }
    raise InputError(missing[backend])


def _binary() -> str | None:
    return shutil.which(os.environ.get("TENSORFLOW_MODEL_SERVER") or "tensorflow_model_server")


def _answering_docker() -> str | None:
    """The docker program, if there is an engine behind it."""
    docker = shutil.which("docker")
    if docker is None:
        return None
    command = [docker, "version", "--format", "{{.Server.Version}}"]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return docker if answer.returncode == 0 and answer.stdout.strip() else None


def _arguments(flags: server_flags.Flags, *, embedded: bool) -> list[str]:
    """The flags that differ from their defaults, as every server reads them."""
    arguments = []
    for field in dataclasses.fields(flags):
        value = getattr(flags, field.name)
        if value == field.default and field.name not in ("port", "model_name"):
            continue
        if field.name in _EMBEDDED_ONLY and not embedded:
            continue
        if field.name in (*_FILE_FLAGS, "model_base_path") and value and "://" not in value:
            value = str(pathlib.Path(value).absolute())
        text = str(value).lower() if isinstance(value, bool) else str(value)
        arguments.append(f"--{field.name}={text}")
    return arguments


def _docker_run(
    program: tuple[str, ...], flags: server_flags.Flags, models: Sequence[Model]
) -> tuple[str, ...]:
    """`docker run` with every path at the same place inside as outside, read-only."""
    paths = {model.base_path for model in models if "://" not in model.base_path}
    paths |= {
        str(pathlib.Path(getattr(flags, name)).absolute().parent)
        for name in _FILE_FLAGS
        if getattr(flags, name)
    }
    mounts = [f"--volume={path}:{path}:ro" for path in sorted(paths)]
    publish = [
        f"--publish={flags.bind_address}:{port}:{port}"
        for port in (flags.port, flags.rest_api_port)
        if port
    ]
    image = os.environ.get("TENSORFLOW_SERVING_IMAGE", DOCKER_IMAGE)
    return (
        *program, "run", "--rm", "--init", *publish, *mounts,
        f"--env={onednn.VARIABLE}={onednn.value(onednn.enabled())}",
        "--entrypoint=tensorflow_model_server", image,
    )  # fmt: skip


@contextlib.contextmanager
def _forwarding(process: subprocess.Popen) -> Iterator[None]:
    """Passes signals to the server for as long as the block runs."""

    def forward(number: int, _: object) -> None:
        if process.poll() is None:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_available(launch: Launch, process: subprocess.Popen, wait_s: float) -> bool:
    """Whether every model got a version that answers before the server ended or time did."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end and process.poll() is None:
        if launch.flags.rest_api_port:
            if all(_available(launch, model) for model in launch.models):
                return True
        elif _accepts_grpc(launch.flags):
            # Servers open their ports only once the models are loaded.
            return True
        time.sleep(0.1)
    return False


def _available(launch: Launch, model: Model) -> bool:
    url = f"{_rest_address(launch.flags)}/v1/models/{model.name}"
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            versions = json.load(reply).get("model_version_status", [])
    except (OSError, ValueError):
        return False
    return any(version.get("state") == "AVAILABLE" for version in versions)


def _accepts_grpc(flags: server_flags.Flags) -> bool:
    try:
        if flags.port:
            socket.create_connection((_reachable(flags.bind_address), flags.port), 1).close()
        else:
            with socket.socket(socket.AF_UNIX) as there:
                there.connect(flags.grpc_socket_path)
    except OSError:
        return False
    return True


def _reachable(address: str) -> str:
    """Where to call a server that listens on an address."""
    return "127.0.0.1" if address in ("0.0.0.0", "::", "[::]") else address


def _rest_address(flags: server_flags.Flags) -> str:
    return f"http://{_reachable(flags.bind_address)}:{flags.rest_api_port}"


def _ready_lines(launch: Launch) -> list[str]:
    names = ", ".join(model.name for model in launch.models)
    lines = [f"AVAILABLE: {names} ({launch.kind} server)"]
    if launch.flags.port:
        lines.append(f"gRPC  {_reachable(launch.flags.bind_address)}:{launch.flags.port}")
    if launch.flags.grpc_socket_path:
        lines.append(f"gRPC  unix:{launch.flags.grpc_socket_path}")
    if launch.flags.rest_api_port:
        address = _rest_address(launch.flags)
        lines += [f"REST  {address}/v1/models/{model.name}" for model in launch.models]
    return lines


def main(argv: list[str] | None = None) -> int:
    """Parses the launcher's own flags and runs the server."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.launch",
        description="Starts a model server; further flags are those of tensorflow_model_server.",
        allow_abbrev=False,
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command and exit")
    parser.add_argument(
        "--backend", choices=("auto", "binary", "docker", "embedded"), default="auto"
    )
    parser.add_argument(
        "--wait-seconds", type=float, default=600.0, help="how long the models may take to load"
    )
    own, rest = parser.parse_known_args(argv)
    with errors.one_line_for_bad_input():
        launch = plan(rest, own.backend)
        if own.dry_run:
            print(shlex.join(launch.command))
            return 0
        return run(launch, own.wait_seconds)


if __name__ == "__main__":
    sys.exit(main())
