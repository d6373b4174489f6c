import dataclasses

import numpy as np
import pandas as pd
import pytest

from evaluation import areas, case_level, score


def cases_table(rows):
    """Returns case scores from (infection_share, true_infection, diagnosis, dataset)."""
    empty = {f.name: "" for f in dataclasses.fields(score.CaseScore)}
    numbers = dict.fromkeys(
        ("true_share_of_lung", "share_of_lung", "share_error", "seconds"), float("nan")
    )
    return pd.DataFrame(
        [
            empty | numbers | {"model": "m", "modality": "CT", "case_id": str(i)}
            | {"infection_share": share, "true_infection": truth}
            | {"diagnosis": diagnosis, "dataset": dataset}
            for i, (share, truth, diagnosis, dataset) in enumerate(rows)
        ]
    )  # fmt: skip


def answers(rows):
    table = cases_table(rows)
    return list(case_level.summarise(table, table["case_id"].to_numpy(object)))


def areas_of(true, score, weights=None):
    """Returns ROC AUC and average precision of one set of weights."""
    weights = np.ones((1, len(true))) if weights is None else np.array([weights], float)
    roc, average = areas.areas(np.array(true), np.array(score, float), weights)
    return roc[0], average[0]


def test_area_under_the_curve_is_the_share_of_pairs_in_the_right_order():
    # Pairs: (4, 3) right, (4, 1) right, (2, 3) wrong, (2, 1) right.
    assert areas_of([True, True, False, False], [4, 2, 3, 1])[0] == 0.75


def test_a_tie_counts_one_half():
    assert areas_of([True, False], [1, 1])[0] == 0.5


def test_weights_count_cases_as_often_as_they_were_drawn():
    weighted = areas_of([True, False, False], [2, 1, 3], [1, 3, 1])
    assert weighted == areas_of([True, False, False, False, False], [2, 1, 1, 1, 3])
    assert weighted[0] == 0.75


def test_many_bootstrap_samples_at_once_give_what_each_gives_alone():
    rng = np.random.default_rng(1)
    true, value = rng.random(30) < 0.4, rng.integers(0, 8, 30).astype(float)
    weights = rng.integers(0, 3, (50, 30)).astype(float)
    together = areas.areas(true, value, weights)
    for number, row in enumerate(weights):
        assert together[:, number] == pytest.approx(areas_of(true, value, row), abs=1e-12)


def test_a_sample_without_positives_has_no_areas():
    assert np.isnan(areas_of([True, False], [2, 1], [0, 1])).all()


def test_areas_of_one_patient_have_no_interval():
    true, score = np.array([True, False, True]), np.array([3.0, 2.0, 1.0])
    for estimate in areas.estimates(true, score, np.array(["p"] * 3)):
        assert (estimate.cases, estimate.patients) == (3, 1)
        assert estimate.value > 0
        assert np.isnan([estimate.low, estimate.high]).all()


def test_average_precision_sums_precision_over_steps_of_recall():
    # From the highest score down: right, wrong, right: 1/2 * 1 + 1/2 * 2/3.
    value = areas_of([True, False, True], [3, 2, 1])[1]
    assert value == pytest.approx(0.5 + 1 / 3)


def test_infection_is_said_from_half_a_percent_of_the_image():
    rows = [(0.5, "yes"), (0.4, "yes"), (0.6, "no"), (0.0, "no"), (9.0, "yes")]
    (answer,) = answers([(share, truth, "COVID-19", "d") for share, truth in rows])
    assert answer.question == case_level.INFECTED
    matrix = (answer.true_positive, answer.false_positive)
    assert (*matrix, answer.false_negative, answer.true_negative) == (2, 1, 1, 1)
    assert answer.sensitivity.value == pytest.approx(2 / 3)
    assert answer.specificity.value == 0.5
    assert answer.roc_auc.low <= answer.roc_auc.value <= answer.roc_auc.high


def test_a_case_is_severe_from_a_quarter_of_the_lung():
    table = cases_table([(1.0, "", "", "d")] * 4)
    table["true_share_of_lung"] = [30.0, 25.0, 24.0, 0.0]
    table["share_of_lung"] = [60.0, 10.0, 26.0, 0.0]
    table["share_error"] = table["share_of_lung"] - table["true_share_of_lung"]
    (answer,) = case_level.summarise(table, table["case_id"].to_numpy(object))
    assert answer.question == case_level.SEVERE
    matrix = (answer.true_positive, answer.false_positive)
    assert (*matrix, answer.false_negative, answer.true_negative) == (1, 1, 1, 1)
    # Pairs: (60, 26) right, (60, 0) right, (10, 26) wrong, (10, 0) right.
    assert answer.roc_auc.value == 0.75


def test_severity_is_graded_by_the_infected_share_of_the_lung():
    table = cases_table([(1.0, "", "", "d")] * 5)
    table["true_share_of_lung"] = [0.0, 24.9, 25.0, 75.0, 50.0]
    table["share_of_lung"] = [0.0, 30.0, 49.9, 100.0, 0.0]
    table["share_error"] = table["share_of_lung"] - table["true_share_of_lung"]
    (found,) = case_level.severities(table, table["case_id"].to_numpy(object))
    expected = np.zeros((5, 5), int)
    expected[0, 0] = expected[1, 2] = expected[2, 2] = expected[4, 4] = expected[3, 0] = 1
    np.testing.assert_array_equal(found.matrix, expected)
    assert found.same.value == pytest.approx(3 / 5)
    assert found.within_one.value == pytest.approx(4 / 5)


def test_covid_against_others_carries_the_confounders_warning():
    rows = [(5.0, "", "COVID-19", "adults"), (1.0, "", "bacterial", "kermany_v7")] * 3
    (answer,) = answers(rows)
    assert answer.question == case_level.COVID
    assert answer.roc_auc.value == 1.0
    assert "CONFOUNDED" in answer.warning
    assert "children" in answer.warning


def test_a_question_with_one_answer_only_is_not_asked():
    assert answers([(5.0, "yes", "COVID-19", "d"), (1.0, "yes", "COVID-19", "d")]) == []


def test_a_model_that_outlines_no_infection_is_not_asked():
    assert answers([(float("nan"), "", "COVID-19", "d"), (float("nan"), "", "normal", "d")]) == []


def test_agreement_of_shares_is_bias_and_its_limits():
    table = cases_table([(1.0, "yes", "COVID-19", "d")] * 4)
    table["true_share_of_lung"] = [10.0, 20.0, 30.0, 0.0]
    table["share_of_lung"] = [12.0, 20.0, 34.0, 2.0]
    table["share_error"] = table["share_of_lung"] - table["true_share_of_lung"]
    (found,) = case_level.agreement(table, table["case_id"].to_numpy(object))
    spread = np.std([2.0, 0.0, 4.0, 2.0], ddof=1)
    assert found.bias.value == pytest.approx(2.0)
    assert found.upper_limit == pytest.approx(2.0 + 1.96 * spread)
    assert found.absolute_error.value == pytest.approx(2.0)
    assert (found.empty_cases, found.share_on_empty) == (1, 2.0)
