"""What a training is watched by. Scores that are reported come from evaluation, not from here."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

_THRESHOLDS = 101  # 0.00, 0.01, ... 1.00


class CaseDice(keras.metrics.Metric):
    """Mean Dice of frames, of one label or of all; those without any foreground are left out."""

    def __init__(self, label: int | None, name: str) -> None:
        super().__init__(name=name)
        self.label = label
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(
        self,
        y_true: keras.KerasTensor,
        y_pred: keras.KerasTensor,
        sample_weight: keras.KerasTensor | None = None,
    ) -> None:
        """Adds a batch: targets and probabilities (n, *shape, labels)."""
        pixels = tuple(range(1, len(y_true.shape) - 1))
        # A label that is not annotated is below 0 everywhere, so no pixel of it counts.
        known = ops.cast(y_true >= 0, "float32")
        truth = ops.cast(y_true > 0.5, "float32")
        prediction = known * ops.cast(y_pred > 0.5, "float32")
        size = ops.sum(truth + prediction, axis=pixels)
        dice = 2.0 * ops.sum(truth * prediction, axis=pixels) / ops.maximum(size, 1.0)
        counts = ops.cast(size > 0, "float32")
        if self.label is not None:
            dice, counts = dice[:, self.label], counts[:, self.label]
        self.total.assign_add(ops.sum(counts * dice))
        self.count.assign_add(ops.sum(counts))

    def result(self) -> keras.KerasTensor:
        """Returns the mean so far; 0 before any foreground was seen."""
        return self.total / ops.maximum(self.count, 1.0)

    def reset_state(self) -> None:
        """Starts anew."""
        self.total.assign(0.0)
        self.count.assign(0.0)


class ThresholdCounts(keras.metrics.Metric):
    """Counts of pixels by probability, a label each, from which precision and recall follow."""

    def __init__(self, labels: Sequence[str], name: str = "counts") -> None:
        super().__init__(name=name)
        self.labels = tuple(labels)
        shape = (2, len(self.labels), _THRESHOLDS)
        # Large sets have more pixels than float32 can count.
        self.pixels = self.add_weight(
            shape=shape, initializer="zeros", dtype="float64", name="pixels"
        )

    def update_state(
        self,
        y_true: keras.KerasTensor,
        y_pred: keras.KerasTensor,
        sample_weight: keras.KerasTensor | None = None,
    ) -> None:
        """Adds a batch: targets and probabilities (n, *shape, labels)."""
        count = len(self.labels)
        bins = tf.cast(y_pred * (_THRESHOLDS - 1), tf.int32)
        places = tf.reshape(bins + _THRESHOLDS * tf.range(count), [-1])
        for row, seen in enumerate((y_true > 0.5, (y_true >= 0) & (y_true <= 0.5))):
            sums = tf.math.unsorted_segment_sum(
                tf.reshape(tf.cast(seen, tf.float32), [-1]), places, count * _THRESHOLDS
            )
            padding = [(row, 1 - row), (0, 0), (0, 0)]
            added = tf.pad(tf.reshape(sums, (1, count, _THRESHOLDS)), padding)
            self.pixels.assign_add(tf.cast(added, tf.float64))

    def result(self) -> dict[str, keras.KerasTensor]:
        """Returns nothing: a curve is no number for a log; see `curves`."""
        return {}

    def curves(self) -> dict[str, np.ndarray]:
        """Returns the curve of each label: float (6, thresholds), thresholds rising from 0 to 1.

        The rows are true positives, false positives, true negatives, false negatives, precision
        and recall; the last two are 0 where they are not defined.
        """
        foreground, background = self.pixels.numpy()
        positive, negative = (
            np.cumsum(part[:, ::-1], axis=-1)[:, ::-1] for part in (foreground, background)
        )
        missed, passed = positive[:, :1] - positive, negative[:, :1] - negative
        precision = positive / np.maximum(positive + negative, 1)
        recall = positive / np.maximum(positive[:, :1], 1)
        rows = np.stack([positive, negative, passed, missed, precision, recall], axis=1)
        return dict(zip(self.labels, rows, strict=True))
