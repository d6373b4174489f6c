import pandas as pd
import pytest

from evaluation import strata


@pytest.mark.parametrize(
    ("diagnosis", "group"),
    [
        ("COVID-19", strata.COVID),
        ("covid", strata.COVID),
        ("non-COVID (lung cancer)", strata.NON_COVID),
        ("bacterial", strata.NON_COVID),
        ("ARDS", strata.NON_COVID),
        ("normal", strata.NORMAL),
        ("", strata.UNKNOWN),
        ("unknown", strata.UNKNOWN),
    ],
)
def test_every_diagnosis_belongs_to_one_group(diagnosis, group):
    assert strata.diagnosis_group(diagnosis) == group


def table(*rows):
    return pd.DataFrame(rows, columns=["dataset", "diagnosis"])


def test_diseases_from_different_data_sets_are_confounded_and_children_are_named():
    warning = strata.confounder(
        table(("hannover_v7", "COVID-19"), ("kermany_v7", "normal"), ("kermany_v7", "viral"))
    )
    assert warning.startswith("CONFOUNDED: COVID-19 cases come from hannover_v7, the others from")
    assert "kermany_v7 shows children" in warning


def test_diseases_from_one_data_set_are_not_confounded():
    assert strata.confounder(table(("one", "COVID-19"), ("one", "normal"))) == ""


def test_one_shared_data_set_does_not_excuse_a_majority_that_is_apart():
    rows = [("one", "COVID-19"), ("one", "normal")] + [("a", "COVID-19"), ("b", "normal")] * 5
    assert strata.confounder(table(*rows)) != ""


def test_covid_alone_has_nothing_to_be_confused_with():
    assert strata.confounder(table(("one", "COVID-19"), ("two", "COVID-19"))) == ""


def test_lesions_are_divided_into_thirds_by_their_share_of_the_image():
    scores = pd.DataFrame(
        {
            "label": "infection",
            "case_id": list("abcdefg"),
            "true_positive": [1, 2, 3, 4, 5, 6, 0],
            "false_negative": 0,
            "n_pixels": 100,
        }
    )
    division = next(s for s in strata.STRATIFICATIONS if s.name.startswith("size"))
    groups = division.group_of(scores).str.split(" ").str[0]
    assert list(groups) == ["small", "small", "medium", "medium", "large", "large", "empty"]
