"""Augmentation in TensorFlow ops: images and masks move together, and a seed decides how.

All randomness is stateless, drawn from (seed, sample number), so that the same sample is
augmented the same way in any order, on any worker, before and after a resume.
"""

import dataclasses
import itertools

import numpy as np
import tensorflow as tf

from data_pipeline import geometry


@dataclasses.dataclass(frozen=True)
class Policy:
    """How far each augmentation goes; a probability of 0 or a range of 0 switches it off."""

    flip: tuple[bool, ...] = (False, True)  # which axes may be mirrored
    rotate_degrees: float = 15.0  # in the plane of rows and columns
    quarter_turns: bool = False  # rotations by 90 degrees too (square tiles only)
    scale: float = 0.2  # sides times exp(+-scale)
    stretch: float = 0.1  # each axis on its own, likewise
    shift: float = 0.08  # of a side
    elastic: float = 0.03  # displacement of a coarse grid, of a side
    elastic_cells: int = 5
    brightness: float = 0.15
    contrast: float = 0.25  # times exp(+-contrast)
    gamma: float = 0.35  # to the power exp(+-gamma)
    noise: float = 0.04  # standard deviation, drawn up to this
    blur: float = 0.25  # probability of a 3-pixel binomial blur
    invert: float = 0.0  # probability of a negative


# Children are smaller and lie: X-rays are rotated and scaled more than they are moved.
XRAY = Policy()
# Slices come from any atlas in any position; grey values are a window's choice.
CT = Policy(flip=(True, True), quarter_turns=True, rotate_degrees=20.0, scale=0.25)
NONE = Policy(
    flip=(False, False), rotate_degrees=0, scale=0, stretch=0, shift=0, elastic=0,
    brightness=0, contrast=0, gamma=0, noise=0, blur=0,
)  # fmt: skip


def augment(
    image: tf.Tensor, target: tf.Tensor, seed: tf.Tensor, policy: Policy
) -> tuple[tf.Tensor, tf.Tensor]:
    """Augments one sample.

    Args:
      image: float32 (*shape, channels) in [0, 1].
      target: float32 (*shape, labels), shares of foreground; moved exactly as the image is.
      seed: int32 (2,): the run's seed and the sample's number.
      policy: how far.

    Returns:
      The image, again in [0, 1], and the target. What comes from beyond the tile is 0.
    """
    channels = image.shape[-1]
    coordinates = _coordinates(image.shape[:-1], seed, policy)
    moved = warp(tf.concat([image, target], axis=-1), coordinates)
    return _recolour(moved[..., :channels], seed, policy), moved[..., channels:]


def _uniform(seed: tf.Tensor, salt: int, shape: tuple[int, ...], limit: float = 1.0) -> tf.Tensor:
    """Returns values in [-limit, limit]; `salt` tells one use from another."""
    own = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), salt)
    return tf.random.stateless_uniform(shape, own, -limit, limit)


def _coordinates(shape: tuple[int, ...], seed: tf.Tensor, policy: Policy) -> tf.Tensor:
    """Returns where each output pixel comes from: float32 (rank, *shape), in pixels."""
    rank = len(shape)
    sides = np.asarray(shape, np.float32)
    grid = np.stack(np.meshgrid(*[np.arange(s, dtype=np.float32) for s in shape], indexing="ij"))
    centred = (grid - (sides.reshape(-1, *[1] * rank) - 1) / 2).reshape(rank, -1)
    matrix = _matrix(rank, seed, policy)
    shift = _uniform(seed, 1, (rank, 1), policy.shift) * sides[:, None]
    moved = tf.matmul(matrix, centred) + shift + (sides[:, None] - 1) / 2
    moved = tf.reshape(moved, (rank, *shape))
    if not policy.elastic:
        return moved
    coarse = _uniform(seed, 2, (rank, *[policy.elastic_cells] * rank), policy.elastic)
    for axis, side in enumerate(shape):
        weights = geometry.axis_weights(
            np.arange(policy.elastic_cells, dtype=np.float64), np.arange(side, dtype=np.float64)
        ).astype(np.float32)
        coarse = tf.transpose(
            tf.tensordot(coarse, tf.constant(weights), axes=[[axis + 1], [1]]),
            [0, *[1 + o for o in _move_last_to(axis, rank)]],
        )
    return moved + coarse * sides.reshape(-1, *[1] * rank)


