import math

import numpy as np
import pytest

from models import statistics


def test_mean_leaves_undefined_values_out_and_says_how_many_count():
    estimate = statistics.mean(np.array([0.5, math.nan, 0.9]), ["a", "b", "c"])
    assert estimate.value == pytest.approx(0.7)
    assert (estimate.cases, estimate.patients) == (2, 2)


def test_mean_is_of_cases_though_the_interval_is_of_patients():
    estimate = statistics.mean(np.array([0.2, 0.2, 0.2, 1.0]), ["a", "a", "a", "b"])
    assert estimate.value == pytest.approx(0.4)
    assert (estimate.cases, estimate.patients) == (4, 2)


def test_a_pooled_ratio_weighs_cases_by_their_size():
    estimate = statistics.ratio(np.array([1.0, 9.0]), np.array([10.0, 10.0]), ["a", "b"])
    assert estimate.value == 0.5


def test_nothing_to_average_gives_nan_and_no_error():
    assert math.isnan(statistics.mean(np.array([math.nan]), ["a"]).value)
    assert math.isnan(statistics.mean(np.array([]), []).value)


def test_one_patient_alone_has_no_interval():
    estimate = statistics.mean(np.array([0.4, 0.6]), ["a", "a"])
    assert estimate.value == 0.5
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_equal_values_have_an_interval_of_no_width():
    estimate = statistics.mean(np.full(5, 0.9), list("abcde"))
    assert estimate.low == estimate.high == pytest.approx(0.9)


def test_copies_of_a_patients_images_do_not_narrow_the_interval():
    rng = np.random.default_rng(1)
    values, groups = rng.normal(0.8, 0.1, 20), [str(i) for i in range(20)]
    once = statistics.mean(values, groups)
    copied = statistics.mean(np.repeat(values, 9), np.repeat(groups, 9))
    independent = statistics.mean(np.repeat(values, 9), np.arange(180))
    assert copied.high - copied.low == pytest.approx(once.high - once.low)
    assert independent.high - independent.low < 0.5 * (once.high - once.low)


def test_interval_is_close_to_students_for_many_normal_values():
    values = np.random.default_rng(2).normal(0.0, 1.0, 400)
    estimate = statistics.mean(values, np.arange(400))
    half_width = 1.966 * values.std(ddof=1) / 20
    assert estimate.high - estimate.value == pytest.approx(half_width, rel=0.1)
    assert estimate.value - estimate.low == pytest.approx(half_width, rel=0.1)


def test_the_same_seed_gives_the_same_interval_in_any_order_of_cases():
    values, groups = np.random.default_rng(3).random(30), np.arange(30) // 2
    shuffled = np.random.default_rng(4).permutation(30)
    first = statistics.mean(values, groups, seed=7)
    again = statistics.mean(values[shuffled], groups[shuffled], seed=7)
    assert first.low == pytest.approx(again.low)
    assert first.high == pytest.approx(again.high)


def test_a_constant_advantage_over_ten_patients_is_significant():
    values = np.linspace(0.5, 0.9, 10)
    result = statistics.compare("a", "b", values + 0.1, values, np.arange(10))
    assert result.difference.value == pytest.approx(0.1)
    assert result.difference.low > 0
    assert result.wilcoxon_p == pytest.approx(2 / 2**10)


def test_images_of_one_patient_are_one_pair_for_the_signed_rank_test():
    values = np.linspace(0.5, 0.9, 10)
    result = statistics.compare("a", "b", values + 0.1, values, np.arange(10) // 2)
    assert result.wilcoxon_p == pytest.approx(2 / 2**5)


def test_models_that_agree_everywhere_have_no_p_value():
    values = np.array([0.5, 0.6])
    assert math.isnan(statistics.compare("a", "b", values, values, ["a", "b"]).wilcoxon_p)


def test_cases_that_one_model_has_no_value_for_are_left_out():
    result = statistics.compare("a", "b", np.array([0.9, 0.5]), np.array([0.8, np.nan]), ["x", "y"])
    assert result.difference.value == pytest.approx(0.1)
    assert result.difference.cases == 1


def test_holm_multiplies_by_what_is_left_and_never_decreases():
    corrected = statistics.holm([0.04, 0.01, math.nan, 0.03])
    assert corrected[:2] == pytest.approx([0.06, 0.03])
    assert math.isnan(corrected[2])
    assert corrected[3] == pytest.approx(0.06)


def test_patients_without_anything_to_count_do_not_count():
    estimate = statistics.ratio(
        np.array([1.0, 0.0, 0.0]), np.array([2.0, 0.0, 2.0]), ["a", "b", "c"]
    )
    assert estimate.value == 0.25
    assert (estimate.cases, estimate.patients) == (2, 2)
