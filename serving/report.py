"""What was found in each scan, kept line by line while a folder is at work, and as report.json."""

import dataclasses
import json
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.scan import Mask, Scan

REPORT = "report.json"
_JOURNAL = ".segment.jsonl"


@dataclasses.dataclass(frozen=True)
class Result:
    """One scan that is done."""

    case: str
    source: str
    model: str
    version: int
    grid: list[int]
    labels: dict[str, dict[str, float | None]]  # pixels, and area_cm2 or volume_ml
    infected_share_of_lung: float | None  # None where that cannot be said
    files: list[str]  # in the output folder
    seconds: dict[str, float]  # read, prepare, server, write
    fingerprint: str  # of the source's files, to know them again


@dataclasses.dataclass(frozen=True)
class Failure:
    """One scan that could not be segmented, and why."""

    case: str
    source: str
    error: str


def measure(mask: Mask, scan: Scan) -> dict[str, dict[str, float | None]]:
    """Returns the extent of each label: in pixels, and in cm2 or ml where spacing is known."""
    name, per_pixel = _unit(scan)
    found = {}
    for label, plane in zip(mask.labels, mask.planes, strict=True):
        pixels = int(plane.sum())
        size = None if per_pixel is None else round(pixels * per_pixel, 3)
        found[label] = {"pixels": pixels, name: size}
    return found


def _unit(scan: Scan) -> tuple[str, float | None]:
    name, mm_a_unit = ("volume_ml", 1000.0) if len(scan.shape) == 3 else ("area_cm2", 100.0)
    return name, None if scan.spacing_mm is None else float(np.prod(scan.spacing_mm)) / mm_a_unit


def infected_share(mask: Mask) -> float | None:
    """Returns the share of the lung that is infected; None without both labels or without lung."""
    lung, infection = mask.plane("lung"), mask.plane("infection")
    if lung is None or infection is None or not lung.any():
        return None
    return round(float((lung & infection).sum() / lung.sum()), 6)


class Journal:
    """The results of an output folder, on disk as soon as each is known.

    A line is added for each scan, which costs the same for the first as for the ten
    thousandth. A line that a crash cut short is passed over: its scan is done again.
    """

    def __init__(self, out: pathlib.Path) -> None:
        self._out = out
        self._lock = threading.Lock()
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / _JOURNAL
        self.results = {result.case: result for result in _read(self._path)}
        self._end_the_last_line()

    def _end_the_last_line(self) -> None:
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def add(self, result: Result) -> None:
        """Keeps a result; the files it names must be there already."""
        line = json.dumps(dataclasses.asdict(result))
        with self._lock:
            self.results[result.case] = result
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def has(self, case: str, fingerprint: str, model: str, version: int) -> bool:
        """Whether a scan was segmented by this version, as it is now, and its files are there."""
        known = self.results.get(case)
        return (
            known is not None
            and (known.fingerprint, known.model, known.version) == (fingerprint, model, version)
            and all((self._out / file).exists() for file in known.files)
        )

    def write_report(
        self, cases: Sequence[str], failures: Sequence[Failure], about: Mapping[str, Any]
    ) -> pathlib.Path:
        """Writes report.json for these cases, with what `about` says of the run; returns it."""
        done = [self.results[case] for case in cases if case in self.results]
        failed = {failure.case for failure in failures}
        done = [result for result in done if result.case not in failed]
        content = {
            **about,
            "versions": sorted({result.version for result in done}),
            "done": len(done),
            "failed": len(failures),
            "results": [_told(result) for result in done],
            "failures": [dataclasses.asdict(failure) for failure in failures],
        }
        path = self._out / REPORT
        unfinished = path.with_name(f".{REPORT}.{os.getpid()}")
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return unfinished.replace(path)


def _told(result: Result) -> dict[str, Any]:
    fields = dataclasses.asdict(result)
    del fields["fingerprint"]
    return fields


def _read(path: pathlib.Path) -> list[Result]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    results = []
    for line in lines:
        try:
            results.append(Result(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return results
