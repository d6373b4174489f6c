"""Decoded frames on disk: each case is read once, and the second epoch never decodes.

A frame is what inference shows the network (data_pipeline.inference.frames), already
normalised; its targets lie beside it. Both are memory-mapped flat files, so memory stays flat
however many cases there are, and any frame is one seek away, in any order.
"""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from data_pipeline import cases as case_files
from data_pipeline import inference, intensity, read, remote
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec

# Stored targets: share of foreground in a pixel, 0..FULL; NOT_ANNOTATED where nobody looked.
FULL = 254
NOT_ANNOTATED = 255

_FORMAT = 2  # of the files; part of the cache's name


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where one frame lies in the store."""

    case_id: str
    shape: tuple[int, ...]  # of the frame, without channels
    start: int  # of its first pixel, in pixels


class Store:
    """Frames of some cases, memory-mapped.

    Attributes:
      entries: one a frame; one a slice where a 2D network is shown volumes.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.entries = [Entry(e[0], tuple(e[1]), e[2]) for e in index["entries"]]
        self._images = np.memmap(folder / "images.f16", np.float16, "r")
        self._targets = np.memmap(folder / "targets.u8", np.uint8, "r")
        self._channels, self._labels = index["channels"], index["labels"]

    def __len__(self) -> int:
        """Returns how many frames there are."""
        return len(self.entries)

    def image(self, number: int) -> np.ndarray:
        """Returns a frame in [0, 1]: float16 (*frame, channels)."""
        return self._cut(self._images, number, self._channels)

    def target(self, number: int) -> np.ndarray:
        """Returns its targets: uint8 (*frame, labels), see FULL and NOT_ANNOTATED."""
        return self._cut(self._targets, number, self._labels)

    def _cut(self, flat: np.ndarray, number: int, depth: int) -> np.ndarray:
        entry = self.entries[number]
        size = int(np.prod(entry.shape))
        return flat[entry.start * depth :][: size * depth].reshape(*entry.shape, depth)


def open_store(
    cases: Sequence[Case],
    spec: InputSpec,
    cache: pathlib.Path,
    progress: Callable[[Iterable[Case]], Iterable[Case]] = iter,
) -> Store:
    """Returns the frames of `cases`, reading from the cache what an earlier run left there.

    Args:
      cases: each must have at least one of the spec's labels annotated.
      spec: which frames.
      cache: folder for stores; one is found again by the content of its inputs' description.
      progress: wraps the iteration over cases, for a progress bar.

    Raises:
      InputError: naming the case that cannot be read.
    """
    folder = cache / _fingerprint(cases, spec)
    if not folder.exists():
        unfinished = cache / f".{folder.name}.{os.getpid()}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            # As a case is read, tf.data fetches what of the next ones lies in object storage.
            wanted = [[c.image, *(c.mask_path(label) for label in spec.labels)] for c in cases]
            near = zip(progress(cases), remote.staged(wanted), strict=True)
            _write((case for case, _ in near), spec, unfinished)
            _settle(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        logging.getLogger(__name__).info("wrote %s", folder)
    return Store(folder)


def _settle(unfinished: pathlib.Path, folder: pathlib.Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.exists():  # else another run has written the same frames meanwhile
            raise


def _fingerprint(cases: Sequence[Case], spec: InputSpec) -> str:
    files = [
        (str(path), [(str(file), remote.stamp(file)) for file in read.files(path)] if path else [])
        for case in cases
        for path in (case.image, *(case.mask_path(label) for label in spec.labels))
    ]
    rescale = [
        (c.id, c.rescale_slope, c.rescale_intercept, c.lung_values, c.infection_values)
        for c in cases
    ]
    # Of the spec, what inference adds after the network does not change a frame.
    plain = dataclasses.replace(
        spec, flips=(), scales=(), temperatures=(), cleaning=(), conventions=()
    )
    shown = dataclasses.astuple(plain)
    described = repr((_FORMAT, shown, files, rescale))
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _write(cases: Iterable[Case], spec: InputSpec, folder: pathlib.Path) -> None:
    entries: list[Entry] = []
    start = 0
    with (folder / "images.f16").open("wb") as images, (folder / "targets.u8").open("wb") as masks:
        for case in cases:
            for frame, target in case_frames(case, spec):
                images.write(frame.tobytes())
                masks.write(target.tobytes())
                entries.append(Entry(case.id, frame.shape[:-1], start))
                start += int(np.prod(frame.shape[:-1]))
    index = {
        "channels": spec.channels,
        "labels": len(spec.labels),
        "entries": [dataclasses.astuple(entry) for entry in entries],
    }
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def case_frames(case: Case, spec: InputSpec) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the frames of a case with their targets, as Store keeps them.

    Raises:
      InputError: naming the case, if it cannot be read or does not suit the spec.
    """
    try:
        scan = case_files.read_scan(case)
        inference.check_suits(scan, spec)
        mask = case_files.read_mask(case, spec.labels, scan.shape)
    except InputError as error:
        raise InputError(f"case {case.id}: {error}") from error
    per_slice = len(scan.shape) > len(spec.shape)
    for number, (placement, frame) in enumerate(inference.frames(scan, spec)):
        target = np.full((*placement.frame, len(spec.labels)), NOT_ANNOTATED, np.uint8)
        planes = mask.planes[:, number] if per_slice else mask.planes
        shares = placement.forward_mask(planes)
        for share, label in zip(shares, mask.labels, strict=True):
            target[..., spec.labels.index(label)] = np.rint(share * FULL)
        yield np.asarray(intensity.normalise(frame[None], spec))[0].astype(np.float16), target
