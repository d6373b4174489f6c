import math

import numpy as np
import pytest

from evaluation import metrics


def draw(*rows):
    return np.array([[sign == "#" for sign in row] for row in rows])


@pytest.fixture
def half():
    """Two pixels of four are right, two are missed, two invented, two left alone."""
    return metrics.count(draw(".##.", ".##."), draw("..##", "..##"))


def test_pixels_are_counted_by_what_they_are_and_what_was_said(half):
    assert half == metrics.Counts(2, 2, 2, 2)
    assert (half.truth, half.prediction, half.background, half.pixels) == (4, 4, 4, 8)


def test_overlap_metrics_of_masks_that_share_half(half):
    assert metrics.dice(half) == 0.5
    assert metrics.iou(half) == pytest.approx(1 / 3)
    assert metrics.accuracy(half) == 0.5
    assert metrics.sensitivity(half) == 0.5
    assert metrics.specificity(half) == 0.5
    assert metrics.precision(half) == 0.5
    assert metrics.balanced_accuracy(half) == 0.5
    assert metrics.f_beta(half) == 0.5


def test_f_two_punishes_a_missed_pixel_four_times_as_much_as_an_invented_one():
    missed = metrics.count(draw("##.."), draw("#..."))
    invented = metrics.count(draw("#..."), draw("##.."))
    assert metrics.f_beta(missed) == pytest.approx(5 / 9)
    assert metrics.f_beta(invented) == pytest.approx(5 / 6)
    assert metrics.f_beta(missed, beta=1) == metrics.dice(missed)


def test_two_empty_masks_have_an_accuracy_and_no_dice():
    counts = metrics.count(draw("...."), draw("...."))
    undefined = (metrics.dice, metrics.iou, metrics.sensitivity, metrics.precision, metrics.f_beta)
    assert all(math.isnan(metric(counts)) for metric in undefined)
    assert metrics.accuracy(counts) == metrics.specificity(counts) == 1.0
    assert metrics.balanced_accuracy(counts) == 1.0


def test_a_mask_invented_on_an_empty_case_has_dice_zero():
    counts = metrics.count(draw("...."), draw("#..."))
    assert metrics.dice(counts) == 0.0
    assert metrics.specificity(counts) == 0.75


def test_a_true_mask_that_fills_the_grid_has_no_specificity():
    counts = metrics.count(draw("####"), draw("##.."))
    assert math.isnan(metrics.specificity(counts))
    assert metrics.balanced_accuracy(counts) == metrics.sensitivity(counts) == 0.5


def test_an_empty_prediction_has_no_precision():
    assert math.isnan(metrics.precision(metrics.count(draw("##.."), draw("...."))))


def test_loss_is_the_mean_of_minus_log_of_what_was_said_of_the_truth():
    truth = np.array([[True, False]])
    expected = -(math.log(0.8) + math.log(0.5)) / 2
    assert metrics.loss(truth, np.array([[0.8, 0.5]])) == pytest.approx(expected, rel=1e-12)


def test_a_certain_and_wrong_pixel_costs_sixteen_nats_and_not_infinity():
    truth = np.array([[True]])
    cost = metrics.loss(truth, np.zeros((1, 1), np.float32))
    assert cost == pytest.approx(-math.log(1e-7), rel=1e-12)
    assert metrics.loss(truth, np.ones((1, 1), np.float32)) == pytest.approx(1e-7, rel=1e-6)


def test_masks_of_different_shape_are_refused_by_both_shapes():
    with pytest.raises(ValueError, match=r"truth \(1, 4\), prediction \(1, 3\)"):
        metrics.count(draw("...."), draw("..."))


def test_numbers_are_no_mask():
    with pytest.raises(ValueError, match="must be bool; got bool and uint8"):
        metrics.count(draw("...."), np.zeros((1, 4), np.uint8))
