"""Folds batch normalisation into the convolutions before it, once training is over.

A trained batch normalisation multiplies each channel by a number and adds another, which the
convolution before it can do by itself. It is done where a network is loaded (models.segmenter),
so that the folded network is the one that is evaluated, exported and served.
"""

import keras
import numpy as np
from keras import layers

_TRANSPOSED = (layers.Conv2DTranspose, layers.Conv3DTranspose)
_CONVOLUTIONS = (
    *(layers.Conv2D, layers.Conv3D),
    *(layers.DepthwiseConv2D, layers.SeparableConv2D),
    *_TRANSPOSED,
)


def fold(network: keras.Model) -> keras.Model:
    """Returns a network with the same answers, up to rounding, and less to compute.

    Args:
      network: a graph of layers, as models.zoo builds them. Batch normalisation that does not
        directly follow a convolution is kept.
    """
    folded = _pairs(network)
    dropped = {normalisation.name for normalisation in folded.values()}

    def clone(layer: layers.Layer) -> layers.Layer:
        bias = {"use_bias": True} if layer.name in folded else {}
        return type(layer).from_config(layer.get_config() | bias)

    def call(layer: layers.Layer, x: object, *others: object, **named: object) -> object:
        return x if layer.name in dropped else layer(x, *others, **named)

    copy = keras.models.clone_model(network, clone_function=clone, call_function=call)
    for layer in copy.layers:
        if not layer.weights:
            continue  # an input may have been named anew
        trained = network.get_layer(layer.name)
        if layer.name in folded:
            layer.set_weights(_folded(trained, folded[layer.name]))
        else:
            layer.set_weights(trained.get_weights())
    return copy


def in_precision(network: keras.Model, policy: str) -> keras.Model:
    """Returns a network that computes in less than float32 up to its last layer.

    Args:
      network: a graph of layers.
      policy: of Keras, such as "mixed_bfloat16".
    """
    last = {output._keras_history.operation.name for output in network.outputs}

    def clone(layer: layers.Layer) -> layers.Layer:
        config = layer.get_config()
        if layer.name not in last and not isinstance(layer, layers.InputLayer):
            config["dtype"] = policy
        return type(layer).from_config(config)

    copy = keras.models.clone_model(network, clone_function=clone)
    copy.set_weights(network.get_weights())
    return copy


def _pairs(network: keras.Model) -> dict[str, layers.Layer]:
    """Returns the normalisations that can be folded, by the name of their convolution."""
    pairs = {}
    for layer in network.layers:
        if not isinstance(layer, layers.BatchNormalization) or _uses(layer) != 1:
            continue
        before = layer.input._keras_history.operation
        linear = getattr(before, "activation", None) is keras.activations.linear
        last_axis = layer.axis in (-1, len(layer.input.shape) - 1)
        if type(before) in _CONVOLUTIONS and linear and last_axis and _uses(before) == 1:
            pairs[before.name] = layer
    return pairs


def _uses(layer: layers.Layer) -> int:
    """How often a layer is called or its answer is read, whichever is more."""
    return max(len(layer._inbound_nodes), len(layer._outbound_nodes))


def _folded(convolution: layers.Layer, normalisation: layers.Layer) -> list[np.ndarray]:
    """Returns the weights of both in one convolution, computed in float64."""
    scale, shift = _scale_and_shift(normalisation)
    weights = [weight.astype(np.float64) for weight in convolution.get_weights()]
    if convolution.use_bias:
        shift += scale * weights.pop()
    if isinstance(convolution, _TRANSPOSED):
        scale = scale[:, None]  # its kernel is (*window, out, in)
    elif isinstance(convolution, layers.DepthwiseConv2D):
        scale = scale.reshape(weights[-1].shape[-2:])  # (*window, in, answers a channel)
    return [*weights[:-1], weights[-1] * scale, shift]


def _scale_and_shift(normalisation: layers.Layer) -> tuple[np.ndarray, np.ndarray]:
    weights = [weight.astype(np.float64) for weight in normalisation.get_weights()]
    mean, variance = weights[-2:]
    scale = 1 / np.sqrt(variance + normalisation.epsilon)
    if normalisation.scale:
        scale *= weights[0]
    shift = -mean * scale
    return scale, shift + weights[-3] if normalisation.center else shift
