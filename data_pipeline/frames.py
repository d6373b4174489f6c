"""Decoded frames on disk: each case is read once, and the second epoch never decodes.

A case is kept as what inference shows the network (data_pipeline.inference.frame_slices),
already normalised, with its targets and where its foreground lies. All of it lies in flat,
memory-mapped files, so memory stays flat however many cases there are, and any tile is one seek
away, in any order. A network of slices and one that also looks at their neighbours share it.
"""

import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import itertools
import json
import logging
import math
import os
import pathlib
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import tensorflow as tf

from data_pipeline import cache as caches
from data_pipeline import cases as case_files
from data_pipeline import (
    geometry,
    inference,
    intensity,
    location,
    places,
    raster,
    read,
    remote,
    tiles,
)
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from data_pipeline.labels import LABELS
from data_pipeline.scan import Mask
from data_pipeline.spec import InputSpec

# Stored targets: share of foreground in a pixel, 0..FULL; NOT_ANNOTATED where nobody looked.
FULL = 254
NOT_ANNOTATED = 255

_FORMAT = 3  # of the files; part of the store's name

# A row of whole numbers a case: of its first pixel, of slices, rows and columns, and of where
# each label's places begin, the last label's end after them.
INDEX, _IMAGES, _TARGETS, _PLACES = "index.i64", "images.f16", "targets.u8", "places.u32"
IDS = "cases.jsonl"
_START, _SHAPE, _BOUNDS = 0, slice(1, 4), 4

# Of the spec, what changes a frame; neighbours are other frames, and the rest is about answers.
_SHOWN = (
    "modality", "labels", "shape", "units", "frame", "spacing_mm",
    "window", "percentiles", "denoise", "clahe",
)  # fmt: skip

_MOST_THREADS = 8  # that decode images; Python itself lets few of them do more

Block = tuple[int, int, int]  # slices, rows, columns
Slices = Iterable[tuple[np.ndarray, np.ndarray]]  # of a case: image and target, see `case_slices`


