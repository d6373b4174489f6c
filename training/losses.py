"""What training minimises: Dice and cross-entropy, over what somebody annotated.

Targets are shares of foreground in [0, 1], or batches.NOT_ANNOTATED where nobody looked; such
pixels take no part. The sum of both losses is that of nnU-Net (arXiv:1904.08128): cross-entropy
gives every pixel a gradient, Dice weighs a small lesion like a large one.
"""

import keras
from keras import ops

_PROBABILITY_FLOOR = 1e-6  # keeps logarithms finite
_DICE_SMOOTHING = 1.0  # pixels; a case without foreground then asks for an empty answer


class DiceCrossEntropy(keras.losses.Loss):
    """Mean over labels of soft Dice loss and cross-entropy; (n, *shape, labels) to (n,)."""

    def __init__(self, dice_weight: float = 1.0, name: str = "dice_cross_entropy") -> None:
        super().__init__(name=name)
        self.dice_weight = dice_weight

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """Returns a loss a case."""
        known = ops.cast(y_true >= 0, "float32")
        pixels = tuple(range(1, len(y_pred.shape) - 1))
        entropy = cross_entropy(y_true, y_pred, known)
        dice = 1.0 - soft_dice(y_true, y_pred, known)
        annotated = ops.max(known, axis=pixels)  # (n, labels)
        counted = ops.maximum(ops.sum(annotated, axis=-1), 1.0)
        return ops.sum(annotated * (entropy + self.dice_weight * dice), axis=-1) / counted


def cross_entropy(
    y_true: keras.KerasTensor, y_pred: keras.KerasTensor, known: keras.KerasTensor
) -> keras.KerasTensor:
    """Returns the mean cross-entropy in nats over annotated pixels: (n, labels)."""
    p = ops.clip(y_pred, _PROBABILITY_FLOOR, 1.0 - _PROBABILITY_FLOOR)
    nats = -(y_true * ops.log(p) + (1.0 - y_true) * ops.log(1.0 - p))
    pixels = tuple(range(1, len(y_pred.shape) - 1))
    return ops.sum(known * nats, axis=pixels) / ops.maximum(ops.sum(known, axis=pixels), 1.0)


def soft_dice(
    y_true: keras.KerasTensor, y_pred: keras.KerasTensor, known: keras.KerasTensor
) -> keras.KerasTensor:
    """Returns the Dice of probabilities over annotated pixels: (n, labels), 1 is perfect."""
    pixels = tuple(range(1, len(y_pred.shape) - 1))
    both = ops.sum(known * y_true * y_pred, axis=pixels)
    sizes = ops.sum(known * (y_true + y_pred), axis=pixels)
    return (2.0 * both + _DICE_SMOOTHING) / (sizes + _DICE_SMOOTHING)
