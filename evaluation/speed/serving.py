"""Milliseconds and masks a second of a served model, beside the same weights elsewhere.

    python -m evaluation.speed serving runs/unet runs/light

takes about 11 minutes a model on 2 idle cores, and 4 with `--seconds 2 --clients 1,16`. Without
runs it first trains two. Each model's numbers are in OUT/serving.json and OUT/serving.md as soon
as it is done.
"""

import argparse
import itertools
import json
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import rich.console

from data_pipeline import cases, inference, machine, raster, spec
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec
from evaluation import summary
from evaluation.speed import forward, server, serving_tables

CLIENTS = (1, 4, 16, 64)
# What is asked: tiles show what the server adds to the graph; voxels are read and placed by the
# client, files by the graph.
WAYS = (("grpc", "tile"), ("grpc", "voxels"), ("grpc", "file"), ("rest", "file"))
_TRAINED = ("unet", "light")  # where no run is given
_ROUNDS = 3  # of all runtimes in turn, so that a busy minute does not meet one of them alone
_PACKAGES = ("tensorflow", "onnxruntime", "openvino", "grpcio", "protobuf", "numpy")


def main(argv: list[str]) -> None:
    """Parses flags, measures, tells, and writes the numbers."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.speed serving", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("runs", nargs="*", type=pathlib.Path, help="run directories; default: trains two")
    add("--clients", default=CLIENTS, type=_counts, help="default: %(default)s")
    add("--seconds", type=float, default=4.0, help="of each measurement")
    add("--epochs", type=int, default=6, help="of training, where no run is given")
    add("--out", type=pathlib.Path, default=pathlib.Path("results/speed"))
    flags = parser.parse_args(argv)
    console = rich.console.Console(highlight=False)
    report: dict[str, Any] = {"machine": machine.describe(_PACKAGES), "models": []}
    with tempfile.TemporaryDirectory(prefix="speed-serving-") as folder:
        scratch = pathlib.Path(folder)
        for run in flags.runs or _train(scratch, flags.epochs, console):
            one = _measure(run, scratch, flags.clients, flags.seconds, console)
            serving_tables.show(one, console)
            report["models"].append(one)
            _write(flags.out, report)
    console.print(f"report: {flags.out / 'serving.json'}, {flags.out / 'serving.md'}")


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(sorted({int(word) for word in text.split(",")}))
    if counts[0] < 1:
        raise argparse.ArgumentTypeError("at least one client asks")
    return counts


def _train(
    scratch: pathlib.Path, epochs: int, console: rich.console.Console
) -> Iterator[pathlib.Path]:
    for name in _TRAINED:
        with console.status(f"training {name} for {epochs} epochs"):
            server.run(
                *("training.run", "--model", name, "--name", name, "--epochs", str(epochs)),
                *("--cleaning", "none"),  # the signatures that take files have no components
                *("--runs", str(scratch / "runs")),
            )
        yield scratch / "runs" / name


def _measure(
    run: pathlib.Path,
    scratch: pathlib.Path,
    clients: Sequence[int],
    seconds: float,
    console: rich.console.Console,
) -> dict[str, Any]:
    """Returns all numbers of one run's network."""
    known = spec.load(run / "spec.json")
    if known.modality != "XR" or len(known.shape) != 2:
        raise InputError(f"{run} is not of X-rays, which is what is sent here")
    if known.cleaning or known.frame not in (None, known.shape):
        raise InputError(f"{run} cleans its masks or cuts tiles, so that a file is not one request")
    versions = scratch / "exports" / run.resolve().name
    with console.status(f"{run}: export"):
        server.run("serving.export", str(run), "--out", str(versions), *_also())
        server.run("serving.deployment", str(versions), "--out", str(scratch / "deploy"))
    scan, tile = _written(known, scratch)
    version = max((p for p in versions.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    return {
        "model": versions.name,
        "tile": list(known.shape),
        "cores": len(machine.cores()),
        "parity": json.loads((version / "assets.extra" / "parity.json").read_text("utf-8")),
        "in_process": _in_process(version, tile, scratch, seconds, console),
        "served": list(_served(versions, scan, scratch, clients, seconds, console)),
    }


def _also() -> list[str]:
    """Exports for the other runtimes, as far as they are installed: extra `rivals`."""
    needed = ("tf2onnx", "onnxruntime")
    return ["--also", "onnx"] if all(machine.is_installed(name) for name in needed) else []


def _written(known: InputSpec, scratch: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes an X-ray of the sample at the network's size, as PNG and as a tile."""
    case = next(case for case in cases.load(cases.SAMPLE) if case.modality == "XR")
    _, tile = next(iter(inference.cut(cases.read_scan(case), known)))
    pixels = np.clip(np.rint(tile[..., 0]), 0, 255).astype(np.uint8)
    raster.write(scratch / "scan.png", pixels)
    np.save(scratch / "tile.npy", pixels[None, ..., None].astype(np.float32))
    return scratch / "scan.png", scratch / "tile.npy"


def _in_process(
    version: pathlib.Path,
    tile: pathlib.Path,
    scratch: pathlib.Path,
    seconds: float,
    console: rich.console.Console,
) -> list[dict[str, Any]]:
    """Returns the numbers of each runtime: a caller on one core, on all, and a caller a core."""
    cores = len(machine.cores())
    has_onnx = (version / forward.ONNX).exists()
    runtimes = [
        name
        for name in forward.RUNTIMES
        if name in serving_tables.OURS or (has_onnx and machine.is_installed(name))
    ]
    shares = sorted({(1, 1), (1, cores), (cores, 1)})
    numbers: dict[tuple[str, int, int], dict[str, Any]] = {}
    for _, (callers, threads), name in itertools.product(range(_ROUNDS), shares, runtimes):
        with console.status(f"{name}, {callers} at once, {threads} threads each"):
            out = scratch / f"{name}.json"
            server.run(
                *("evaluation.speed.forward", str(version), str(tile), str(out)),
                *(f"--runtime={name}", f"--callers={callers}", f"--threads={threads}"),
                f"--seconds={seconds}",
            )
            found = json.loads(out.read_text("utf-8"))
        kept = numbers.setdefault((name, callers, threads), {"a_second": [], "milliseconds": []})
        kept["a_second"].append(found["a_second"])
        kept["milliseconds"] += found["milliseconds"]
    above = np.array(spec.load(version / "assets.extra" / "spec.json").above, np.float32)
    standard = np.load(scratch / "tensorflow.npy") > above
    return [
        {
            "runtime": name,
            "callers": callers,
            "threads": threads,
            "a_second": float(np.median(kept["a_second"])),
            "milliseconds": serving_tables.percentiles(kept["milliseconds"]),
            "different_pixels": int((standard != (np.load(scratch / f"{name}.npy") > above)).sum()),
        }
        for (name, callers, threads), kept in numbers.items()
    ]


def _served(
    versions: pathlib.Path,
    scan: pathlib.Path,
    scratch: pathlib.Path,
    clients: Sequence[int],
    seconds: float,
    console: rich.console.Console,
) -> Iterator[dict[str, Any]]:
    """Yields the numbers of each way to ask, number of clients, without and with batching.

    Raises:
      InputError: if one of them gives another mask than the others.
    """
    masks: set[str] = set()
    for batching in (None, scratch / "deploy" / "config" / "batching.config"):
        with server.running(versions, scratch, batching) as running:
            for (api, send), count in itertools.product(WAYS, clients):
                told = f"{api}, {send}, {count} clients, batching {'on' if batching else 'off'}"
                with console.status(told):
                    options = {"api": api, "send": send, "clients": count, "seconds": seconds}
                    one = running.load(scan, scratch, **options)
                masks |= set(one["different_masks"])
                if len(masks) > 1:
                    raise InputError(f"the mask changes with the way it is asked for: {told}")
                yield {"batching": batching is not None, **one}


def _write(out: pathlib.Path, report: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    summary.save_text(out / "serving.json", json.dumps(report, indent=2) + "\n")
    summary.save_text(out / "serving.md", serving_tables.markdown(report))
