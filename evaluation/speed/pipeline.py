r"""Tiles a second of the input pipeline, beside MONAI and TorchIO, and its memory.

    python -m evaluation.speed pipeline                    # 12 minutes on 2 idle cores

MONAI and TorchIO need the extra `rivals`, in an environment of its own:

    make setup && .venv/bin/python -m pip install -c constraints/main.txt -e '.[rivals]' \
        --extra-index-url https://download.pytorch.org/whl/cpu

Without them, ours is measured alone. In the tensorflow-io lane (.venv-tfio/bin/python), its
DICOM decoder is held against pydicom as well. Every measurement is a process of its own, pinned
to its cores, one after the other; results go to OUT/pipeline.json and OUT/pipeline.md.
"""

import argparse
import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import rich.console
import rich.table

from data_pipeline import machine
from data_pipeline.errors import InputError
from evaluation import summary, tables

PACKAGES = (
    "tensorflow", "tensorflow-io", "keras", "numpy", "opencv-python-headless", "torch", "monai",
    "torchio",
)  # fmt: skip
_RIVALS = {"monai-cache": "monai", "monai-persistent": "monai", "torchio-queue": "torchio"}
_TITLES = {
    "ours": "data_pipeline.batches",
    "monai-cache": "MONAI CacheDataset, DataLoader",
    "monai-persistent": "MONAI PersistentDataset, DataLoader",
    "torchio-queue": "TorchIO Queue",
    "train-step": "a training step of the U-Net",
}
PARTS = ("tiles", "memory", "dicom")
# The first step of a training builds its graph, which is nothing that a loader waits for: it
# has no cold figure, and need not see every case to warm up.
_FEW = ("--cases", "16")
CASES = (1000, 5000, 10000, 20000)

_PATIENCE_S = 600  # for one measurement; PyTorch waits for ever on a worker that failed to start


@dataclasses.dataclass(frozen=True)
class Measured:
    """Tiles a second of one loader, with one number of workers, on some cores."""

    name: str
    workers: int
    cores: int
    cold: float | None  # a first epoch, with nothing prepared
    warm: list[float]  # each repeat
    imports_s: float | None = None  # no part of `cold`
    fixed_s: float | None = None  # of a first epoch, what it takes however many cases there are
    case_ms: float | None = None  # and what each case adds to it

    @property
    def median(self) -> float:
        """The median of the repeats."""
        return float(np.median(self.warm))


def best(found: Iterable[Measured], name: str, cores: int) -> Measured | None:
    """Returns a loader with the number of workers that is fastest when warm."""
    those = [m for m in found if m.name == name and m.cores == cores]
    return max(those, key=lambda m: m.median, default=None)


def ratio(ours: Measured, other: Measured) -> tuple[float, float, float]:
    """Returns how often ours is as fast as another: by medians, at least, at most."""
    middle = ours.median / other.median
    return middle, min(ours.warm) / max(other.warm), max(ours.warm) / min(other.warm)


def tiles(
    console: rich.console.Console, cores: Sequence[int], seconds: float, repeats: int
) -> list[Measured]:
    """Measures every loader that is installed, and the training step, on each number of cores."""
    names = ["ours"]
    for name, package in _RIVALS.items():
        if importlib.util.find_spec(package):
            names.append(name)
        else:
            console.print(f"{_TITLES[name]}: {package} is not installed (the extra `rivals`)")
    found = []
    timing = ["--seconds", str(seconds), "--repeats", str(repeats)]
    for count in cores:
        pinned = ",".join(map(str, machine.cores()[-count:]))
        for name in ("train-step", *names):
            # Ours has threads, not workers; the rivals get whichever number is best.
            for workers in (0, 1, 2) if name in _RIVALS else (0,):
                flags = ["--cores", pinned, "--workers", str(workers), *timing]
                found.append(_loader(name, *flags, *(_FEW if name == "train-step" else ())))
                console.print(_line(found[-1]))
    return found


def _loader(name: str, *flags: str) -> Measured:
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        m = Measured(**_run("loader", name, "--folder", folder, *flags))
    return dataclasses.replace(m, cold=None) if name == "train-step" else m