def _move_last_to(axis: int, rank: int) -> list[int]:
    order = list(range(rank - 1))
    order.insert(axis, rank - 1)
    return order


def _matrix(rank: int, seed: tf.Tensor, policy: Policy) -> tf.Tensor:
    """Returns the linear part, from output to input coordinates: float32 (rank, rank)."""
    angle = _uniform(seed, 3, (), policy.rotate_degrees * np.pi / 180)
    if policy.quarter_turns:
        angle += np.pi / 2 * tf.floor((_uniform(seed, 4, ()) + 1) * 2)
    cos, sin = tf.cos(angle), tf.sin(angle)
    plane = tf.stack([tf.stack([cos, -sin]), tf.stack([sin, cos])])
    rotation = tf.linalg.LinearOperatorBlockDiag(
        [tf.linalg.LinearOperatorIdentity(1)] * (rank - 2)
        + [tf.linalg.LinearOperatorFullMatrix(plane)]
    ).to_dense()
    scale = tf.exp(_uniform(seed, 5, (), policy.scale) + _uniform(seed, 6, (rank,), policy.stretch))
    flip = (False,) * (rank - len(policy.flip)) + policy.flip
    sign = tf.where(flip & (_uniform(seed, 7, (rank,)) > 0), -1.0, 1.0)
    return rotation * (scale * sign)[None, :]


def warp(values: tf.Tensor, coordinates: tf.Tensor) -> tf.Tensor:
    """Samples values at coordinates, linearly; beyond the borders they are 0.

    Args:
      values: float32 (*shape, depth).
      coordinates: float32 (rank, *out_shape), in pixels of `values`.

    Returns:
      float32 (*out_shape, depth).
    """
    shape = values.shape[:-1]
    padded = tf.pad(values, [[1, 1]] * len(shape) + [[0, 0]])
    flat = tf.reshape(padded, (-1, values.shape[-1]))
    places = [
        tf.clip_by_value(coordinates[a] + 1, 0, side + 1 - 1e-3) for a, side in enumerate(shape)
    ]
    lower = [tf.floor(p) for p in places]
    share = [p - low for p, low in zip(places, lower, strict=True)]
    lower = [tf.cast(low, tf.int32) for low in lower]
    result = tf.zeros((*coordinates.shape[1:], values.shape[-1]))
    for corner in itertools.product((0, 1), repeat=len(shape)):
        index = tf.zeros_like(lower[0])
        weight = tf.ones_like(share[0])
        for axis, bit in enumerate(corner):
            index = index * (shape[axis] + 2) + lower[axis] + bit
            weight *= share[axis] if bit else 1 - share[axis]
        result += weight[..., None] * tf.gather(flat, index)
    return result


def _recolour(image: tf.Tensor, seed: tf.Tensor, policy: Policy) -> tf.Tensor:
    """Changes contrast, brightness, gamma, sharpness and noise of an image in [0, 1]."""
    draws = _uniform(seed, 8, (6,))
    middle = tf.reduce_mean(image)
    image = (image - middle) * tf.exp(policy.contrast * draws[0]) + middle
    image = tf.clip_by_value(image + policy.brightness * draws[1], 0.0, 1.0)
    image = tf.pow(image, tf.exp(policy.gamma * draws[2]))
    if policy.invert:
        image = tf.where((draws[5] + 1) / 2 < policy.invert, 1.0 - image, image)
    if policy.blur:
        image = tf.where((draws[3] + 1) / 2 < policy.blur, _blurred(image), image)
    if policy.noise:
        own = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), 9)
        strength = policy.noise * (draws[4] + 1) / 2
        image += strength * tf.random.stateless_normal(image.shape, own)
    return tf.clip_by_value(image, 0.0, 1.0)


def _blurred(image: tf.Tensor) -> tf.Tensor:
    """Applies the binomial kernel (1, 2, 1) / 4 along every axis."""
    for axis in range(len(image.shape) - 1):
        paddings = [[1, 1] if a == axis else [0, 0] for a in range(len(image.shape))]
        padded = tf.pad(image, paddings, "SYMMETRIC")
        before, _, after = (
            tf.gather(padded, tf.range(o, o + image.shape[axis]), axis=axis) for o in range(3)
        )
        image = (before + 2 * image + after) / 4
    return image
