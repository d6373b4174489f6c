"""An exponential moving average of a network's weights, batch statistics included.

Averaged weights lie nearer the middle of the basin that the last steps wander in (Polyak and
Juditsky, 1992; arXiv:1803.05407). Keras' own `use_ema` averages what is trained only, so that the
averaged kernels meet moving means and variances of the last kernels: here all are averaged alike.
"""

import contextlib
from collections.abc import Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf


class Average(keras.callbacks.Callback):
    """Keeps the average of all weights over steps, and validates with it.

    The first averages are short, min(decay, (1 + t) / (10 + t)) after t steps, because a long
    one would remember the random weights of the start for hundreds of steps.
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        """Starts from the weights as they are.

        Args:
          model: whose weights to average; built.
          decay: what the average keeps at a step, below 1; 0 makes it the last weights.
        """
        super().__init__()
        self._decay = decay
        self._weights = [weight.value for weight in model.weights]
        self._average = [tf.Variable(weight, trainable=False) for weight in self._weights]
        self._step = 0

    @tf.function
    def _follow(self, keep: tf.Tensor) -> None:
        for average, weight in zip(self._average, self._weights, strict=True):
            average.assign(keep * average + (1.0 - keep) * weight)

    @tf.function
    def _exchange(self) -> None:
        for average, weight in zip(self._average, self._weights, strict=True):
            before = weight.read_value()
            weight.assign(average)
            average.assign(before)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Moves the average towards the weights after a step."""
        keep = min(self._decay, (1 + self._step) / (10 + self._step))
        self._follow(tf.constant(keep, tf.float32))
        self._step += 1

    def on_test_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Lets validation see the average."""
        self._exchange()

    def on_test_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Lets training go on from the last weights."""
        self._exchange()

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Lets the model hold the average instead of the last weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def values(self) -> list[np.ndarray]:
        """Returns the average, in the order of model.weights."""
        return [average.numpy() for average in self._average]

    def go_on_from(self, step: int, values: list[np.ndarray]) -> None:
        """Continues after an interruption: the steps done, and what `values` gave."""
        self._step = step
        for average, value in zip(self._average, values, strict=True):
            average.assign(value)
