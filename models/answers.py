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
        self._sizes: list[list[Answers]] = [
            [_plain(network), *(Resized(network, scale) for scale in spec.scales)]
            for network in networks
        ]
        self._spec = spec

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Images (n, *shape, channels) in [0, 1] to probabilities (n, *shape, labels)."""
        rows = self._spec.temperatures or [()] * len(self._sizes)
        said = []
        for sizes, temperatures in zip(self._sizes, rows, strict=True):
            views = [_flipped(one, images, self._spec.flips) for one in sizes]
            said.append(calibrated(_mean(views), temperatures))
        return _mean(said)


def _plain(network: keras.Model) -> Answers:
    return lambda images: network(images, training=False)


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

    One half stays one half, so a mask of the same grid stays what it is. Without temperatures
    the probabilities stay as they are.
    """
    if not temperatures:
        return probabilities
    held = tf.clip_by_value(probabilities, FLOOR, 1.0 - FLOOR)
    logits = tf.math.log(held) - tf.math.log1p(-held)
    return tf.sigmoid(logits / tf.constant(temperatures, tf.float32))


class Resized:
    """A network that is shown its tile at another size and answers on the tile.

    The image is resampled by the weights of data_pipeline.geometry and padded with black
    to the next size that the network can halve; the margins of its answer are cut off.
    """

    def __init__(self, network: keras.Model, scale: float) -> None:
        """Takes a network from [0, 1] to probabilities, and the size of its tile in tiles."""
        self._tile = network.input_shape[1:-1]
        self._extent = tuple(max(1, int(side * scale + 0.5)) for side in self._tile)
        factors = _factors(network)
        self._padded = tuple(
            -(-side // factor) * factor for side, factor in zip(self._extent, factors, strict=True)
        )
        inputs = keras.Input((*self._padded, network.input_shape[-1]))
        # The layers themselves and their weights, not copies of them.
        self._network = keras.models.clone_model(
            network, input_tensors=inputs, clone_function=lambda layer: layer
        )

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """As the network itself: (n, *tile, channels) to (n, *tile, labels)."""
        before = [(p - e) // 2 for p, e in zip(self._padded, self._extent, strict=True)]
        after = [p - e - b for p, e, b in zip(self._padded, self._extent, before, strict=True)]
        margins = [(0, 0), *zip(before, after, strict=True), (0, 0)]
        # Not tf.pad: with oneDNN, TensorFlow (2.16 to 2.21) drops a Pad in front of a Conv3D of
        # padding "same" from a graph, and answers for the image without its margins.
        padded = tf.raw_ops.PadV2(
            input=resampled(images, self._extent), paddings=margins, constant_values=0.0
        )
        answer = self._network(padded, training=False)
        inner = (slice(b, b + e) for b, e in zip(before, self._extent, strict=True))
        return resampled(answer[(slice(None), *inner)], self._tile)


def _factors(network: keras.Model) -> tuple[int, ...]:
    """Returns by what each side of a network's tile must be divisible: its coarsest level."""
    tile = network.input_shape[1:-1]
    levels = {
        layer.output.shape[1:-1]
        for layer in network.layers
        if isinstance(layer.output, keras.KerasTensor) and len(layer.output.shape) == len(tile) + 2
    }
    # A level of one pixel is a mean over the whole image, which any size has.
    sides = [[level[axis] for level in levels if max(level) > 1] for axis in range(len(tile))]
    return tuple(side // min(found) for side, found in zip(tile, sides, strict=True))


def resampled(values: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Resamples (n, *sides, channels) by the weights of geometry.resample; float32.

    Sums are in float64, so that their order does not matter to a float32. Values are not
    rounded to the multiples of 2**-16 of data_pipeline.geometry: that would make a difference
    in the last bit of a network's answer, as another machine has it, a hundred times larger.
    """
    result = tf.cast(values, tf.float64)
    rank = len(result.shape)
    for axis, side in enumerate(shape, start=1):
        weights = geometry.axis_weights(
            np.arange(result.shape[axis], dtype=np.float64), np.arange(side, dtype=np.float64)
        )
        summed = tf.tensordot(result, tf.constant(weights), axes=[[axis], [1]])
        result = tf.transpose(summed, [*range(axis), rank - 1, *range(axis, rank - 1)])
    return tf.cast(result, tf.float32)
