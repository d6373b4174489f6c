"""What was found in each scan, kept line by line while a folder is at work, and as report.json."""

import dataclasses
import json
import os
import pathlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.scan import Mask, Scan
from serving.collect import Item

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
    seconds: dict[str, float]  # decode, preprocess, server (wire and all), postprocess, write
    requests: int  # how many the server was sent: one a tile, slice or file
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


@dataclasses.dataclass(frozen=True)
class _Line:
    """Where in a journal a result stands."""

    start: int  # in bytes
    version: int  # of the model


class Journal:
    """The results of an output folder, on disk as soon as each is known.

    A line is added for each scan, which costs the same for the first as for the ten
    thousandth, and only its place is kept in memory. A line that a crash cut short is passed
    over: its scan is done again.
    """

    def __init__(self, out: pathlib.Path) -> None:
        self._out = out
        self._lock = threading.Lock()
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / _JOURNAL
        try:
            self._lines = _lines(self._path)
        except OSError as error:
            raise InputError(f"{self._path} cannot be read: {error.strerror}") from error

    def add(self, result: Result) -> None:
        """Keeps a result; the files it names must be there already."""
        line = json.dumps(dataclasses.asdict(result)).encode() + b"\n"
        with self._lock, self._path.open("ab") as file:
            start = file.tell()
            file.write(line)
            self._lines[result.case] = _Line(start, result.version)

    def find(self, case: str) -> Result | None:
        """Returns the last result of a case; None if there is none."""
        if case not in self._lines:
            return None
        with self._path.open("rb") as file:
            file.seek(self._lines[case].start)
            return _result(file.readline())

    def has(self, item: Item, model: str, version: int) -> bool:
        """Whether a scan was segmented by this version, as it is now, and its files are there."""
        known = self.find(item.name)
        return (
            known is not None
            and (known.model, known.version) == (model, version)
            and known.fingerprint == item.fingerprint()
            and all((self._out / file).exists() for file in known.files)
        )

    def write_report(
        self, cases: Sequence[str], failures: Sequence[Failure], about: Mapping[str, Any]
    ) -> pathlib.Path:
        """Writes report.json for these cases, with what `about` says of the run; returns it."""
        failed = {failure.case for failure in failures}
        done = [case for case in cases if case in self._lines and case not in failed]
        head = {
            **about,
            "versions": sorted({self._lines[case].version for case in done}),
            "done": len(done),
            "failed": len(failures),
        }
        path = self._out / REPORT
        unfinished = path.with_name(f".{REPORT}.{os.getpid()}")
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(json.dumps(head, indent=2).removesuffix("\n}"))
            file.write(',\n  "results": ')
            _write_list(file, (_told(found) for case in done if (found := self.find(case))))
            file.write(',\n  "failures": ')
            _write_list(file, map(dataclasses.asdict, failures))
            file.write("\n}\n")
        return unfinished.replace(path)


def _told(result: Result) -> dict[str, Any]:
    fields = dataclasses.asdict(result)
    del fields["fingerprint"]
    return fields


def _write_list(file: TextIO, entries: Iterable[dict[str, Any]]) -> None:
    """Writes a JSON list with a line for each entry, one after the other."""
    separator = "[\n    "
    for entry in entries:
        file.write(separator + json.dumps(entry))
        separator = ",\n    "
    file.write("[]" if separator.startswith("[") else "\n  ]")


def _lines(path: pathlib.Path) -> dict[str, _Line]:
    """Returns where the last result of each case stands; ends a line that was cut short."""
    lines: dict[str, _Line] = {}
    with path.open("a+b") as file:
        file.seek(0)
        start, line = 0, b""
        for line in file:
            if result := _result(line):
                lines[result.case] = _Line(start, result.version)
            start += len(line)
        if line and not line.endswith(b"\n"):
            file.write(b"\n")
    return lines


def _result(line: bytes) -> Result | None:
    try:
        return Result(**json.loads(line))
    except (ValueError, TypeError):
        return None
