"""Decoded cases on disk: the memory-mapped store beside TFRecord files of the same frames.

Whole frames of the sample's X-rays are read one after the other, and tiles from anywhere in
volumes. Of a TFRecord file a whole volume has to be read and parsed for a tile; it is let off
lightly here, by cutting several tiles at once from each. Cold: the pages of the files were
dropped from memory first (posix_fadvise, where the system has it), as after a reboot. Warm: they
were read just before.
"""

import argparse
import dataclasses
import math
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence

import rich.console
import rich.table

from data_pipeline import cases, machine, phantom
from data_pipeline.cases import Case
from data_pipeline.spec import InputSpec

_CAN_FORGET = hasattr(os, "posix_fadvise")  # not on macOS
_BATCH = 8
_TILES_A_VOLUME = 4  # as batches.whole draws
_XRAY = InputSpec("XR", ("lung",), (256, 256))
_VOLUME_SHAPE, _VOLUME_SPACING_MM = (100, 256, 256), (5.0, 1.5, 1.5)
_VOLUME = InputSpec(
    "CT", ("lung",), (32, 96, 96), "HU", spacing_mm=_VOLUME_SPACING_MM, window=(-1000.0, 400.0)
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one way to keep frames takes and gives."""

    what: str
    way: str
    megabytes: float
    cold: float  # samples a second; NaN where the system cannot drop pages
    warm: float  # likewise, the median of several passes


def measure(
    what: str, known: Sequence[Case], spec: InputSpec, folder: pathlib.Path, passes: int
) -> list[Measured]:
    """Returns the rates of each way to keep the frames of some cases.

    Args:
      what: to call them.
      known: the cases.
      spec: which frames.
      folder: to write to.
      passes: over the data, warm.
    """
    from data_pipeline import batches, frames

    store = frames.open_store(known, spec, folder / "mapped")
    ways: dict[str, Callable[[], object]] = {
        "mapped": lambda: batches.whole(store, spec, batch_size=_BATCH)
    }
    for compression in ("", "GZIP"):
        path = folder / f"TFRecord {compression}".strip() / "frames"
        path.parent.mkdir(parents=True)
        _write_records(known, spec, path, compression)
        ways[path.parent.name] = _records(path, spec, compression)
    return [_measured(what, folder / way, make, passes) for way, make in ways.items()]


def _write_records(
    known: Sequence[Case], spec: InputSpec, path: pathlib.Path, compression: str
) -> None:
    import numpy as np
    import tensorflow as tf

    from data_pipeline import frames

    def feature(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for case in known:
            image, target = map(np.stack, zip(*frames.case_slices(case, spec), strict=True))
            shape = np.array(image.shape, np.int64)
            content = {"image": image, "target": target, "shape": shape}
            features = {name: feature(value.tobytes()) for name, value in content.items()}
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


def _records(path: pathlib.Path, spec: InputSpec, compression: str) -> Callable[[], object]:
    """Returns what makes the stream of a file: the same tensors as batches.whole gives."""
    import tensorflow as tf

    from data_pipeline import frames, inference

    block = inference.as_block(spec.shape)
    text = tf.io.FixedLenFeature((), tf.string)

    def volume(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = tf.io.parse_single_example(record, {n: text for n in ("image", "target", "shape")})
        shape = tf.io.decode_raw(found["shape"], tf.int64)
        image = tf.reshape(tf.io.decode_raw(found["image"], tf.float16), shape)
        depth = [len(spec.labels)]
        target = tf.io.decode_raw(found["target"], tf.uint8)
        return image[..., None], tf.reshape(target, tf.concat([shape, depth], 0))

    def tile(image: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        room = tf.shape(image)[:3] - block
        share = tf.random.uniform((3,))
        corner = tf.cast(share * tf.cast(room + 1, tf.float32), tf.int32)
        image, target = (
            tf.slice(v, [*tf.unstack(corner), 0], [*block, 1]) for v in (image, target)
        )
        return (
            tf.reshape(tf.cast(image, tf.float32), (*spec.shape, 1)),
            tf.reshape(tf.cast(target, tf.float32) / frames.FULL, (*spec.shape, 1)),
        )

    def tiles_of(image: tf.Tensor, target: tf.Tensor) -> tf.data.Dataset:
        count = _TILES_A_VOLUME if spec.is_cut else 1
        return tf.data.Dataset.from_tensors((image, target)).repeat(count)

    def make() -> tf.data.Dataset:
        found = tf.data.TFRecordDataset(str(path), compression)
        found = found.map(volume, tf.data.AUTOTUNE).flat_map(tiles_of)
        return found.map(tile, tf.data.AUTOTUNE).batch(_BATCH).prefetch(2)

    return make


def _measured(what: str, folder: pathlib.Path, make: Callable[[], object], passes: int) -> Measured:
    files = [file for file in folder.rglob("*") if file.is_file()]
    _pass(make)  # builds the graph, and reads all once
    if _CAN_FORGET:
        for file in files:
            _forget(file)
    cold = _pass(make) if _CAN_FORGET else math.nan
    warm = statistics.median(_pass(make) for _ in range(passes))
    return Measured(what, folder.name, sum(f.stat().st_size for f in files) / 1e6, cold, warm)


def _pass(make: Callable[[], object]) -> float:
    """Returns the samples a second of one pass over the data."""
    started, count = time.perf_counter(), 0
    for images, _ in make():  # type: ignore[attr-defined]
        count += len(images)
    return count / (time.perf_counter() - started)


def _forget(file: pathlib.Path) -> None:
    """Drops a file's pages from memory, so that the next reader waits for the disk."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _volumes(folder: pathlib.Path, count: int, shape: tuple[int, ...]) -> list[Case]:
    """Writes phantom volumes as NIfTI files, with lung masks."""
    import nibabel
    import numpy as np

    affine = np.diag([*_VOLUME_SPACING_MM[::-1], 1.0])
    known = []
    for seed in range(count):
        scan, mask = phantom.ct(seed, shape, _VOLUME_SPACING_MM)
        paths = [folder / f"{seed}{end}.nii" for end in ("", "_lung")]
        for path, values in zip(paths, (scan.voxels, mask.planes[0]), strict=True):
            nibabel.Nifti1Image(values.T.astype(np.int16), affine).to_filename(path)
        known.append(Case(f"phantom-{seed}", "CT", paths[0], lung_mask=paths[1]))
    return known


def main(argv: list[str]) -> None:
    """Parses flags, measures and prints a table."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.speed store", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("--data", type=pathlib.Path, default=cases.SAMPLE, help="manifest with X-rays of lungs")
    add("--volumes", type=int, default=8, help="phantom volumes; default: %(default)s")
    add("--passes", type=int, default=5, help="warm; their median counts; default: %(default)s")
    flags = parser.parse_args(argv)
    from data_pipeline import quiet_tensorflow  # noqa: F401 - silences the import of TensorFlow

    known = cases.select(cases.load(flags.data), "XR", ("lung",))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        found = measure("X-ray frame", known, _XRAY, folder / "frames", flags.passes)
        made = _volumes(folder, flags.volumes, _VOLUME_SHAPE)
        found += measure("3D tile", made, _VOLUME, folder / "tiles", flags.passes)
    console = rich.console.Console(highlight=False)
    console.print(_table(found))
    console.print(machine.describe(["tensorflow", "numpy"]))


def _table(found: Sequence[Measured]) -> rich.table.Table:
    table = rich.table.Table("sample", "kept as", "MB", "samples/s cold", "samples/s warm")
    for one in found:
        rates = ("-" if math.isnan(rate) else f"{rate:,.0f}" for rate in (one.cold, one.warm))
        table.add_row(one.what, one.way, f"{one.megabytes:,.1f}", *rates)
    return table
