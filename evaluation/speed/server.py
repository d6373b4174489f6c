"""A model server as a process of its own, and what it says of its own time.

The server and its clients are commands of serving, which evaluation does not import: they meet
here in command lines, an address and files.
"""

import contextlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipeline import machine, ports
from data_pipeline.errors import InputError

_START_S = 300.0  # TensorFlow alone may take half a minute to load on a busy machine
_STOP_S = 30.0
_RUN_S = 3600.0  # of one command, so that nobody waits for ever for one that hangs
# What the embedded server tells glibc (serving.server.memory), so that all are measured alike:
# blocks up to 32 MiB are kept when they are freed, for a tenth of the time of a small network.
_ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**26)}
_METRICS = "/monitoring/prometheus/metrics"
# Of each, the server tells a sum in microseconds and a count.
_TOLD = {
    "handling": "request_latency",
    "graph": "runtime_latency",
    "queue": "batching_session:queuing_latency",
}


class Server:
    """The embedded server with one model, for as long as something is measured on it."""

    def __init__(self, model: str, grpc_port: int, rest_port: int, process_id: int) -> None:
        self.model = model
        self._process_id = process_id
        self.addresses = {"grpc": f"127.0.0.1:{grpc_port}", "rest": f"127.0.0.1:{rest_port}"}

    def totals(self) -> dict[str, tuple[float, float]]:
        """Returns seconds spent so far and how often, for each of the steps in a server."""
        text = _get(f"http://{self.addresses['rest']}{_METRICS}")
        return {
            step: (_total(text, f"{name}_sum") / 1e6, _total(text, f"{name}_count"))
            for step, name in _TOLD.items()
        }

    def load(self, scan: pathlib.Path, folder: pathlib.Path, **options: object) -> dict[str, Any]:
        """Returns what `python -m serving.load` measured, with the server's own share.

        Raises:
          InputError: if it fails.
        """
        out = folder / "load.json"
        words = [f"--{name}={value}" for name, value in options.items()]
        address = self.addresses[str(options["api"])]
        before, before_s = self.totals(), machine.cpu_s(self._process_id)
        run(
            *("serving.load", str(scan), "--server", address, "--model", self.model),
            *("--out", str(out), *words),
        )
        measured: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        after, spent_s = self.totals(), machine.cpu_s(self._process_id) - before_s
        measured["in_server_ms"] = _means_ms(before, after)
        requests = after["handling"][1] - before["handling"][1]
        measured["cpu_ms"] = {
            "server": 1000 * spent_s / requests,
            "clients": measured["cpu_ms"],
        }
        return measured


def _means_ms(
    before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]
) -> dict[str, float]:
    means = {}
    for step, (seconds, count) in after.items():
        times = count - before[step][1]
        means[step] = 1000 * (seconds - before[step][0]) / times if times else 0.0
    return means


def _total(text: str, name: str) -> float:
    found = re.findall(rf"^:tensorflow:serving:{name}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as reply:
        text: str = reply.read().decode()
    return text


@contextlib.contextmanager
def running(
    versions: pathlib.Path, scratch: pathlib.Path, batching: pathlib.Path | None
) -> Iterator[Server]:
    """Runs the embedded server on free ports, as serving.launch would, until the block ends.

    Args:
      versions: exports/MODEL.
      scratch: a folder for its settings and its log.
      batching: a file of batching parameters; None: no batching.

    Raises:
      InputError: if it does not start.
    """
    grpc_port, rest_port = ports.free_ports(2)
    monitoring = scratch / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }\n", encoding="utf-8")
    words = ["--enable_batching", f"--batching_parameters_file={batching}"] if batching else []
    log = scratch / "server.log"
    with log.open("wb") as file:
        command = run(
            *("serving.launch", "--dry-run", "--backend=embedded"),
            *(f"--port={grpc_port}", f"--rest_api_port={rest_port}"),
            f"--model_name={versions.name}",
            f"--model_base_path={versions.resolve()}",
            f"--monitoring_config_file={monitoring}",
            *words,
        )
        # Not the launcher itself: what is measured is the process of the server.
        process = subprocess.Popen(shlex.split(command), stdout=file, stderr=file)
    try:
        server = Server(versions.name, grpc_port, rest_port, process.pid)
        _await(process, f"http://{server.addresses['rest']}/v1/models/{versions.name}", log)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(process: "subprocess.Popen[bytes]", url: str, log: pathlib.Path) -> None:
    until = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            if '"AVAILABLE"' in _get(url):
                return
        if process.poll() is not None or time.monotonic() > until:
            raise InputError(f"the server did not start: {_last_line(log.read_bytes())}")
        time.sleep(0.2)


def run(module: str, *words: str) -> str:
    """Runs one of the project's commands to its end, and returns what it printed.

    Raises:
      InputError: with its last line, if it fails, or if it does not end.
    """
    command = [sys.executable, "-m", module, *words]
    try:
        ended = subprocess.run(
            command, capture_output=True, timeout=_RUN_S, env=os.environ | _ALLOCATION
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"python -m {module} takes longer than {_RUN_S:.0f} s") from error
    if ended.returncode:
        told = _last_line(ended.stderr) or _last_line(ended.stdout)
        raise InputError(f"python -m {module} failed: {told}")
    return ended.stdout.decode()


def _last_line(text: bytes) -> str:
    lines: Sequence[str] = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
