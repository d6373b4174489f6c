import dataclasses

import numpy as np
import pandas as pd
import pytest

from evaluation import case_level, score


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


def test_area_under_the_curve_is_the_share_of_pairs_in_the_right_order():
    true = np.array([True, True, False, False])
    # Pairs: (4, 3) right, (4, 1) right, (2, 3) wrong, (2, 1) right.
    assert case_level.roc_auc(true, np.array([4.0, 2.0, 3.0, 1.0])) == 0.75


def test_a_tie_counts_one_half():
    assert case_level.roc_auc(np.array([True, False]), np.array([1.0, 1.0])) == 0.5


def test_weights_count_cases_as_often_as_they_were_drawn():
    true, value = np.array([True, False, False]), np.array([2.0, 1.0, 3.0])
    weighted = case_level.roc_auc(true, value, np.array([1.0, 3.0, 1.0]))
    assert weighted == case_level.roc_auc(
        np.array([True, False, False, False, False]), np.array([2.0, 1.0, 1.0, 1.0, 3.0])
    )
    assert weighted == 0.75


def test_average_precision_sums_precision_over_steps_of_recall():
    # From the highest score down: right, wrong, right: 1/2 * 1 + 1/2 * 2/3.
    value = case_level.average_precision(np.array([True, False, True]), np.array([3.0, 2.0, 1.0]))
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
