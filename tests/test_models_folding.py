import keras
import numpy as np
import pytest

from data_pipeline.spec import InputSpec
from models import folding, zoo

layers = keras.layers


def trained(network, seed=0):
    """Gives every normalisation statistics such as training leaves."""
    rng = np.random.default_rng(seed)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return network


def normalisations(network):
    return sum(isinstance(layer, layers.BatchNormalization) for layer in network.layers)


def check_same_answers(network, *, kept=0, atol=1e-5):
    folded = folding.fold(network)
    images = np.random.default_rng(1).random((2, *network.input_shape[1:]), np.float32)
    before, after = (np.asarray(one(images, training=False)) for one in (network, folded))
    np.testing.assert_allclose(after, before, atol=atol, rtol=1e-5)
    assert normalisations(folded) == kept
    assert folded.name == network.name


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_a_network_of_the_zoo_keeps_its_answers_and_loses_every_normalisation(name):
    spec = InputSpec("XR", ("lung", "infection"), (64, 64))
    # Sums of residual blocks grow with such statistics, and with them what is rounded off.
    check_same_answers(trained(zoo.NETWORKS[name](spec)), atol=1e-4)


@pytest.mark.parametrize(
    "convolution",
    [
        layers.Conv2D(5, 3, strides=2),
        layers.Conv2D(5, 3, use_bias=False),
        layers.Conv2D(6, 3, groups=3),
        layers.Conv2DTranspose(5, 3, strides=2),
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        layers.SeparableConv2D(5, 3),
    ],
    ids=["strided", "no bias", "grouped", "transposed", "depthwise", "separable"],
)
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}], ids=str)
def test_every_kind_of_convolution_takes_its_normalisation_in(convolution, options):
    convolution = type(convolution).from_config(convolution.get_config())
    inputs = keras.Input((8, 8, 3))
    normalised = layers.BatchNormalization(**options)(convolution(inputs))
    check_same_answers(trained(keras.Model(inputs, layers.ReLU()(normalised))))


def test_a_network_compiled_with_a_loss_of_its_own_is_folded_without_it():
    spec = InputSpec("XR", ("lung",), (64, 64))
    network = trained(zoo.NETWORKS["light"](spec))
    network.compile("sgd", loss=lambda truth, said: keras.ops.mean(truth - said))
    check_same_answers(network)
    assert not folding.fold(network).compiled
    assert network.compiled


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_transposed_convolution_without_overlap_becomes_one_of_single_pixels(use_bias):
    inputs = keras.Input((4, 6, 3))
    spread = layers.Conv2DTranspose(2, 3, strides=3, use_bias=use_bias)
    network = keras.Model(inputs, layers.Activation("sigmoid")(spread(inputs)))
    folded = folding.fold(network)
    assert not any(isinstance(layer, layers.Conv2DTranspose) for layer in folded.layers)
    assert folded.output_shape == (None, 12, 18, 2)
    check_same_answers(network)
    again = layers.Conv2DTranspose(2, 3, strides=3, use_bias=use_bias)(inputs)
    check_same_answers(trained(keras.Model(inputs, layers.BatchNormalization()(again))))


def test_a_folded_network_computes_in_another_precision_and_answers_in_float32():
    spec = InputSpec("XR", ("lung",), (64, 64))
    folded = folding.fold(trained(zoo.NETWORKS["light"](spec)))
    images = np.random.default_rng(1).random((1, 64, 64, 1), np.float32)
    mixed = folding.in_precision(folded, "mixed_bfloat16")
    assert {layer.compute_dtype for layer in mixed.layers if layer.weights} == {"bfloat16"}
    said = mixed(images, training=False)
    assert said.dtype == "float32"
    # bfloat16 has 8 bits, and kernels of TensorFlow 2.16 and 2.21 round at different places.
    difference = np.abs(said - folded(images, training=False))
    assert difference.mean() < 0.01
    assert difference.max() < 0.1


def test_a_transposed_convolution_is_kept_where_it_is_more_than_that():
    inputs = keras.Input((4, 6, 3))
    for layer in (
        layers.Conv2DTranspose(2, 3, strides=2),
        layers.Conv2DTranspose(2, 2, strides=2, activation="softmax"),
        layers.Conv2DTranspose(2, (2, 1), strides=(2, 1)),
    ):
        network = keras.Model(inputs, layer(inputs))
        assert isinstance(folding.fold(network).layers[-1], layers.Conv2DTranspose)
        check_same_answers(network)


def test_the_scale_and_shift_of_one_channel_are_those_worked_out_by_hand():
    inputs = keras.Input((1, 1, 1))
    x = layers.Conv2D(1, 1)(inputs)
    network = keras.Model(inputs, layers.BatchNormalization(epsilon=1.0)(x))
    # y = 2 * (3x + 1 - 5) / sqrt(3 + 1) + 7 = 3x + 3
    network.set_weights(
        [np.full(w.shape, v) for w, v in zip(network.weights, (3, 1, 2, 7, 5, 3), strict=True)]
    )
    kernel, bias = folding.fold(network).get_weights()
    assert (kernel.item(), bias.item()) == (3.0, 3.0)


@pytest.mark.parametrize("case", ["activation", "read twice", "called twice", "other axis"])
def test_a_normalisation_that_cannot_be_folded_is_kept(case):
    inputs = keras.Input((8, 8, 3))
    convolution = layers.Conv2D(
        3, 3, padding="same", activation="relu" if case == "activation" else None
    )
    x = convolution(inputs)
    y = layers.BatchNormalization(axis=1 if case == "other axis" else -1)(x)
    if case == "read twice":
        y = layers.Add()([x, y])
    if case == "called twice":
        y = layers.Add()([convolution(y), y])
    check_same_answers(trained(keras.Model(inputs, y)), kept=1)
