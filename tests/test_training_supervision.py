import keras
import numpy as np
import pytest

from data_pipeline import batches
from data_pipeline.spec import InputSpec
from models import cnn, unet
from training import losses, supervision
from training.trainee import Trainee

WIDTHS = (4, 4, 6, 6)


def trainee(levels, build=unet.build, shape=(32, 32)):
    spec = InputSpec("CT", ("lung", "infection"), shape, window=(0.0, 1.0))
    made = Trainee(build(spec, WIDTHS), spec.labels, supervised_levels=levels)
    made.compile("sgd", losses.make("dice_ce"))
    return made


@pytest.mark.parametrize("build", [unet.build, cnn.build])
def test_coarse_levels_answer_in_training_only(build):
    made = trainee(2, build)
    images = np.random.default_rng(0).random((1, 32, 32, 1), np.float32)
    shapes = [tuple(answer.shape) for answer in made(images, training=True)]
    assert shapes == [(1, 32, 32, 2), (1, 8, 8, 2), (1, 4, 4, 2)]
    assert tuple(made(images, training=False).shape) == (1, 32, 32, 2)


def test_without_coarse_levels_there_is_one_answer():
    images = np.zeros((3, 32, 32, 1), np.float32)
    for training in (True, False):
        assert tuple(trainee(0)(images, training=training).shape) == (3, 32, 32, 2)


def test_a_volume_has_coarse_levels_too():
    made = trainee(1, shape=(16, 16, 16))
    images = np.zeros((1, 16, 16, 16, 1), np.float32)
    assert tuple(made(images, training=True)[1].shape) == (1, 4, 4, 4, 2)


def test_a_decoder_with_fewer_levels_is_supervised_at_those_it_has():
    assert len(trainee(9)(np.zeros((1, 32, 32, 1), np.float32), training=True)) == 3


def test_the_network_that_is_kept_has_no_trace_of_the_coarse_answers():
    made = trainee(2)
    assert made.network.count_params() == trainee(0).count_params() < made.count_params()


def test_targets_are_averaged_and_what_nobody_annotated_stays_so():
    targets = np.zeros((1, 4, 4, 2), np.float32)
    targets[0, :2, 0, 0] = 1  # a half of the first 2 x 2 pixels
    targets[..., 1] = batches.NOT_ANNOTATED
    coarse = np.asarray(supervision.shrunk(targets, np.zeros((1, 2, 2, 2))))
    np.testing.assert_array_equal(coarse[0, ..., 0], [[0.5, 0], [0, 0]])
    assert (coarse[..., 1] == batches.NOT_ANNOTATED).all()


def test_each_level_counts_half_of_the_finer_one():
    assert supervision.weights(1) == [1.0]
    assert supervision.weights(3) == pytest.approx([4 / 7, 2 / 7, 1 / 7])


def test_the_loss_is_the_weighted_sum_over_levels():
    made, rng = trainee(2), np.random.default_rng(1)
    targets = (rng.random((3, 32, 32, 2)) > 0.5).astype(np.float32)
    answers = made(rng.random((3, 32, 32, 1), np.float32), training=True)
    loss = losses.make("dice_ce")
    parts = [
        float(loss(keras.ops.average_pool(targets, f, strides=f) if f > 1 else targets, answer))
        for f, answer in zip((1, 4, 8), answers, strict=True)
    ]
    expected = (4 * parts[0] + 2 * parts[1] + parts[2]) / 7
    assert float(made.compute_loss(y=targets, y_pred=answers)) == pytest.approx(expected, rel=1e-5)
    assert float(made.compute_loss(y=targets, y_pred=answers[0])) == pytest.approx(parts[0])
