"""A network small enough for a test, with masks that are neither empty nor full."""

import keras

from data_pipeline.spec import InputSpec
from models.segmenter import Network

XRAY = InputSpec("XR", ("lung", "infection"), (64, 64))


def build(spec: InputSpec = XRAY, seed: int = 0) -> Network:
    convolution = {2: keras.layers.Conv2D, 3: keras.layers.Conv3D}[len(spec.shape)]
    first, last = (
        keras.initializers.RandomNormal(stddev=stddev, seed=seed + n)
        for n, stddev in enumerate((0.3, 1.0))
    )
    inputs = keras.Input((*spec.shape, spec.channels))
    x = convolution(4, 3, padding="same", activation="relu", kernel_initializer=first)(inputs)
    x = keras.layers.BatchNormalization()(x)
    outputs = convolution(
        len(spec.labels), 3, padding="same", activation="sigmoid", kernel_initializer=last
    )(x)
    return Network(keras.Model(inputs, outputs, name="tiny"), spec)
