"""The embedded server as a process of its own, for as long as something is to be tried on it."""

import contextlib
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import IO

from data_pipeline import ports
from data_pipeline.errors import InputError
from serving import client, connection

_START_S = 180.0  # TensorFlow alone may take half a minute to load on a busy machine
_STOP_S = 20.0
_ROOT = pathlib.Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def embedded(base_path: pathlib.Path, model: str) -> Iterator[Mapping[str, str]]:
    """Runs serving.model_server on free ports; yields "grpc" and "rest" addresses once it answers.

    Raises:
      InputError: if it ends or does not answer.
    """
    port_of = dict(zip(("grpc", "rest"), ports.free_ports(2), strict=True))
    command = [
        *(sys.executable, "-m", "serving.model_server"),
        f"--port={port_of['grpc']}",
        f"--rest_api_port={port_of['rest']}",
        f"--model_name={model}",
        f"--model_base_path={base_path.resolve()}",
    ]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=_ROOT, stdout=log, stderr=log)
        try:
            addresses = {api: f"127.0.0.1:{port}" for api, port in port_of.items()}
            for api, address in addresses.items():
                _await(process, api, address, model, log)
            yield addresses
        finally:
            process.terminate()
            try:
                process.wait(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(
    process: "subprocess.Popen[bytes]", api: str, address: str, model: str, log: IO[bytes]
) -> None:
    give_up_at = time.monotonic() + _START_S
    while True:
        server = client.APIS[api](connection.Access(address, deadline_s=5.0, outage_s=0.0))
        try:
            server.version(model)
            return
        except (connection.ServerDown, connection.NotServed) as error:
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise InputError(f"the embedded server did not start: {_last_line(log)}") from error
        finally:
            server.close()
        time.sleep(0.2)


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    return " ".join(log.read().decode(errors="replace").strip().splitlines()[-1:])
