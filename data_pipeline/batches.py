"""Streams batches of augmented tiles, in an order that the seed alone decides.

An epoch is a list of n frames, in which those of small data sets may stand several times. Sample
number g of a run is frame permutation(seed, g // n)[g % n] of it, cut with (seed, g) and
augmented with (seed, g). Nothing depends on what was drawn before, so a resumed run goes on with
the very batch that the interrupted one would have seen next, and several workers can each read
their own samples and no others.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf

from data_pipeline import augment, frames, inference
from data_pipeline.frames import Block
from data_pipeline.spec import InputSpec

# In targets given to a loss: nobody annotated this label here.
NOT_ANNOTATED = -1.0

FOREGROUND_SHARE = 0.33  # of tiles that are centred on foreground, as in nnU-Net

_MARGIN = 4  # a tile is cut larger by its side / 4 at each end, for augmentation to draw from

_AHEAD = 4  # batches that wait for the devices

_ENDLESS = 2**48  # samples; what nobody reads to the end

_VALIDATION_TILES = 4  # at most, of a frame larger than a tile


@dataclasses.dataclass(frozen=True)
class Shard:
    """Which samples of each batch a worker reads: those of its own replicas, and no others."""

    worker: int = 0
    workers: int = 1
    replicas: int = 1  # of all workers together; each is given batch_size / replicas at a time

    def sizes(self, batch_size: int) -> tuple[int, int]:
        """Returns how many samples of a batch a replica and a worker take.

        Raises:
          ValueError: if a batch cannot be divided evenly.
        """
        if batch_size % self.replicas or self.replicas % self.workers:
            raise ValueError(
                f"a batch of {batch_size} cannot be divided among {self.replicas} replicas on "
                f"{self.workers} workers"
            )
        return batch_size // self.replicas, batch_size // self.workers


def distributed(
    strategy: tf.distribute.Strategy, make: Callable[[Shard], tf.data.Dataset]
) -> tf.data.Dataset:
    """Returns the stream of a strategy, in which each worker reads its own samples only.

    All replicas' samples together are those of one device, batch by batch and in its order.

    Args:
      strategy: one device or several, on one machine or several.
      make: the stream of a shard.
    """
    if strategy.num_replicas_in_sync == 1:
        return make(Shard())
    return strategy.distribute_datasets_from_function(
        lambda context: make(
            Shard(
                context.input_pipeline_id,
                context.num_input_pipelines,
                context.num_replicas_in_sync,
            )
        )
    )


def balanced(datasets: Iterable[str], most: int = 3) -> np.ndarray:
    """Returns the frames of an epoch: all, those of small data sets up to `most` times.

    Training on whatever there is most of learns that data set's patients: of the sample's X-rays
    three in four are children's. Each data set is repeated towards the size of the largest.

    Args:
      datasets: the data set of each frame.
      most: how often a frame may stand in an epoch.
    """
    numbers: dict[str, int] = {}
    of_frame = np.fromiter((numbers.setdefault(d, len(numbers)) for d in datasets), np.int64)
    counts = np.bincount(of_frame)
    times = np.minimum(most, counts.max() // counts)
    return np.repeat(np.arange(len(of_frame)), times[of_frame])


def training(
    store: frames.Store,
    spec: InputSpec,
    policy: augment.Policy,
    *,
    epoch: np.ndarray,
    batch_size: int,
    seed: int,
    first_sample: int = 0,
    foreground_share: float = FOREGROUND_SHARE,
    shard: Shard = Shard(),
) -> tf.data.Dataset:
    """Yields (images, targets) for ever, shuffled anew each epoch.

    Args:
      store: the frames to learn from.
      spec: gives the tile's shape.
      policy: how to augment.
      epoch: the frames of an epoch, see `balanced`.
      batch_size: tiles a batch, of all workers and replicas together.
      seed: decides the order, the tiles' places and the augmentation.
      first_sample: where to go on after an interruption: batches seen times batch_size.
      foreground_share: of the tiles, those that are centred on foreground of the frame's case,
        each label as often as another one; the rest lie anywhere in the frame.
      shard: what to read of each batch.

    Returns:
      images float32 (n, *shape, channels) in [0, 1]; targets float32 (n, *shape, labels), the
      share of foreground or NOT_ANNOTATED; n is batch_size, or a replica's part of it.
    """
    frame_of_epoch = tf.constant(epoch, tf.int64)
    margin = [side // _MARGIN if spec.is_cut else 0 for side in spec.shape]

    def sample(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        key = tf.stack([tf.constant(seed, tf.int64), number // len(epoch)])
        place = tf.random.experimental.index_shuffle(number % len(epoch), key, len(epoch) - 1)
        index = tf.gather(frame_of_epoch, place)
        image, target, annotated = _tile(
            store, spec, (index, number), seed=seed, share=foreground_share, margin=margin
        )
        image, target = augment.augment(
            image, target, tf.stack([tf.constant(seed, tf.int64), number]), policy, spec.shape
        )
        return image, tf.where(annotated, target, NOT_ANNOTATED)

    each, _ = shard.sizes(batch_size)
    return (
        _numbers(batch_size, shard)
        .map(
            lambda number: sample(first_sample + number),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .batch(each, drop_remainder=True)
        .prefetch(_AHEAD)
    )


def whole(
    store: frames.Store,
    spec: InputSpec,
    *,
    batch_size: int,
    shard: Shard = Shard(),
) -> tf.data.Dataset:
    """Yields (images, targets) of every frame once, as they are, for validation in training.

    Frames larger than a tile give a few tiles, drawn as in training but the same each time:
    enough to watch a training by. Scores come from evaluation, which looks at all of a scan.

    Several replicas are always given as much as each other, since a network fails on a batch of
    nothing; what fills up the last batch is annotated nowhere.
    """
    tiles = tiles_of_validation(store, spec)
    tiles_a_frame = tiles // len(store)
    share = FOREGROUND_SHARE if spec.is_cut else 0.0

    def sample(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        of_store = tf.minimum(number, tiles - 1)
        which = (of_store // tiles_a_frame, of_store)
        image, target, annotated = _tile(store, spec, which, seed=0, share=share)
        return image, tf.where(annotated & (number < tiles), target, NOT_ANNOTATED)

    each, _ = shard.sizes(batch_size)
    several = shard.replicas > 1
    total = math.ceil(tiles / batch_size) * batch_size if several else tiles
    return (
        _numbers(batch_size, shard, total)
        .map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(each, drop_remainder=several)
        .prefetch(2)
    )


def tiles_of_validation(store: frames.Store, spec: InputSpec) -> int:
    """Returns how many samples `whole` yields."""
    return len(store) * (_VALIDATION_TILES if spec.is_cut else 1)


def _numbers(batch_size: int, shard: Shard, total: int = _ENDLESS) -> tf.data.Dataset:
    """Yields which of `total` samples a shard reads: its part of each batch, in order.

    Of several shards each has as many: `total` is a multiple of the batch then.
    """
    _, own = shard.sizes(batch_size)
    first = shard.worker * own
    return tf.data.Dataset.range(total * own // batch_size).map(
        lambda n: n // own * batch_size + first + n % own
    )


def _tile(
    store: frames.Store,
    spec: InputSpec,
    which: tuple[tf.Tensor, tf.Tensor],
    *,
    seed: int,
    share: float,
    margin: Sequence[int] | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns an image, its targets with 0 for not annotated, and which labels are annotated.

    Args:
      store: where from.
      spec: gives the tile's shape.
      which: number of the frame, and of the sample that is cut from it.
      seed: with the sample's number, decides the place.
      share: probability that the tile is centred on foreground.
      margin: how much larger the tile is, at each end of each axis.
    """
    margin = margin or [0] * len(spec.shape)
    sides = tuple(side + 2 * m for side, m in zip(spec.shape, margin, strict=True))
    around = (0, *margin)[-3:]

    def read(index: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        case, first = store.where(int(index))
        rng = np.random.default_rng((seed, int(number)))
        corner = _corner(store, case, first, spec, share, rng)
        slices, rows, cols = (c - m for c, m in zip(corner, around, strict=True))
        image, target = store.tile(case, (slices, rows, cols), inference.as_block(sides))
        # Not float16 in the graph: where oneDNN has no kernels for it, it says so on stderr.
        return np.ascontiguousarray(image, np.float32), np.ascontiguousarray(target)

    image, stored = tf.numpy_function(read, which, (tf.float32, tf.uint8))
    image = tf.ensure_shape(image, (*sides, spec.channels))
    stored = tf.ensure_shape(stored, (*sides, len(spec.labels)))
    annotated = stored != frames.NOT_ANNOTATED
    target = tf.where(annotated, tf.cast(stored, tf.float32) / frames.FULL, 0.0)
    axes = list(range(len(spec.shape)))
    return image, target, tf.reduce_all(annotated, axis=axes, keepdims=True)


def _corner(
    store: frames.Store,
    case: int,
    first: int,
    spec: InputSpec,
    share: float,
    rng: np.random.Generator,
) -> Block:
    """Returns a tile's first corner: random, or around foreground; `first` is a 2D frame's slice.

    Foreground is looked for in all of the case, so a network of slices may be shown another
    slice than the epoch has it: one with infection rather than one of the many without.
    """
    tile, sides = inference.as_block(spec.shape), store.shape(case)
    room = [side - t for side, t in zip(sides, tile, strict=True)]
    places = store.places(case) if any(room) and rng.random() < share else []
    if places:
        of_label = places[rng.integers(len(places))]
        centre = np.unravel_index(of_label[rng.integers(len(of_label))], sides)
        corner = [
            min(max(int(c) - t // 2, 0), r) for c, t, r in zip(centre, tile, room, strict=True)
        ]
    else:
        corner = [int(rng.integers(r + 1)) for r in room]
        corner[0] = corner[0] if len(spec.shape) == 3 else first
    slices, rows, cols = corner
    return slices, rows, cols