class Store:
    """Frames of some cases, memory-mapped.

    A network of slices has a frame a slice, one of volumes a frame a case.

    Attributes:
      ids: of the cases.
    """

    def __init__(self, folder: pathlib.Path, spec: InputSpec) -> None:
        # As long as this object lives nobody prunes the folder.
        weakref.finalize(self, os.close, caches.hold(folder))
        self._neighbours, self._labels = spec.neighbours, len(spec.labels)
        self._is_3d = len(spec.shape) == 3
        with (folder / IDS).open(encoding="utf-8") as lines:
            self.ids: list[str] = [json.loads(line) for line in lines]
        self._index = _mapped(folder / INDEX, np.int64).reshape(len(self.ids), -1)
        self._images = _mapped(folder / _IMAGES, np.float16)
        self._targets = _mapped(folder / _TARGETS, np.uint8)
        self._places = _mapped(folder / _PLACES, np.uint32)
        slices = self._index[:, _SHAPE.start]
        counts = np.ones_like(slices) if self._is_3d else slices
        self._first = np.concatenate([[0], np.cumsum(counts)])  # the first frame of each case

    def __len__(self) -> int:
        """Returns how many frames there are."""
        return int(self._first[-1])

    def where(self, number: int) -> tuple[int, int]:
        """Returns which case a frame belongs to, and which of its slices it is (0 if 3D)."""
        case = int(np.searchsorted(self._first, number, side="right")) - 1
        return case, number - int(self._first[case])

    def case_ids(self) -> Iterator[str]:
        """Yields the id of the case of each frame."""
        for case, count in enumerate(np.diff(self._first).tolist()):
            yield from (self.ids[case] for _ in range(count))

    def shape(self, case: int) -> Block:
        """Returns the sides of a case on the network's frame."""
        slices, rows, cols = self._index[case, _SHAPE].tolist()
        return slices, rows, cols

    def places(self, case: int) -> list[np.ndarray]:
        """Returns some voxels of each label that has any, as positions in the flat frame."""
        bounds = self._index[case, _BOUNDS:].tolist()
        kept = (self._places[a:b] for a, b in itertools.pairwise(bounds))
        return [one for one in kept if len(one)]

    def tile(self, case: int, corner: Block, sides: Block) -> tuple[np.ndarray, np.ndarray]:
        """Returns a tile of a case with its targets; beyond the frame both are 0.

        Returns:
          float16 (*sides, channels) in [0, 1] and uint8 (*sides, labels), see FULL and
          NOT_ANNOTATED. A network of slices has sides (1, rows, cols) and gets (rows, cols).
        """
        image, target = self._volume(case)
        target = tiles.cut_padded(target, corner, sides)
        if self._is_3d:
            return tiles.cut_padded(image, corner, sides)[..., None], target
        around = inference.with_neighbours(corner[0], 1, self._neighbours, len(image))
        seen = [tiles.cut_padded(image[index], corner[1:], sides[1:]) for index in around]
        return np.stack(seen, axis=-1), target[0]

    def image(self, number: int) -> np.ndarray:
        """Returns a whole frame in [0, 1]: float16 (*frame, channels)."""
        return self._whole(number)[0]

    def target(self, number: int) -> np.ndarray:
        """Returns its targets: uint8 (*frame, labels), see FULL and NOT_ANNOTATED."""
        return self._whole(number)[1]

    def _whole(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        case, index = self.where(number)
        slices, rows, cols = self.shape(case)
        return self.tile(case, (index, 0, 0), (slices if self._is_3d else 1, rows, cols))

    def _volume(self, case: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns all of a case, mapped: (slices, rows, cols) and (slices, rows, cols, labels)."""
        start, shape, labels = int(self._index[case, _START]), self.shape(case), self._labels
        size = int(np.prod(shape))
        targets = self._targets[start * labels :][: size * labels]
        return self._images[start:][:size].reshape(shape), targets.reshape(*shape, labels)


def _mapped(path: pathlib.Path, dtype: type[np.generic]) -> np.ndarray:
    # Cutting a plain array is several times faster than cutting a np.memmap.
    size = path.stat().st_size  # where no frame is cut there are no places: nothing can be mapped
    return np.asarray(np.memmap(path, dtype, "r")) if size else np.empty(0, dtype)


def open_store(
    cases: Sequence[Case],
    spec: InputSpec,
    cache: pathlib.Path,
    progress: Callable[[Iterable[Case]], Iterable[Case]] = iter,
    most_bytes: float = caches.MOST_BYTES,
) -> Store:
    """Returns the frames of `cases`, reading from the cache what an earlier run left there.

    Args:
      cases: each must have at least one of the spec's labels annotated.
      spec: which frames.
      cache: folder for stores; one is found again by the content of its inputs' description.
      progress: wraps the iteration over cases, for a progress bar.
      most_bytes: what the cache may hold; when another store was written, those that nobody
        uses go until the rest fits, the longest unused first.

    Raises:
      InputError: naming the case that cannot be read.
    """
    folder = cache / _fingerprint(cases, spec)
    while True:
        known = folder.exists()
        if not known:
            # As a case is read, tf.data fetches what of the next ones lies in object storage.
            wanted = [_files(case, spec.labels) for case in cases]
            near = zip(progress(cases), remote.staged(wanted), strict=True)
            _write((case for case, _ in near), spec, folder)
        try:
            store = Store(folder, spec)
        except caches.Pruned:
            continue  # by another process, between these two lines
        if not known:
            caches.prune(cache, most_bytes)
        return store


def _files(case: Case, labels: Sequence[str]) -> list[pathlib.Path]:
    """Returns image and masks of a case whose names end as files do: no folders of DICOM."""
    known = case.files(labels)
    return [path for path in known if path and location.suffix(path) in read.SUFFIXES]


def _fingerprint(cases: Sequence[Case], spec: InputSpec) -> str:
    shown = [getattr(spec, name) for name in _SHOWN]
    digest = hashlib.sha256(repr((_FORMAT, shown)).encode())
    for case in cases:
        files = [
            (str(path), [(str(f), remote.stamp(f)) for f in read.files(path)] if path else [])
            for path in case.files(spec.labels)
        ]
        rescale = (case.rescale_slope, case.rescale_intercept)
        values = (case.lung_values, case.infection_values)
        digest.update(repr((case.id, files, rescale, values)).encode())
    return digest.hexdigest()[:16]


def _write(cases: Iterable[Case], spec: InputSpec, folder: pathlib.Path) -> None:
    """Writes a store; it appears whole or not at all."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    lock = caches.hold(unfinished)
    try:
        _write_cases(cases, spec, unfinished)
        _settle(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.close(lock)
    logging.getLogger(__name__).info("wrote %s", folder)


def _settle(unfinished: pathlib.Path, folder: pathlib.Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        if not folder.exists():  # else another run has written the same frames meanwhile
            raise


def _write_cases(cases: Iterable[Case], spec: InputSpec, folder: pathlib.Path) -> None:
    first_pixel, first_place = 0, 0
    with contextlib.ExitStack() as stack:
        index, images, targets, kept, ids = (
            stack.enter_context((folder / name).open("wb"))
            for name in (INDEX, _IMAGES, _TARGETS, _PLACES, IDS)
        )
        for case, decoded in _read_ahead(cases, spec):
            found = [places.Sample(f"{case.id} {label}") for label in spec.labels]
            shape = _write_case(decoded, images, targets, found)
            # Where nothing is cut there is no choice of a place.
            is_cut = shape != inference.as_block(spec.shape)
            voxels = [sample.voxels() if is_cut else sample.voxels()[:0] for sample in found]
            kept.write(np.concatenate(voxels).tobytes())
            bounds = first_place + np.cumsum([0, *map(len, voxels)])
            index.write(np.array([first_pixel, *shape, *bounds], np.int64).tobytes())
            ids.write(f"{json.dumps(case.id)}\n".encode())
            first_pixel, first_place = first_pixel + math.prod(shape), bounds[-1]


def _read_ahead(cases: Iterable[Case], spec: InputSpec) -> Iterator[tuple[Case, Slices]]:
    """Yields the slices of each case in order, while threads decode the next single images.

    A volume is decoded as it is written: memory holds one, and a few images.
    """
    threads = min(os.cpu_count() or 1, _MOST_THREADS)
    waiting: collections.deque[tuple[Case, Callable[[], Slices]]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for case in cases:
            ahead = _is_image_here(case)
            decode = functools.partial(_decoded if ahead else case_slices, case, spec)
            waiting.append((case, pool.submit(decode).result if ahead else decode))
            # What comes from a store lies here only until the next case is asked for.
            while len(waiting) > (2 * threads if ahead else 0):
                first, slices = waiting.popleft()
                yield first, slices()
        for first, slices in waiting:
            yield first, slices()


def _is_image_here(case: Case) -> bool:
    is_image = case.modality == "XR" or location.suffix(case.image) in raster.SUFFIXES
    return is_image and not any(path and location.is_remote(path) for path in case.files(LABELS))


def _decoded(case: Case, spec: InputSpec) -> Slices:
    return list(case_slices(case, spec))


def _write_case(
    decoded: Slices, images: BinaryIO, targets: BinaryIO, found: list[places.Sample]
) -> Block:
    """Appends a case to the files, adds its foreground to `found`, and returns its sides."""
    slices, rows, cols = 0, 0, 0
    for image, target in decoded:
        images.write(image.tobytes())
        targets.write(target.tobytes())
        rows, cols = image.shape
        for label, sample in enumerate(found):
            inside = (target[..., label] > 0) & (target[..., label] != NOT_ANNOTATED)
            sample.add(np.flatnonzero(inside) + slices * rows * cols)
        slices += 1
    return slices, rows, cols


def case_slices(case: Case, spec: InputSpec) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields a case slice by slice as Store keeps it, with its targets.

    Yields:
      float16 (rows, cols) in [0, 1] and uint8 (rows, cols, labels).

    Raises:
      InputError: naming the case, if it cannot be read or does not suit the spec.
    """
    try:
        scan = case_files.read_scan(case)
        inference.check_suits(scan, spec)
        mask = case_files.read_mask(case, spec.labels, scan.shape)
    except InputError as error:
        raise InputError(f"case {case.id}: {error}") from error
    shares = _shares(mask, inference.place(scan, spec))
    for frame, share in zip(inference.frame_slices(scan, spec), shares, strict=True):
        target = np.full((*frame.shape, len(spec.labels)), NOT_ANNOTATED, np.uint8)
        for plane, label in zip(share, mask.labels, strict=True):
            target[..., spec.labels.index(label)] = np.rint(plane * FULL)
        # CLAHE divides a frame into regions, for which its sides must be known.
        normalise = _normaliser(spec, frame.shape if spec.clahe else (None, None))
        yield np.asarray(normalise(frame[None, ..., None]))[0, ..., 0].astype(np.float16), target


@functools.lru_cache(maxsize=16)
def _normaliser(spec: InputSpec, sides: tuple[int | None, ...]) -> Callable[..., tf.Tensor]:
    """Returns intensity.normalise as a graph, which takes a third of the time of its ops."""
    signature = [tf.TensorSpec((1, *sides, 1), tf.float32)]
    return tf.function(  # type: ignore[no-any-return]
        lambda voxels: intensity.normalise(voxels, spec), signature, autograph=False
    )


def _shares(mask: Mask, placement: geometry.Placement) -> Iterator[Iterable[np.ndarray]]:
    """Yields the share of foreground on each slice of the frame: (rows, cols) a label."""
    if len(placement.grid) == 3:
        yield from zip(*(placement.forward_slices(p, 0.0) for p in mask.planes), strict=True)
    elif mask.planes.ndim == 3:
        yield placement.forward_mask(mask.planes)
    else:
        yield from (placement.forward_mask(planes) for planes in np.moveaxis(mask.planes, 1, 0))
