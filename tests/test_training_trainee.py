import keras
import numpy as np
import pytest
import tensorflow as tf

from data_pipeline.batches import NOT_ANNOTATED
from training import losses, metrics
from training.trainee import Trainee


def trained(accumulate, optimizer, *, statistics=False):
    """Two steps of eight images each; returns the weights and the mean loss."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(3, 3, padding="same")(inputs)
    if statistics:
        x = keras.layers.BatchNormalization()(x)
    model = Trainee(
        keras.Model(inputs, keras.layers.Conv2D(1, 1, activation="sigmoid")(x)),
        ("lung",),
        accumulate,
    )
    model.compile(optimizer, losses.make("dice_ce"), jit_compile=False)
    rng = np.random.default_rng(0)
    images = rng.random((16, 4, 4, 1), np.float32)
    batches = tf.data.Dataset.from_tensor_slices((images, (images > 0.5).astype(np.float32)))
    history = model.fit(batches.batch(8), epochs=1, verbose=0, shuffle=False)
    return model.get_weights(), history.history["loss"][0]


@pytest.mark.parametrize("accumulate", [2, 4])
def test_small_batches_one_after_the_other_are_one_large_batch(accumulate):
    def optimizer():
        return keras.optimizers.AdamW(0.01, weight_decay=0.1, global_clipnorm=0.1)

    (large, large_loss), (small, small_loss) = (
        trained(1, optimizer()),
        trained(accumulate, optimizer()),
    )
    assert small_loss == pytest.approx(large_loss, rel=1e-6)
    for a, b in zip(large, small, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_batch_statistics_are_those_of_the_small_batches():
    large, _ = trained(1, keras.optimizers.SGD(0.0), statistics=True)
    small, _ = trained(2, keras.optimizers.SGD(0.0), statistics=True)
    moving_mean = [weights[4] for weights in (large, small)]
    # Keras' momentum is 0.99: two large batches leave 1.99 % of the mean, four small ones 3.94 %.
    np.testing.assert_allclose(moving_mean[1] / moving_mean[0], 3.94 / 1.99, rtol=0.05)


def test_counts_give_precision_and_recall_at_each_threshold():
    counts = metrics.ThresholdCounts(("lung", "infection"))
    truth = tf.constant([[1, 1, 0, 0], [1, NOT_ANNOTATED, NOT_ANNOTATED, 0]], tf.float32)
    answer = tf.constant([[0.9, 0.4, 0.6, 0.0], [1.0, 0.7, 0.7, 0.3]])
    as_planes = [tf.transpose(part)[None, None] for part in (truth, answer)]
    counts.update_state(*as_planes)
    counts.update_state(*as_planes)
    lung, infection = counts.curves().values()
    at_half = lung[:, 50]  # 0.9 and 0.6 are above, 0.4 and 0.0 below; seen twice
    np.testing.assert_allclose(at_half, [2, 2, 2, 2, 0.5, 0.5])
    np.testing.assert_allclose(lung[:, 0], [4, 4, 0, 0, 0.5, 1.0])
    np.testing.assert_allclose(infection[:, 20], [2, 2, 0, 0, 0.5, 1.0])  # two not annotated
    np.testing.assert_allclose(infection[:, 100], [2, 0, 2, 0, 1.0, 1.0])
    assert counts.result() == {}
