import keras
import numpy as np
import pytest

from training.averaging import Average


@pytest.fixture
def model():
    inputs = keras.Input((2,))
    return keras.Model(inputs, keras.layers.BatchNormalization()(inputs))


def values(average):
    *values, _ = average.variables  # the last one counts steps
    return [value.numpy() for value in values]


def after_steps(model, average, *values):
    for value in values:
        for weight in model.weights:
            weight.assign(np.full(weight.shape, value, np.float32))
        average.on_train_batch_end(0)


def test_the_average_covers_batch_statistics_too(model):
    average = Average(model, 0.5)
    assert len(values(average)) == len(model.weights) == 4
    assert [w.name for w in model.non_trainable_weights] == ["moving_mean", "moving_variance"]
    after_steps(model, average, 1.0)
    gamma, beta, mean, variance = values(average)
    # The first average keeps (1 + 0) / (10 + 0) of what was: gamma and variance start at 1.
    np.testing.assert_allclose(gamma, 1.0)
    np.testing.assert_allclose(beta, 0.9)
    np.testing.assert_allclose(mean, 0.9)
    np.testing.assert_allclose(variance, 1.0)


def test_the_decay_rises_from_a_tenth_to_what_was_asked_for(model):
    average = Average(model, 0.25)
    after_steps(model, average, 1.0, 3.0, 5.0)
    first = 0.9 * 1.0  # keeps 1 / 10
    second = 2 / 11 * first + 9 / 11 * 3.0  # keeps 2 / 11
    third = 0.25 * second + 0.75 * 5.0  # 3 / 12 is as much as was asked for
    fourth = 0.25 * third + 0.75 * 7.0  # and 4 / 13 is more
    np.testing.assert_allclose(values(average)[1], third, rtol=1e-6)
    after_steps(model, average, 7.0)
    np.testing.assert_allclose(values(average)[1], fourth, rtol=1e-6)


def test_without_decay_the_average_is_the_last_weights(model):
    average = Average(model, 0.0)
    after_steps(model, average, 1.0, 0.1)
    for value, weight in zip(values(average), model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, weight)


def test_validation_sees_the_average_and_training_goes_on_from_the_last_weights(model):
    average = Average(model, 0.5)
    after_steps(model, average, 1.0, 0.3)
    averaged, last = values(average), model.get_weights()
    average.on_test_begin()
    np.testing.assert_array_equal(model.get_weights()[1], averaged[1])
    average.on_test_end()
    np.testing.assert_array_equal(model.get_weights()[1], last[1])
    with average.in_place():
        np.testing.assert_array_equal(model.get_weights()[1], averaged[1])
    np.testing.assert_array_equal(values(average)[1], averaged[1])


def test_an_interrupted_average_goes_on_as_if_it_had_not_been(model):
    whole = Average(model, 0.9)
    after_steps(model, whole, 1.0, 2.0)
    resumed = Average(model, 0.9)
    for variable, kept in zip(resumed.variables, whole.variables, strict=True):
        variable.assign(kept)
    after_steps(model, whole, 3.0)
    after_steps(model, resumed, 3.0)
    for a, b in zip(values(whole), values(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
