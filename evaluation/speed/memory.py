"""Memory of a process that streams from so many cases: for `pipeline` alone.

    python -m evaluation.speed.memory 20000 --folder FOLDER

The manifest and the index of frames are as long as asked for, their rows and entries the
sample's again and again, so what grows is what grows with a real data set; frames are read
from disk in any case.
"""

import argparse
import csv
import itertools
import json
import os
import pathlib
import re
import sys

import numpy as np

from data_pipeline import cases
from evaluation.speed.job import BATCH, LABEL, SIDE


def measure(count: int, batches_drawn: int, folder: pathlib.Path) -> dict[str, float]:
    """Returns the memory of this process in MB after it has streamed from `count` cases.

    Args:
      count: cases, made of those of the sample.
      batches_drawn: how many batches it streams first.
      folder: for decoded frames, kept for the next call.
    """
    from data_pipeline import augment, batches, frames
    from data_pipeline.spec import InputSpec

    sample = cases.select(cases.load(), "XR", (LABEL,))
    spec = InputSpec("XR", (LABEL,), (SIDE, SIDE))
    frames.open_store(sample, spec, folder)
    decoded = next(path for path in folder.iterdir() if (path / frames.INDEX).is_file())
    own = folder.parent / f"repeated-{count}"
    own.mkdir(exist_ok=True)
    known = cases.load(_repeated_manifest(sample, count, own))
    store = frames.Store(_repeated_store(decoded, count, own), spec)
    stream = batches.training(
        store, spec, augment.XRAY, epoch=np.arange(count), batch_size=BATCH, seed=0
    )
    for _ in itertools.islice(stream, batches_drawn):
        pass
    return {"cases": len(known), "frames": len(store), **resident_mb()}


def resident_mb() -> dict[str, float]:
    """Returns all memory of this process in MB, and that which no file on disk backs."""
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    found = {key: int(kb) / 1000 for key, kb in re.findall(r"(VmRSS|RssAnon):\s+(\d+) kB", status)}
    return {"resident_mb": found["VmRSS"], "anonymous_mb": found["RssAnon"]}


def _repeated_manifest(sample: list[cases.Case], count: int, folder: pathlib.Path) -> pathlib.Path:
    path = folder / "manifest.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "modality", "image", "lung_mask", "patient_id", "dataset"])
        for number, case in zip(range(count), itertools.cycle(sample), strict=False):
            writer.writerow(
                [f"{number}", "XR", case.image, case.lung_mask, f"p{number}", case.dataset]
            )
    return path


def _repeated_store(decoded: pathlib.Path, count: int, folder: pathlib.Path) -> pathlib.Path:
    """Writes an index of `count` frames over the decoded frames of the sample."""
    from data_pipeline import frames

    ids = (decoded / frames.IDS).read_bytes().splitlines(keepends=True)
    rows = np.fromfile(decoded / frames.INDEX, np.int64).reshape(len(ids), -1)
    rows[np.arange(count) % len(rows)].tofile(folder / frames.INDEX)
    (folder / frames.IDS).write_bytes(b"".join(itertools.islice(itertools.cycle(ids), count)))
    for file in decoded.iterdir():
        if file.name not in (frames.INDEX, frames.IDS):
            (folder / file.name).unlink(missing_ok=True)
            (folder / file.name).symlink_to(file.resolve())
    return folder


def main() -> None:
    """Measures and writes one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.speed.memory")
    parser.add_argument("cases", type=int)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--batches", type=int, default=150)
    flags = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    flags.folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(json.dumps(measure(flags.cases, flags.batches, flags.folder)) + "\n")


if __name__ == "__main__":
    main()