def _run(module: str, *words: str) -> dict[str, Any]:
    """Runs one measurement and returns the JSON of its last line.

    Raises:
      InputError: if it fails, with the end of what it said.
    """
    command = [sys.executable, "-m", f"evaluation.speed.{module}", *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"measuring {module} {' '.join(words[:1])} took longer than {_PATIENCE_S} s"
        ) from error
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise InputError(f"measuring {module} {' '.join(words[:1])} failed; it said: {said[0]}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def _line(m: Measured) -> str:
    cold = "" if m.cold is None else f", cold {m.cold:.0f}"
    return f"{_TITLES[m.name]}, {m.cores} cores, {m.workers} workers: {m.median:.0f} tiles/s{cold}"


HEADER = (
    "Loader", "Cores", "Workers", "Imports, s", "Cold: once, s", "and a case, ms", "Cold, tiles/s",
    "Warm, tiles/s", "Ours is, warm",
)  # fmt: skip


def rows(found: Sequence[Measured]) -> list[tuple[str, ...]]:
    """Returns the table of tiles: each loader at its best, on each number of cores."""
    told: list[tuple[str, ...]] = []
    for cores in sorted({m.cores for m in found}):
        ours = best(found, "ours", cores)
        for name, title in _TITLES.items():
            m = best(found, name, cores)
            if m is None or ours is None:
                continue
            middle, low, high = ratio(ours, m)
            told.append(
                (
                    title,
                    str(cores),
                    "threads" if name in ("ours", "train-step") else str(m.workers),
                    *(
                        "-" if value is None else f"{value:.{digits}f}"
                        for value, digits in zip(
                            (m.imports_s, m.fixed_s, m.case_ms, m.cold), (1, 1, 0, 0), strict=True
                        )
                    ),
                    f"{m.median:.0f} ({min(m.warm):.0f}-{max(m.warm):.0f})",
                    "-" if name == "ours" else f"{middle:.1f} x ({low:.1f}-{high:.1f})",
                )
            )
    return told


def memory(console: rich.console.Console, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Measures the memory of a process that streams from each number of cases."""
    found = []
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        for count in counts:
            found.append(_run("memory", str(count), "--folder", str(pathlib.Path(folder, "cache"))))
            console.print(f"{count:,} cases: {found[-1]['resident_mb']:.0f} MB")
    return found


def markdown(report: dict[str, Any]) -> str:
    """Returns the report as Markdown, for docs/speed.md."""
    on = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in on["versions"].items())
    place = f"{on['cores']} cores of {on['processor']}, Python {on['python']}"
    text = f"{on['date']}, {place}; {versions}.\n"
    if measured := report.get("tiles"):
        found = [Measured(**m) for m in measured]
        text += "\n" + tables.markdown(HEADER, rows(found))
    if curve := report.get("memory"):
        lines = [
            (f"{m['cases']:,}", f"{m['resident_mb']:.0f}", f"{m['anonymous_mb']:.0f}")
            for m in curve
        ]
        header = ("Cases", "Resident, MB", "of it not backed by files, MB")
        text += "\n" + tables.markdown(header, lines)
    if decoders := report.get("dicom"):
        text += "\n" + _dicom_words(decoders)
    return text


def _dicom_words(found: dict[str, Any]) -> str:
    rates = found["files_per_s"]
    text = (
        f"Unsigned X-rays of 2048 x 2048 through tf.data: pydicom {rates['pydicom']:.0f} files/s, "
        f"tensorflow-io {rates['tensorflow-io']:.0f}; values "
        f"{'equal' if found['equal_on_unsigned'] else 'NOT equal'}.\n"
    )
    for other in found["elsewhere"]:
        low, high = other["stored"]
        text += (
            f"{other['file']}: stored {low:.0f} to {high:.0f}, rescale {other['rescale']}; "
            f"tensorflow-io says {other['tensorflow_io'][0]:.0f} to "
            f"{other['tensorflow_io'][1]:.0f}.\n"
        )
    return text


def main(argv: list[str]) -> None:
    """Parses flags, measures, tells, and writes OUT/pipeline.json and OUT/pipeline.md."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.speed pipeline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", type=pathlib.Path, default=pathlib.Path("results/speed"))
    add("--parts", default=",".join(PARTS), help="default: %(default)s")
    add("--cores", default="1,2", help="numbers of cores (default: %(default)s)")
    add("--seconds", type=float, default=4.0, help="of one repeat (default: %(default)s)")
    add("--repeats", type=int, default=3, help="default: %(default)s")
    flags = parser.parse_args(argv)
    parts = flags.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise InputError(f"unknown part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    console = rich.console.Console(highlight=False)
    report: dict[str, Any] = {"machine": machine.describe(PACKAGES)}
    if "tiles" in parts:
        counts = [n for n in map(int, flags.cores.split(",")) if n <= len(machine.cores())]
        found = tiles(console, counts, flags.seconds, flags.repeats)
        report["tiles"] = [dataclasses.asdict(m) for m in found]
        console.print(_for_terminal(rows(found)))
    if "memory" in parts:
        report["memory"] = memory(console, CASES)
    if "dicom" in parts and importlib.util.find_spec("tensorflow_io"):
        report["dicom"] = _run("dicom_decoders")
        console.print(_dicom_words(report["dicom"]))
    flags.out.mkdir(parents=True, exist_ok=True)
    summary.save_text(flags.out / "pipeline.json", json.dumps(report, indent=2) + "\n")
    summary.save_text(flags.out / "pipeline.md", markdown(report))
    console.print(f"report: {flags.out / 'pipeline.json'}, {flags.out / 'pipeline.md'}")


def _for_terminal(told: Sequence[Sequence[str]]) -> rich.table.Table:
    table = rich.table.Table(*HEADER)
    for row in told:
        table.add_row(*row)
    return table
