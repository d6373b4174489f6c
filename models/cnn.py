"""A plain convolutional encoder-decoder without skip connections: the trained baseline.

What it lacks against the U-Net is only what made the U-Net: detail carried past the bottleneck
(compare SegNet, arXiv:1511.00561, which carries pooling indices). Same blocks, same training.

394,825 parameters for one label in 2D. Expected Dice on the sample: 0.955 on X-ray lungs (23 test
cases), 0.704 on CT infection (five-fold, 50 slices); see docs/models.md.
"""

import keras

from data_pipeline.spec import InputSpec
from models import layers

WIDTHS = (8, 16, 32, 64, 128)


def build(spec: InputSpec, widths: tuple[int, ...] = WIDTHS) -> keras.Model:
    """Returns a network from (n, *shape, channels) in [0, 1] to (n, *shape, labels) in [0, 1].

    Args:
      spec: gives shape, channels and labels; sides must be multiples of 2 ** len(widths).
      widths: channels at each level, the finest first, at half the tile's resolution.

    Raises:
      InputError: if the tile does not fit.
    """
    layers.check_divisible(spec, 2 ** len(widths))
    x = inputs = keras.Input((*spec.shape, spec.channels))
    for width in widths:
        x = layers.conv(x, width, stride=2)
        x = layers.conv(x, width)
    for level, width in reversed(list(enumerate(widths[:-1]))):
        x = layers.conv(layers.upsample(x), width, name=layers.decoder_level(level))
    return keras.Model(inputs, layers.head(x, spec.labels), name="cnn")
