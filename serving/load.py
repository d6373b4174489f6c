"""Asks a server for masks from many clients at once, and tells how long they waited.

    python -m serving.load scan.png --server localhost:8500 --model lung_unet --clients 16

Each client has a connection of its own and sends the next request once it has the answer to the
last. One that is told to wait, because a queue is full, waits and tries again, as
serving.segment does.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import console as rich_console

from data_pipeline import geometry, inference, read
from data_pipeline.errors import InputError, one_line_for_bad_input
from serving import client, encoded, in_flight
from serving.connection import Access

SENDS = ("voxels", "file", "tile")
STEPS = ("decode", "preprocess", "server", "postprocess")
_PERCENTILES = (50, 95, 99)


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is asked, and how."""

    address: str
    model: str
    scan: pathlib.Path
    api: str = "grpc"
    # "voxels": read and placed by the client. "file": as it is. "tile": read and placed once, so
    # that only the server is measured.
    send: str = "voxels"
    clients: int = 1
    seconds: float = 5.0


class _Client(threading.Thread):
    """One that asks; what it saw is in its attributes once it has ended."""

    def __init__(self, trial: Trial, start: threading.Barrier) -> None:
        super().__init__(daemon=True)
        self.steps_s: list[tuple[float, ...]] = []  # of each mask, in the order of STEPS
        self.masks: set[str] = set()
        self.ended_s = 0.0
        self.error: BaseException | None = None
        self._trial, self._start = trial, start
        self._model = client.reach(Access(trial.address), trial.model, api=trial.api)

        self._tile = _tile(trial, self._model) if trial.send == "tile" else None

    def run(self) -> None:
        try:
            self._once()  # opens the connection
            self._start.wait()
            until = time.perf_counter() + self._trial.seconds
            while time.perf_counter() < until:
                self.steps_s.append(self._once())
        except Exception as error:
            self.error = error
            self._start.abort()
        finally:
            self.ended_s = time.perf_counter()
            self._model.close()

    def _once(self) -> tuple[float, ...]:
        if self._tile is not None:
            started = time.perf_counter()
            probabilities = self._model.served.predict(self._tile)[0]
            waited_s = time.perf_counter() - started
            # Rounded as geometry does it, so that it is the mask of the whole scan.
            whole = np.rint(np.moveaxis(probabilities, -1, 0) * geometry.PROBABILITY_ONE)
            planes = inference.outlined(whole / geometry.PROBABILITY_ONE, self._model.served.spec)
            self.masks.add(_fingerprint(planes))
            return 0.0, 0.0, waited_s, 0.0
        watch = in_flight.Stopwatch()
        served = dataclasses.replace(self._model.served, each=watch.timed(map))
        started = time.perf_counter()
        if self._trial.send == "file":
            content = self._trial.scan.read_bytes()
            decoded = time.perf_counter()
            mask = served.mask_of_file(content)
        else:
            scan = read.scan(self._trial.scan, served.spec.modality)
            decoded = time.perf_counter()
            mask = served.mask(scan)
        rest_s = time.perf_counter() - decoded - watch.preprocess_s - watch.server_s
        self.masks.add(_fingerprint(mask.planes))
        return decoded - started, watch.preprocess_s, watch.server_s, rest_s


def _tile(trial: Trial, model: client.Model) -> np.ndarray:
    """Returns the first tile of the scan, (1, *shape, channels)."""
    scan = read.scan(trial.scan, model.spec.modality)
    inference.check_suits(scan, model.spec)
    _, tile = next(iter(inference.cut(scan, model.spec)))
    return tile[None]


def _fingerprint(planes: np.ndarray) -> str:
    return hashlib.sha256(np.packbits(planes).tobytes()).hexdigest()


def run(trial: Trial) -> dict[str, Any]:
    """Returns what was measured: masks a second, milliseconds, and which masks came.

    Raises:
      InputError: if a client fails.
    """
    start = threading.Barrier(trial.clients + 1)
    clients = [_Client(trial, start) for _ in range(trial.clients)]
    _check(trial, clients[0]._model)
    for one in clients:
        one.start()
    try:
        start.wait()
    except threading.BrokenBarrierError:
        pass  # a client has failed and says why
    started, started_cpu_s = time.perf_counter(), time.process_time()
    for one in clients:
        one.join()
    cpu_s = time.process_time() - started_cpu_s
    for one in clients:
        if one.error is not None and not isinstance(one.error, threading.BrokenBarrierError):
            raise InputError(f"a client failed: {one.error}") from one.error
    steps_s = np.array([steps for one in clients for steps in one.steps_s])
    elapsed_s = max(one.ended_s for one in clients) - started
    return {
        **{name: value for name, value in dataclasses.asdict(trial).items() if name != "scan"},
        "masks": len(steps_s),
        "masks_a_second": len(steps_s) / elapsed_s,
        "cpu_ms": 1000 * cpu_s / len(steps_s),  # of the clients, for a mask
        "latency_ms": _percentiles_ms(steps_s.sum(axis=1)),
        "server_ms": _percentiles_ms(steps_s[:, STEPS.index("server")]),
        "mean_ms": dict(zip(STEPS, (1000 * steps_s.mean(axis=0)).tolist(), strict=True)),
        "different_masks": sorted(set().union(*(one.masks for one in clients))),
    }


def _check(trial: Trial, model: client.Model) -> None:
    if trial.send == "file" and not encoded.takes_files(model.spec):
        raise InputError(f"{trial.model} takes no files: --send voxels works")


def _percentiles_ms(seconds: np.ndarray) -> dict[str, float]:
    found = np.percentile(1000 * seconds, _PERCENTILES)
    return {f"p{p}": float(value) for p, value in zip(_PERCENTILES, found, strict=True)}


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the flags, asks, and tells."""
    parser = argparse.ArgumentParser(prog="serving.load", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("scan", type=pathlib.Path, help="what is sent, again and again")
    add("--server", required=True, dest="address", help="HOST:PORT of the API")
    add("--model", required=True)
    add("--api", choices=tuple(client.APIS), default=Trial.api)
    add(
        "--send",
        choices=SENDS,
        default=Trial.send,
        help="voxels that the client places, the file as it is, or one tile again and again",
    )
    add("--clients", type=_positive, default=Trial.clients)
    add("--seconds", type=float, default=Trial.seconds)
    add("--out", type=pathlib.Path, help="a file for all numbers, as JSON")
    flags = vars(parser.parse_args(argv))
    out = flags.pop("out")
    with one_line_for_bad_input():
        measured = run(Trial(**flags))
        if out is not None:
            out.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    _tell(measured)


def _positive(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least one client asks")
    return count


def _tell(measured: dict[str, Any]) -> None:
    console = rich_console.Console(highlight=False, soft_wrap=True)
    waits = ", ".join(f"{name} {value:.1f} ms" for name, value in measured["latency_ms"].items())
    steps = ", ".join(f"{name} {value:.1f} ms" for name, value in measured["mean_ms"].items())
    console.print(f"{measured['masks_a_second']:.1f} masks a second, {waits}")
    console.print(f"on average {steps}")
    count = len(measured["different_masks"])
    console.print("every mask the same" if count == 1 else f"{count} different masks")


if __name__ == "__main__":
    main()
