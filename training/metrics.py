"""What a training is watched by. Scores that are reported come from evaluation, not from here."""

import keras
from keras import ops


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
