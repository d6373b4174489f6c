"""Deep supervision: coarse levels of a decoder learn to answer too (arXiv:1409.5185).

Each gets a convolution of its own, which is trained and then left out: the network that is saved
has no trace of it. Targets are averaged down to a level's resolution.
"""

from collections.abc import Sequence

import keras
from keras import ops

from models import layers

# A level counts half of the next finer one, as in nnU-Net (arXiv:1904.08128).
_SHARE = 0.5


def coarse_answers(
    network: keras.Model, labels: Sequence[str], levels: int
) -> list[keras.KerasTensor]:
    """Returns what the `levels` coarser levels of a decoder say, the finest of them first.

    Args:
      network: of the zoo; its finest level, which already gives the answer, does not count.
      labels: what is outlined.
      levels: how many; fewer where the decoder has fewer.

    Returns:
      float32 (n, *shape / 4, labels), (n, *shape / 8, labels), ...
    """
    answers = []
    known = {layer.name for layer in network.layers}
    for number in range(1, levels + 1):
        name = layers.decoder_level(number)
        if name in known:
            x = network.get_layer(name).output
            conv = layers.of_rank("Conv", len(x.shape) - 2)
            answers.append(conv(len(labels), 1, activation="sigmoid", dtype="float32")(x))
    return answers


def shrunk(targets: keras.KerasTensor, answer: keras.KerasTensor) -> keras.KerasTensor:
    """Averages targets (n, *shape, labels) down to the grid of a coarse answer."""
    factor = targets.shape[1] // answer.shape[1]
    return targets if factor == 1 else ops.average_pool(targets, factor, strides=factor)


def weights(answers: int) -> list[float]:
    """Returns what each answer counts, the finest first; together 1."""
    shares = [_SHARE**number for number in range(answers)]
    return [share / sum(shares) for share in shares]
