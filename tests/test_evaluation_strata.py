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


def scores(**columns):
    length = len(next(iter(columns.values())))
    rows = {"dataset": ["one"] * length, "diagnosis": [""] * length, "view": [""] * length}
    return pd.DataFrame(rows | columns)


VIEW = next(s for s in strata.STRATIFICATIONS if s.name == "view")


def test_one_view_written_in_two_ways_is_one_group():
    assert list(VIEW.group_of(scores(view=["PA", "pa", " ap", ""]))) == [
        "PA",
        "PA",
        "AP",
        "unknown",
    ]


def test_views_that_go_with_the_data_set_are_confounded_with_it():
    found = strata.warning(VIEW, scores(view=["PA", "AP"], dataset=["here", "there"]))
    assert found.startswith("CONFOUNDED: view goes with the data set (AP: there; PA: here)")


def test_views_within_one_data_set_may_be_compared():
    assert strata.warning(VIEW, scores(view=["PA", "AP"])) == ""


def test_one_group_alone_needs_no_warning():
    assert strata.warning(VIEW, scores(view=["PA", "PA"], dataset=["here", "there"])) == ""


def test_groups_are_shown_in_an_order_that_readers_expect():
    shown = ["large (above 2 %)", "unknown", "small (up to 1 %)", "empty", "medium (up to 2 %)"]
    assert [g.split(" (")[0] for g in strata.in_order(shown)] == [
        "empty", "small", "medium", "large", "unknown",
    ]  # fmt: skip
    assert strata.in_order(["normal", "COVID-19", "non-COVID"])[0] == "COVID-19"


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
