import math

import numpy as np
import pytest

from models import answers
from training import temperature
from training.temperature import Counts, Evidence


def evidence(said, truth):
    one = Evidence()
    one.add(Counts.of(np.array(said, np.float32), np.array(truth, np.bool_)))
    return one


def test_an_overconfident_answer_is_cooled_to_the_share_that_is_right():
    # 0.9 was said and 3 of 4 are right: T = logit(0.9) / logit(0.75) = ln 9 / ln 3 = 2.
    one = evidence([0.9] * 4, [True, True, True, False])
    assert temperature.fit(one) == pytest.approx(2.0, abs=0.01)


def test_an_underconfident_answer_is_sharpened():
    # 0.75 was said and 9 of 10 are right: T = ln 3 / ln 9.
    one = evidence([0.75] * 10, [True] * 9 + [False])
    assert temperature.fit(one) == pytest.approx(0.5, abs=0.005)


def test_likelihood_and_calibration_error_are_those_of_pencil_and_paper():
    one = evidence([0.9, 0.9, 0.9, 0.9], [True, True, True, False])
    before = -(3 * math.log(0.9) + math.log(0.1)) / 4
    after = -(3 * math.log(0.75) + math.log(0.25)) / 4
    assert one.nll() == pytest.approx(before, abs=1e-3)
    assert one.nll(2.0) == pytest.approx(after, abs=1e-3)
    assert one.expected_error() == pytest.approx(0.15, abs=1e-3)
    assert one.expected_error(2.0) == pytest.approx(0.0, abs=1e-3)


def test_each_case_counts_the_same_however_large_it_is():
    small, large = evidence([0.9], [True]), evidence([0.9] * 1000, [False] * 1000)
    both = small + large
    assert both.cases == 2
    assert both.nll() == pytest.approx(-(math.log(0.9) + math.log(0.1)) / 2, abs=1e-3)


def test_certain_and_wrong_pixels_stay_finite():
    assert evidence([0.0, 1.0], [True, False]).nll() == pytest.approx(-math.log(1e-6), rel=1e-3)


def test_what_is_counted_is_what_the_graph_makes_of_probabilities():
    rng = np.random.default_rng(3)
    said = rng.random(5000).astype(np.float32)
    truth = rng.random(5000) < said**2
    one = evidence(said, truth)
    value = temperature.fit(one)
    graph = np.asarray(answers.calibrated(said[:, None], (value,)), np.float64)[:, 0]
    nll = -np.log(np.where(truth, graph, 1 - graph)).mean()
    assert one.nll(value) == pytest.approx(nll, abs=1e-4)
    assert one.nll(value) < one.nll()
    for other in (0.98 * value, 1.02 * value):
        assert one.nll(value) <= one.nll(other)
