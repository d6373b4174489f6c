import math

import numpy as np
import pytest
import tensorflow as tf

from data_pipeline.batches import NOT_ANNOTATED
from training import losses, metrics


def planes(*rows):
    """One case of one row of pixels a label: (1, 1, pixels, labels)."""
    return tf.constant(np.stack(rows, axis=-1)[None, None], tf.float32)


def test_cross_entropy_of_even_odds_is_the_logarithm_of_two():
    truth, answer = planes([1, 0, 1, 0]), planes([0.5] * 4)
    assert losses.cross_entropy(truth, answer, tf.ones_like(truth)).numpy() == pytest.approx(
        math.log(2), rel=1e-6
    )


def test_soft_dice_on_paper():
    # |A| = 2, |B| = 1.5, overlap 1: (2 * 1 + 1) / (3.5 + 1)
    truth, answer = planes([1, 1, 0, 0]), planes([0.5, 0.5, 0.5, 0.0])
    loss = losses.soft_dice_loss(truth, answer, tf.ones_like(truth))
    assert loss.numpy() == pytest.approx(1 - 3 / 4.5)


def test_tversky_on_paper():
    # overlap 1, missed 1, false 0.5: (1 + 1) / (1 + 0.7 * 1 + 0.3 * 0.5 + 1)
    truth, answer = planes([1, 1, 0, 0]), planes([0.5, 0.5, 0.5, 0.0])
    loss = losses.tversky_loss(truth, answer, tf.ones_like(truth))
    assert loss.numpy() == pytest.approx(1 - 2 / 2.85)


def test_focal_on_paper():
    # A pixel of 0.75 is wrong by 0.25, one of 0.5 by 0.5: their nats count 1/16 and 1/4.
    truth, answer = planes([1, 0]), planes([0.75, 0.5])
    expected = (-math.log(0.75) / 16 - math.log(0.5) / 4) / 2
    assert losses.focal(truth, answer, tf.ones_like(truth)).numpy() == pytest.approx(expected)


def test_label_smoothing_pulls_targets_of_the_pixelwise_term_to_even_odds():
    truth, answer = planes([1, 0]), planes([0.8, 0.2])
    # With 0.2 of smoothing the targets are 0.9 and 0.1; Dice goes by the targets as they are.
    nats = -(0.9 * math.log(0.8) + 0.1 * math.log(0.2))
    dice = 1 - (2 * 0.8 + 1) / (2 + 1)
    assert losses.make("dice_ce", 0.2)(truth, answer).numpy() == pytest.approx(nats + dice)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_asks_for_an_empty_answer_where_there_is_nothing(name):
    nothing = planes([0, 0, 0, 0])
    wrong, right = (losses.make(name)(nothing, planes([p] * 4)).numpy() for p in (0.6, 0.0))
    assert right == pytest.approx(0, abs=1e-5)
    assert wrong > 0.3


def test_the_loss_is_both_summed():
    truth, answer = planes([1, 1, 0, 0]), planes([0.5, 0.5, 0.5, 0.5])
    expected = math.log(2) + 1 - (2 * 1 + 1) / (4 + 1)
    assert losses.make("dice_ce")(truth, answer).numpy() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_label_that_nobody_annotated_changes_neither_loss_nor_gradient(name):
    criterion = losses.make(name, 0.1)
    known, answer = (
        planes([1, 0, 0, 1]),
        tf.Variable(planes([0.9, 0.2, 0.3, 0.6], [0.1, 0.9, 0.5, 0.5])),
    )
    unknown = tf.concat([known, tf.fill(known.shape, NOT_ANNOTATED)], axis=-1)
    with tf.GradientTape() as tape:
        loss = criterion(unknown, answer)
    gradient = tape.gradient(loss, answer).numpy()
    assert loss.numpy() == pytest.approx(criterion(known, answer[..., :1]).numpy(), rel=1e-6)
    assert (gradient[..., 1] == 0).all()
    assert (gradient[..., 0] != 0).all()


def test_a_case_without_any_annotation_has_no_loss():
    truth = tf.fill((1, 1, 4, 2), NOT_ANNOTATED)
    assert losses.make("dice_ce")(truth, tf.fill((1, 1, 4, 2), 0.7)).numpy() == 0


def test_certain_mistakes_stay_finite():
    truth, answer = planes([1, 0]), planes([0.0, 1.0])
    assert math.isfinite(losses.make("dice_ce")(truth, answer).numpy())


def test_case_dice_is_the_mean_over_cases_with_foreground():
    truth = tf.concat([planes([1, 1, 0, 0]), planes([0, 0, 0, 0]), planes([1, 0, 0, 0])], axis=0)
    answer = tf.concat([planes([0, 0.9, 0.9, 0]), planes([0.1] * 4), planes([1, 0, 0, 0])], axis=0)
    metric = metrics.CaseDice(0, "dice")
    metric.update_state(truth, answer)  # 0.5, left out, 1.0
    assert float(metric.result()) == pytest.approx(0.75)
    metric.reset_state()
    assert float(metric.result()) == 0


def test_case_dice_ignores_labels_that_nobody_annotated():
    known = planes([1, 1, 0, 0])
    truth = tf.concat([known, tf.fill(known.shape, NOT_ANNOTATED)], axis=-1)
    metric = metrics.CaseDice(None, "dice")
    metric.update_state(truth, planes([1, 1, 0, 0], [1, 1, 1, 1]))
    assert float(metric.result()) == 1.0
