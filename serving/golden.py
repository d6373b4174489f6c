"""Chooses the scans on which every way of running a model must agree."""

import json
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from data_pipeline import cases, inference, phantom, raster, split
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan
from data_pipeline.spec import InputSpec
from models import members
from serving import encoded
from serving.parity import Golden

_SLICES = 3  # of a volume, for a network that sees one slice at a time

# Sides that are no multiple of anything, wider and higher than they are not.
_PHANTOM_SHAPES = ((97, 131), (211, 150), (64, 64), (301, 305))


def choose(runs: Sequence[pathlib.Path], spec: InputSpec, count: int) -> list[Golden]:
    """Returns scans of the first run's own test cases, or phantoms where none can be read."""
    first = members.directories(runs)[0]
    chosen = [golden for case in _test_cases(first, spec, count) if (golden := _of(case, spec))]
    if not chosen:
        chosen = [phantom_of(spec, seed) for seed in range(count)]
    return [Golden(number, *pair) for number, pair in enumerate(chosen, start=1)]


def _test_cases(run: pathlib.Path, spec: InputSpec, count: int) -> list[Case]:
    """Returns up to `count` cases, spread over the run's test split; none if data has moved."""
    try:
        manifest = json.loads((run / "config.json").read_text(encoding="utf-8"))["data"]
        splits = split.load(run / "splits.csv")
        known = cases.load(manifest)
    except (OSError, ValueError, KeyError):
        return []
    test = [c for c in known if c.modality == spec.modality and splits.get(c.id) == "test"]
    return [test[i * len(test) // count] for i in range(min(count, len(test)))]


def _of(case: Case, spec: InputSpec) -> tuple[Scan, bytes | None] | None:
    """Returns a case's scan, and its file if the model takes files; None if it does not suit."""
    try:
        scan = _part(cases.read_scan(case), spec)
        inference.check_suits(scan, spec)
    except InputError:
        return None
    is_file = case.image.suffix.lower() in raster.GRAPH_SUFFIXES and scan.units == "stored"
    if not is_file or not encoded.takes_files(spec):
        return scan, None
    return scan, case.image.read_bytes()


def _part(scan: Scan, spec: InputSpec) -> Scan:
    """Returns some slices of a volume if the network sees slices: enough to tell, and fast."""
    if len(scan.shape) == len(spec.shape):
        return scan
    first = max(0, len(scan.voxels) // 2 - _SLICES // 2)
    voxels = scan.voxels[first : first + _SLICES]
    return Scan(voxels, scan.modality, scan.units, scan.source, scan.spacing_mm)


def phantom_of(spec: InputSpec, seed: int) -> tuple[Scan, bytes | None]:
    """Returns a drawn chest that suits the model, as a PNG too if the model takes files."""
    shape: Sequence[int] = _PHANTOM_SHAPES[seed % len(_PHANTOM_SHAPES)]
    if len(spec.shape) == 3:
        shape = (max(8, spec.shape[0]), *shape)
    elif spec.neighbours:
        shape = (_SLICES, *shape)
    if spec.modality == "CT" and spec.units == "HU":
        spacing_mm = (5.0, 0.9, 0.8)[-len(shape) :]
        return phantom.ct(seed, tuple(shape), spacing_mm)[0], None
    drawn, _ = phantom.xray(seed, (shape[-2], shape[-1]))
    scan = Scan(drawn.voxels, spec.modality, spec.units, drawn.source)
    if not encoded.takes_files(spec):
        return scan, None
    _, png = cv2.imencode(".png", scan.voxels.astype(np.uint8))
    return scan, png.tobytes()
