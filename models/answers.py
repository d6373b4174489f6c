"""From images in [0, 1] to the probabilities that are thresholded, in TensorFlow ops.

What a network says of one image may be averaged over mirrored and resized copies of it, made
as certain as it deserves to be (temperature), and averaged over several networks. All of it is
part of the graph that is evaluated and exported.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from data_pipeline import geometry
from data_pipeline.spec import InputSpec

# Probabilities are held to [this, 1 - this] before their logit is taken, which keeps it finite.
FLOOR = 1e-6

Answers = Callable[[tf.Tensor], tf.Tensor]  # (n, *shape, channels) to (n, *shape, labels)


class Answer:
    """What a network of a run, or the networks of an ensemble, say of images in the end."""

    def __init__(self, networks: Sequence[keras.Model], spec: InputSpec) -> None:
        """Takes networks from [0, 1] to probabilities, all of one spec."""
        rows = spec.temperatures or [()] * len(networks)
        self._members = [
            _member(network, spec, temperatures)
            for network, temperatures in zip(networks, rows, strict=True)
        ]

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Images (n, *shape, channels) in [0, 1] to probabilities (n, *shape, labels)."""
        return _mean([member(images) for member in self._members])


def _member(network: keras.Model, spec: InputSpec, temperatures: Sequence[float]) -> Answers:
    """Returns what one network says: its views averaged and divided by its temperatures."""
    logits = _before_sigmoid(network)
    if temperatures and logits is not None and not spec.flips and not spec.scales:
        # The same without the way back from probabilities, a twentieth of a pass of `light`.
        return lambda images: _tempered(logits(images, training=False), temperatures)
    sizes: list[Answers] = [_plain(network), *(Resized(network, scale) for scale in spec.scales)]
    return lambda images: calibrated(
        _mean([_flipped(one, images, spec.flips) for one in sizes]), temperatures
    )


def _plain(network: keras.Model) -> Answers:
    return lambda images: network(images, training=False)


def _before_sigmoid(network: keras.Model) -> keras.Model | None:
    """Returns a network up to its logits; None if it does not end in a sigmoid of its own."""
    last = network.output._keras_history.operation
    if (
        type(last) is not keras.layers.Activation
        or last.activation is not keras.activations.sigmoid
    ):
        return None
    return keras.Model(network.input, last.input)


def _flipped(network: Answers, images: tf.Tensor, flips: Sequence[Sequence[int]]) -> tf.Tensor:
    """Returns the mean answer to images and to their mirror images, mirrored back."""
    said = [network(images)]
    for flip in flips:
        axes = [1 + axis for axis in flip]
        said.append(tf.reverse(network(tf.reverse(images, axes)), axes))
    return _mean(said)


def _mean(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    total = tensors[0]
    for tensor in tensors[1:]:
        total += tensor
    return total / float(len(tensors))


def calibrated(probabilities: tf.Tensor, temperatures: Sequence[float]) -> tf.Tensor:
    """Divides the logits of (n, *shape, labels) by a temperature a label (arXiv:1706.04599).

    One half stays one half, and so does a mask at one half on the same grid. Without
    temperatures the probabilities stay as they are.
    """
    if not temperatures:
        return probabilities
    held = tf.clip_by_value(probabilities, FLOOR, 1.0 - FLOOR)
    return _tempered(tf.math.log(held) - tf.math.log(1.0 - held), temperatures)  # no log1p in ONNX


def _tempered(logits: tf.Tensor, temperatures: Sequence[float]) -> tf.Tensor:
    return tf.sigmoid(tf.cast(logits, tf.float32) / tf.constant(temperatures, tf.float32))


class Resized:
    """A network that is shown its tile at another size and answers on the tile.

    The image is resampled by the weights of data_pipeline.geometry and padded with black
    to the next size that the network can halve; the margins of its answer are cut off.
    """

    def __init__(self, network: keras.Model, scale: float) -> None:
        """Takes a network from [0, 1] to probabilities, and the size of its tile in tiles."""
        *tile, channels = network.input_shape[1:]
        extent = [max(1, int(side * scale + 0.5)) for side in tile]
        padded = [
            -(-side // factor) * factor
            for side, factor in zip(extent, _factors(network), strict=True)
        ]
        axes = list(zip(tile, extent, padded, strict=True))
        self._there = [_weights(side, size, whole) for side, size, whole in axes]
        self._back = [_weights(whole, side, side, used=size) for side, size, whole in axes]
        # The layers themselves and their weights, not copies of them.
        self._network = keras.models.clone_model(
            network,
            input_tensors=keras.Input((*padded, channels)),
            clone_function=lambda layer: layer,
        )

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """As the network itself: (n, *tile, channels) to (n, *tile, labels)."""
        shown = weighted(images, self._there)
        return weighted(self._network(shown, training=False), self._back)


def _weights(before: int, size: int, after: int, used: int | None = None) -> np.ndarray:
    """Returns what resamples the middle of an axis, without its margins, to one with margins.

    Margins are made and cut by weights of zero, not by tf.pad: with oneDNN, TensorFlow (2.16 to
    2.21) drops a Pad in front of a Conv3D of padding "same" from a graph.

    Args:
      before: pixels of the axis.
      size: pixels that the image becomes.
      after: pixels of the axis with new margins.
      used: pixels of the axis that are image, in its middle; all by default.
    """
    used = before if used is None else used
    first, start = (before - used) // 2, (after - size) // 2
    weights = np.zeros((after, before))
    weights[start : start + size, first : first + used] = geometry.axis_weights(
        np.arange(used, dtype=np.float64), np.arange(size, dtype=np.float64)
    )
    return weights


def _factors(network: keras.Model) -> tuple[int, ...]:
    """Returns by what each side of a network's tile must be divisible: its coarsest level."""
    tile = network.input_shape[1:-1]
    levels = {
        layer.output.shape[1:-1]
        for layer in network.layers
        if isinstance(layer.output, keras.KerasTensor) and len(layer.output.shape) == len(tile) + 2
    }
    # After a global mean one pixel is no level: any size has it.
    if any(type(layer).__name__.startswith("Global") for layer in network.layers):
        levels = {level for level in levels if max(level) > 1}
    return tuple(side // min(level[axis] for level in levels) for axis, side in enumerate(tile))


def weighted(values: tf.Tensor, weights: Sequence[np.ndarray]) -> tf.Tensor:
    """Resamples (n, *sides, channels) by a matrix (pixels out, pixels in) an axis; float32.

    Sums are in float64, so that their order does not matter to a float32. Values are not
    rounded to the multiples of 2**-16 of data_pipeline.geometry: that would make a difference
    in the last bit of a network's answer, as another machine has it, a hundred times larger.
    """
    result = tf.cast(values, tf.float64)
    last = len(result.shape) - 1
    for axis, matrix in enumerate(weights, start=1):
        summed = tf.tensordot(result, tf.constant(matrix), axes=[[axis], [1]])
        result = tf.transpose(summed, [*range(axis), last, *range(axis, last)])
    return tf.cast(result, tf.float32)
