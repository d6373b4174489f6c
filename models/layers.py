"""The building blocks that the networks share, for slices and volumes alike."""

from collections.abc import Sequence

import keras

from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec


def of_rank(name: str, rank: int, ending: str = "") -> type[keras.layers.Layer]:
    """Returns a Keras layer class of a rank, for example Conv3D for "Conv" and 3."""
    layer: type[keras.layers.Layer] = getattr(keras.layers, f"{name}{rank}D{ending}")
    return layer


def normalised_conv(
    x: keras.KerasTensor, width: int, *, stride: int = 1, kernel: int = 3
) -> keras.KerasTensor:
    """Convolution and batch normalisation: (n, *shape, c) to (n, *shape / stride, width)."""
    x = of_rank("Conv", len(x.shape) - 2)(
        width, kernel, strides=stride, padding="same", use_bias=False,
        kernel_initializer="he_normal",
    )(x)  # fmt: skip
    return keras.layers.BatchNormalization(momentum=0.95)(x)


def conv(
    x: keras.KerasTensor,
    width: int,
    *,
    stride: int = 1,
    kernel: int = 3,
    name: str | None = None,
) -> keras.KerasTensor:
    """Convolution, batch normalisation, ReLU: (n, *shape, c) to (n, *shape / stride, width)."""
    return keras.layers.ReLU(name=name)(normalised_conv(x, width, stride=stride, kernel=kernel))


def decoder_level(number: int) -> str:
    """Returns the name of what a decoder leaves at 1 / 2 ** (number + 1) of the resolution."""
    return f"decoder{number}"


def double_conv(x: keras.KerasTensor, width: int, *, name: str | None = None) -> keras.KerasTensor:
    """Two convolutions of one width, as at each level of the U-Net paper."""
    return conv(conv(x, width), width, name=name)


def upsample(x: keras.KerasTensor) -> keras.KerasTensor:
    """Doubles every side by repeating."""
    return of_rank("UpSampling", len(x.shape) - 2)(2)(x)


def residual(x: keras.KerasTensor, width: int) -> keras.KerasTensor:
    """Two convolutions and, added, what went in: a block of ResNet (arXiv:1512.03385)."""
    y = normalised_conv(conv(x, width), width)
    shortcut = x if x.shape[-1] == width else normalised_conv(x, width, kernel=1)
    return keras.layers.ReLU()(keras.layers.add([y, shortcut]))


def head(x: keras.KerasTensor, labels: Sequence[str]) -> keras.KerasTensor:
    """One probability a label, on twice the resolution: float32 (n, *2 shape, labels).

    Each pixel at half resolution gives its 2 x 2 (x 2) pixels by weights of their own. Convolutions
    at full resolution would take a third of a training step. float32 whatever the precision before.
    """
    logits = of_rank("Conv", len(x.shape) - 2, "Transpose")(
        len(labels), 2, strides=2, dtype="float32", name="logits"
    )(x)
    return keras.layers.Activation("sigmoid", dtype="float32", name="probabilities")(logits)


def check_divisible(spec: InputSpec, factor: int) -> None:
    """Refuses a tile whose sides a network cannot halve as often as it needs to.

    Raises:
      InputError: naming the next shape that fits.
    """
    if any(side % factor for side in spec.shape):
        fits = tuple(-(-side // factor) * factor for side in spec.shape)
        raise InputError(
            f"every side of a tile must be a multiple of {factor} for this network; "
            f"got {spec.shape}, the next that fits is {fits}"
        )
