"""A network with how it is trained: several small batches a step, and what validation counts."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from training import metrics, supervision


class Trainee(keras.Model):
    """A network of the zoo, whose weights it shares.

    Keras' own gradient accumulation cannot be combined with a distribution strategy (it updates
    inside a `tf.cond`), and counts small batches as steps. Here a step takes `accumulate` small
    batches one after the other, in the memory of one, and updates the weights once.
    """

    def __init__(
        self,
        network: keras.Model,
        labels: Sequence[str],
        accumulate: int = 1,
        supervised_levels: int = 0,
    ) -> None:
        """Wraps a network from the zoo.

        Args:
          network: from images (n, *shape, channels) to probabilities (n, *shape, labels).
          labels: what the probabilities are of.
          accumulate: small batches a step; the batch that `fit` is given holds all of them.
          supervised_levels: coarse levels of the decoder that learn to answer too.
        """
        coarse = supervision.coarse_answers(network, labels, supervised_levels)
        answers = [network.output, *coarse] if coarse else network.output
        super().__init__(network.input, answers, name=network.name)
        # Else Keras 3.15 looks at a batch of all devices first, which fails with several workers.
        # All variables are made by now, and `fit` is called in the scope of the strategy.
        self._distribute_strategy = None
        self.network = network
        self.accumulate = accumulate
        self.counts = metrics.ThresholdCounts(labels)

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor | list[tf.Tensor]:
        """Returns the network's answer; in training those of coarse levels after it, as a list."""
        answers: tf.Tensor | list[tf.Tensor] = super().call(inputs, training=training, mask=mask)
        return answers[0] if isinstance(answers, list) and not training else answers

    def compute_loss(
        self,
        x: tf.Tensor | None = None,
        y: tf.Tensor | None = None,
        y_pred: tf.Tensor | list[tf.Tensor] | None = None,
        sample_weight: tf.Tensor | None = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Returns the loss of an answer, or of the answers of all levels by their weights."""
        answers = y_pred if isinstance(y_pred, list) else [y_pred]
        shares = supervision.weights(len(answers))
        return sum(
            share * self.loss(supervision.shrunk(y, answer), answer)
            for share, answer in zip(shares, answers, strict=True)
        )

    def compute_metrics(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        y_pred: tf.Tensor | list[tf.Tensor],
        sample_weight: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Adds the network's own answer to the metrics."""
        answer = y_pred[0] if isinstance(y_pred, list) else y_pred
        result: dict[str, tf.Tensor] = super().compute_metrics(x, y, answer, sample_weight)
        return _as_logs(result)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Updates the weights once by the mean gradient of the small batches."""
        if self.accumulate == 1:
            return super().train_step(data)
        images, targets = (
            tf.reshape(part, (self.accumulate, -1, *part.shape[1:])) for part in data
        )

        def add(number: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            gradients = self._gradients(images[number], targets[number])
            return number + 1, [a + b for a, b in zip(sums, gradients, strict=True)]

        nothing = [tf.zeros(weight.shape, weight.dtype) for weight in self.trainable_weights]
        _, sums = tf.while_loop(
            lambda number, _: number < self.accumulate,
            add,
            (tf.constant(0), nothing),
            parallel_iterations=1,  # one after the other: that is what saves the memory
        )
        means = [gradient / self.accumulate for gradient in sums]
        self.optimizer.apply_gradients(zip(means, self.trainable_weights, strict=True))
        return _as_logs(self.get_metrics_result())

    def _gradients(self, images: tf.Tensor, targets: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            answers = self(images, training=True)
            loss = self._counted_loss(images, targets, answers, training=True)
            scaled = self.optimizer.scale_loss(loss)
        self.compute_metrics(images, targets, answers)
        gradients: list[tf.Tensor] = tape.gradient(
            scaled, self.trainable_weights, unconnected_gradients="zero"
        )
        return gradients

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds a validation batch to loss, metrics and counts."""
        images, targets = data
        answers = self(images, training=False)
        self._counted_loss(images, targets, answers, training=False)
        self.counts.update_state(targets, answers)
        result: dict[str, tf.Tensor] = self.compute_metrics(images, targets, answers)
        return result

    def _counted_loss(
        self, images: tf.Tensor, targets: tf.Tensor, answers: tf.Tensor, *, training: bool
    ) -> tf.Tensor:
        """Returns the loss of one device's share of a batch, and adds it to the mean loss."""
        loss = self.compute_loss(images, targets, answers, training=training)
        tracker = next(metric for metric in self.metrics if metric.name == "loss")
        # Keras divides the loss by the number of devices, so that their gradients can be added.
        whole = loss * tf.distribute.get_strategy().num_replicas_in_sync
        # What fills up the last batch of validation has no loss, and no part in the mean.
        annotated = tf.reduce_any(targets >= 0, axis=list(range(1, len(targets.shape))))
        counted = tf.reduce_sum(tf.cast(annotated, whole.dtype))
        share = counted / tf.cast(tf.size(annotated), whole.dtype)
        tracker.update_state(tf.math.divide_no_nan(whole, share), sample_weight=counted)
        return loss


def _as_logs(numbers: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns a device's numbers as Keras 3.15 can average them: over several workers by axis 0."""
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return numbers
    return {name: number[tf.newaxis] for name, number in numbers.items()}
