"""One loader of augmented tiles in a process of its own, pinned to cores: for `pipeline` alone.

    python -m evaluation.speed.loader ours --cores 0,1 --folder EMPTY_FOLDER

All loaders do the same work: X-rays with lung masks from files, brought to 256 x 256 in [0, 1],
batches of 8 in float32, each tile augmented by a flip, one affine and elastic warp, contrast,
brightness, gamma, blur (one in four) and Gaussian noise, each as strong as augment.XRAY says.
"""

import argparse
import dataclasses
import importlib
import itertools
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from data_pipeline import cases, machine
from evaluation.speed.job import BATCH, LABEL, SIDE, Job


def ours(job: Job, *, warm: bool) -> Iterator[object]:
    """Streams batches of data_pipeline.batches, as a training does."""
    from data_pipeline import augment, batches, frames
    from data_pipeline.spec import InputSpec

    del warm  # decoded frames are on disk after the first call
    spec = InputSpec("XR", (LABEL,), (SIDE, SIDE))
    store = frames.open_store(job.cases, spec, job.folder)
    stream = batches.training(
        store, spec, augment.XRAY, epoch=np.arange(len(store)), batch_size=BATCH, seed=0
    )
    return iter(stream)


_LIBRARIES = {
    "ours": ("data_pipeline.augment", "data_pipeline.batches"),
    "train-step": ("evaluation.speed.train_step",),
    "monai-cache": ("evaluation.speed.rivals", "monai.data", "monai.transforms"),
    "monai-persistent": ("evaluation.speed.rivals", "monai.data", "monai.transforms"),
    "torchio-queue": ("evaluation.speed.rivals", "torchio"),
}


def _imported(name: str) -> float:
    """Imports what a loader stands on, and returns the seconds that it took."""
    began = time.perf_counter()
    for library in _LIBRARIES[name]:
        importlib.import_module(library)
    return time.perf_counter() - began


def _named(name: str) -> Callable[..., Iterator[object]]:
    if name == "ours":
        return ours
    if name == "train-step":
        from evaluation.speed import train_step

        return train_step.steps
    from evaluation.speed import rivals  # brings PyTorch, which is not ours to depend on

    return rivals.LOADERS[name]


def measure(name: str, job: Job, seconds: float, repeats: int) -> dict[str, object]:
    """Returns tiles a second: of a first epoch with nothing prepared, then of warm windows.

    What a first epoch takes is parted into what a case takes and the rest, which is there once
    however many cases there are. A training step's has no such parts.
    """
    imports_s = _imported(name)
    make = _named(name)
    cold_s = _cold_s(make, job)
    stream = make(job, warm=True)
    for _ in itertools.islice(stream, _batches(job)):
        pass
    warm = [_rate(stream, seconds) for _ in range(repeats)]
    found: dict[str, object] = {"name": name, "workers": job.workers, "cores": job.cores}
    found |= {"cold": _batches(job) * BATCH / cold_s, "warm": warm}
    if name != "train-step" and _batches(job) > 1:
        case_s = _cold_case_s(make, job)
        fixed_s = cold_s - _batches(job) * BATCH * case_s
        found |= {"imports_s": imports_s, "fixed_s": fixed_s, "case_ms": 1000 * case_s}
    return found


def _batches(job: Job) -> int:
    """Returns how many batches an epoch has."""
    return len(job.cases) // BATCH


def _cold_s(make: Callable[..., Iterator[object]], job: Job) -> float:
    """Returns how long a first epoch takes."""
    began = time.perf_counter()
    for _ in itertools.islice(make(job, warm=False), _batches(job)):
        pass
    return time.perf_counter() - began


def _cold_case_s(make: Callable[..., Iterator[object]], job: Job) -> float:
    """Returns by how much a case lengthens a first epoch: of a few cases, and of all."""
    few = dataclasses.replace(job, cases=job.cases[:BATCH], folder=job.folder / "few")
    all_again = dataclasses.replace(job, folder=job.folder / "all")
    longer_s = _cold_s(make, all_again) - _cold_s(make, few)
    return longer_s / ((_batches(all_again) - _batches(few)) * BATCH)


def _rate(stream: Iterator[object], seconds: float) -> float:
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        next(stream)
        count += BATCH
    return count / (time.perf_counter() - began)


def main() -> None:
    """Measures and writes one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.speed.loader")
    parser.add_argument("name")
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--cores", default="0")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", type=int, help="only so many of the sample")
    flags = parser.parse_args()
    numbers = [int(core) for core in flags.cores.split(",")]
    machine.pin(numbers)  # before any library counts the cores
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    chosen = cases.select(cases.load(), "XR", (LABEL,))[: flags.cases]
    job = Job(chosen, flags.folder, flags.workers, len(numbers))
    found = measure(flags.name, job, flags.seconds, flags.repeats)
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)  # PyTorch's workers and TensorFlow's threads take long to say goodbye


if __name__ == "__main__":
    main()
