import numpy as np
import pytest

from models import calibration


def test_calibration_error_is_the_gap_between_said_and_true_weighted_by_pixels():
    # Four pixels said 0.9, of which three are true; two said 0.1, of which none is.
    said = np.array([[0.9, 0.9, 0.9], [0.9, 0.1, 0.1]])
    truth = np.array([[True, True, True], [False, False, False]])
    bins = calibration.reliability(truth, said)
    assert bins.expected_error == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)
    assert calibration.brier(truth, said) == pytest.approx((3 * 0.01 + 0.81 + 2 * 0.01) / 6)


def test_probability_one_falls_into_the_last_bin():
    bins = calibration.reliability(np.array([[True]]), np.array([[1.0]], np.float32))
    assert bins.pixels[-1] == 1
    assert bins.expected_error == 0


def test_pooling_pixels_adds_the_bins_and_not_the_errors():
    over = calibration.reliability(np.array([[True]]), np.array([[0.5]]))
    under = calibration.reliability(np.array([[False]]), np.array([[0.5]]))
    assert over.expected_error == under.expected_error == 0.5
    assert (over + under).expected_error == 0.0
