"""What training minimises: an overlap and a pixelwise term, over what somebody annotated.

Targets are shares of foreground in [0, 1], or batches.NOT_ANNOTATED where nobody looked; such
pixels take no part. Dice and cross-entropy summed is the loss of nnU-Net (arXiv:1904.08128):
cross-entropy gives every pixel a gradient, Dice weighs a small lesion like a large one. Every
term takes (y_true, y_pred, known) and gives (n, labels), so that terms are exchanged freely.
"""

from collections.abc import Callable

import keras
from keras import ops

Term = Callable[[keras.KerasTensor, keras.KerasTensor, keras.KerasTensor], keras.KerasTensor]

_PROBABILITY_FLOOR = 1e-6  # keeps logarithms finite
_SMOOTHING = 1.0  # pixels; a case without foreground then asks for an empty answer
_MISSED_WEIGHT = 0.7  # of a missed pixel against 0.3 of a false one (arXiv:1706.05721)
_FOCUS = 2.0  # exponent of the focal loss (arXiv:1708.02002)


class AnnotatedLoss(keras.losses.Loss):
    """Mean over a case's annotated labels of two terms: (n, *shape, labels) to (n,)."""

    def __init__(
        self, overlap: Term, pixelwise: Term, label_smoothing: float = 0.0, name: str = "loss"
    ) -> None:
        """Takes the terms.

        Args:
          overlap: for example `soft_dice_loss`; sees targets as they are.
          pixelwise: for example `cross_entropy`; sees smoothed targets.
          label_smoothing: share of each target replaced by even odds (arXiv:1512.00567).
          name: what Keras calls it.
        """
        super().__init__(name=name)
        self.overlap, self.pixelwise = overlap, pixelwise
        self.label_smoothing = label_smoothing

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """Returns a loss a case; 0 where nothing is annotated."""
        known = ops.cast(y_true >= 0, "float32")
        smoothed = y_true * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        terms = self.pixelwise(smoothed, y_pred, known) + self.overlap(y_true, y_pred, known)
        annotated = ops.max(known, axis=_pixels(y_pred))  # (n, labels)
        counted = ops.maximum(ops.sum(annotated, axis=-1), 1.0)
        return ops.sum(annotated * terms, axis=-1) / counted


def cross_entropy(
    y_true: keras.KerasTensor, y_pred: keras.KerasTensor, known: keras.KerasTensor
) -> keras.KerasTensor:
    """Returns the mean cross-entropy in nats over annotated pixels: (n, labels)."""
    p = ops.clip(y_pred, _PROBABILITY_FLOOR, 1.0 - _PROBABILITY_FLOOR)
    return _mean(-(y_true * ops.log(p) + (1.0 - y_true) * ops.log(1.0 - p)), known)


def focal(
    y_true: keras.KerasTensor, y_pred: keras.KerasTensor, known: keras.KerasTensor
) -> keras.KerasTensor:
    """Returns the mean cross-entropy of pixels weighted by how wrong they are, squared.

    The weight of a pixel is |y_true - y_pred| ** 2, which is (1 - p) ** 2 of the focal loss
    where a target is 0 or 1: (n, labels).
    """
    p = ops.clip(y_pred, _PROBABILITY_FLOOR, 1.0 - _PROBABILITY_FLOOR)
    nats = -(y_true * ops.log(p) + (1.0 - y_true) * ops.log(1.0 - p))
    return _mean(ops.abs(y_true - p) ** _FOCUS * nats, known)


def soft_dice_loss(
    y_true: keras.KerasTensor, y_pred: keras.KerasTensor, known: keras.KerasTensor
) -> keras.KerasTensor:
    """Returns 1 - the Dice of probabilities over annotated pixels: (n, labels), 0 is perfect."""
    both = ops.sum(known * y_true * y_pred, axis=_pixels(y_pred))
    sizes = ops.sum(known * (y_true + y_pred), axis=_pixels(y_pred))
    return 1.0 - (2.0 * both + _SMOOTHING) / (sizes + _SMOOTHING)


def tversky_loss(
    y_true: keras.KerasTensor, y_pred: keras.KerasTensor, known: keras.KerasTensor
) -> keras.KerasTensor:
    """Returns 1 - the Tversky index, Dice in which a missed pixel counts more than a false one."""
    both = ops.sum(known * y_true * y_pred, axis=_pixels(y_pred))
    missed = ops.sum(known * y_true * (1.0 - y_pred), axis=_pixels(y_pred))
    false = ops.sum(known * (1.0 - y_true) * y_pred, axis=_pixels(y_pred))
    wrong = _MISSED_WEIGHT * missed + (1.0 - _MISSED_WEIGHT) * false
    return 1.0 - (both + _SMOOTHING) / (both + wrong + _SMOOTHING)


def _pixels(y_pred: keras.KerasTensor) -> tuple[int, ...]:
    return tuple(range(1, len(y_pred.shape) - 1))


def _mean(nats: keras.KerasTensor, known: keras.KerasTensor) -> keras.KerasTensor:
    axes = _pixels(nats)
    return ops.sum(known * nats, axis=axes) / ops.maximum(ops.sum(known, axis=axes), 1.0)


LOSSES: dict[str, tuple[Term, Term]] = {
    "dice_ce": (soft_dice_loss, cross_entropy),
    "tversky_ce": (tversky_loss, cross_entropy),
    "dice_focal": (soft_dice_loss, focal),
}


def make(name: str, label_smoothing: float = 0.0) -> AnnotatedLoss:
    """Returns a loss of LOSSES by its name."""
    return AnnotatedLoss(*LOSSES[name], label_smoothing=label_smoothing, name=name)
