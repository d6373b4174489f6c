"""Streams batches of augmented tiles, in an order that the seed alone decides.

An epoch is a list of n frames, in which those of small data sets may stand several times. Sample
number g of a run is frame permutation(seed, g // n)[g % n] of it, augmented with (seed, g).
Nothing depends on what was drawn before, so a resumed run goes on with the very batch that the
interrupted one would have seen next.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from data_pipeline import augment, frames, tiles
from data_pipeline.spec import InputSpec

# In targets given to a loss: nobody annotated this label here.
NOT_ANNOTATED = -1.0

FOREGROUND_SHARE = 1 / 3  # of tiles that are centred on foreground, as in nnU-Net


def balanced(datasets: Sequence[str], most: int = 3) -> list[int]:
    """Returns the frames of an epoch: all, those of small data sets up to `most` times.

    Training on whatever there is most of learns that data set's patients: of the sample's X-rays
    three in four are children's. Each data set is repeated towards the size of the largest.

    Args:
      datasets: the data set of each frame.
      most: how often a frame may stand in an epoch.
    """
    counts = Counter(datasets)
    largest = max(counts.values())
    times = {name: min(most, largest // count) for name, count in counts.items()}
    return [n for n, name in enumerate(datasets) for _ in range(times[name])]


def training(
    store: frames.Store,
    spec: InputSpec,
    policy: augment.Policy,
    *,
    epoch: Sequence[int],
    batch_size: int,
    seed: int,
    first_sample: int = 0,
) -> tf.data.Dataset:
    """Yields (images, targets) for ever, shuffled anew each epoch.

    Args:
      store: the frames to learn from.
      spec: gives the tile's shape.
      policy: how to augment.
      epoch: the frames of an epoch, see `balanced`.
      batch_size: tiles a batch.
      seed: decides the order, the tiles' places and the augmentation.
      first_sample: where to go on after an interruption: batches seen times batch_size.

    Returns:
      images float32 (batch_size, *shape, channels) in [0, 1]; targets float32
      (batch_size, *shape, labels), the share of foreground or NOT_ANNOTATED.
    """

    def sample(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        key = tf.stack([tf.constant(seed, tf.int64), number // len(epoch)])
        place = tf.random.experimental.index_shuffle(number % len(epoch), key, len(epoch) - 1)
        index = tf.gather(tf.constant(epoch, tf.int64), place)
        image, target, annotated = _fetch(store, spec, index, number, seed)
        image, target = augment.augment(
            image, target, tf.stack([tf.constant(seed, tf.int64), number]), policy
        )
        return image, tf.where(annotated, target, NOT_ANNOTATED)

    numbers = tf.data.Dataset.range(first_sample, np.iinfo(np.int64).max)
    return (
        numbers.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(batch_size, drop_remainder=True)
        .prefetch(4)
    )


def whole(store: frames.Store, spec: InputSpec, *, batch_size: int) -> tf.data.Dataset:
    """Yields (images, targets) of every frame once, as they are, for validation in training.

    Frames larger than a tile give their middle tile: enough to watch a training by. Scores come
    from evaluation, which looks at all of a scan.
    """

    def sample(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, target, annotated = _fetch(store, spec, index, tf.constant(-1, tf.int64), 0)
        return image, tf.where(annotated, target, NOT_ANNOTATED)

    indices = tf.data.Dataset.range(len(store))
    return indices.map(sample, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(2)


def _fetch(
    store: frames.Store, spec: InputSpec, index: tf.Tensor, number: tf.Tensor, seed: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns an image, its targets with 0 for not annotated, and which labels are annotated."""

    def read(index: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        target = store.target(int(index))
        corner = _corner(target, spec.shape, int(number), seed)
        return (
            tiles.cut(store.image(int(index)), corner, spec.shape).astype(np.float32),
            np.ascontiguousarray(tiles.cut(target, corner, spec.shape)),
        )

    image, stored = tf.numpy_function(read, (index, number), (tf.float32, tf.uint8))
    image = tf.ensure_shape(image, (*spec.shape, spec.channels))
    stored = tf.ensure_shape(stored, (*spec.shape, len(spec.labels)))
    annotated = stored != frames.NOT_ANNOTATED
    target = tf.where(annotated, tf.cast(stored, tf.float32) / frames.FULL, 0.0)
    axes = list(range(len(spec.shape)))
    return image, target, tf.reduce_all(annotated, axis=axes, keepdims=True)


def _corner(target: np.ndarray, tile: tuple[int, ...], number: int, seed: int) -> tuple[int, ...]:
    """Returns a tile's first corner: random, often around foreground; the middle if number < 0."""
    room = [side - t for side, t in zip(target.shape, tile, strict=False)]
    if number < 0 or not any(room):
        return tuple(r // 2 for r in room)
    rng = np.random.default_rng((seed, number))
    inside = (target != frames.NOT_ANNOTATED) & (target > frames.FULL // 2)
    if rng.random() < FOREGROUND_SHARE and inside.any():
        labels = np.flatnonzero(inside.any(axis=tuple(range(len(tile)))))
        places = np.argwhere(inside[..., rng.choice(labels)])
        centre = places[rng.integers(len(places))]
        return tuple(
            int(np.clip(c - t // 2, 0, r)) for c, t, r in zip(centre, tile, room, strict=True)
        )
    return tuple(int(rng.integers(r + 1)) for r in room)
