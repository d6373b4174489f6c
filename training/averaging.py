"""Averages of weights, batch statistics included: over steps, and over devices.

Averaged weights lie nearer the middle of the basin that the last steps wander in (Polyak and
Juditsky, 1992; arXiv:1803.05407). Keras' own `use_ema` averages what is trained only, so that the
averaged kernels meet moving means and variances of the last kernels: here all are averaged alike.
"""

import contextlib
from collections.abc import Iterator, Mapping

import keras
import tensorflow as tf


class Average(keras.callbacks.Callback):
    """Keeps the exponential moving average of all weights over steps, and validates with it.

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
        self._step = tf.Variable(0.0, trainable=False)

    @property
    def variables(self) -> list[tf.Variable]:
        """All that the average consists of: its values, in the order of model.weights, and t."""
        return [*self._average, self._step]

    @tf.function
    def _follow(self) -> None:
        keep = tf.minimum(self._decay, (1.0 + self._step) / (10.0 + self._step))
        for average, weight in zip(self._average, self._weights, strict=True):
            average.assign(keep * average + (1.0 - keep) * weight)
        self._step.assign_add(1.0)

    @tf.function
    def _exchange(self) -> None:
        for average, weight in zip(self._average, self._weights, strict=True):
            before = weight.read_value()
            weight.assign(average)
            average.assign(before)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Moves the average towards the weights after a step."""
        self._follow()

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


class SharedStatistics(keras.callbacks.Callback):
    """Gives all devices the mean of their batch statistics after each step.

    Keras lets each device's moving means and variances drift apart, and saves those of the first.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy) -> None:
        super().__init__()
        self._strategy = strategy
        self._statistics = [weight.value for weight in model.non_trainable_weights]

    @tf.function
    def _share(self) -> None:
        self._strategy.run(self._share_on_a_device)

    def _share_on_a_device(self) -> None:
        sizes = [int(statistic.shape.num_elements()) for statistic in self._statistics]
        flat = tf.concat([tf.reshape(statistic, [-1]) for statistic in self._statistics], axis=0)
        mean = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, flat)
        for statistic, part in zip(self._statistics, tf.split(mean, sizes), strict=True):
            statistic.assign(tf.reshape(part, statistic.shape))

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Shares, where there is anything to share."""
        if self._statistics and self._strategy.num_replicas_in_sync > 1:
            self._share()
