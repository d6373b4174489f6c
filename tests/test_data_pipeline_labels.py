import pytest

from data_pipeline import labels
from data_pipeline.errors import InputError


def test_labels_come_in_the_projects_order_whatever_the_order_given():
    assert labels.parse("infection, lung") == ("lung", "infection")
    assert labels.parse(["infection"]) == ("infection",)


def test_a_label_given_twice_counts_once():
    assert labels.parse("lung,lung") == ("lung",)


def test_an_unknown_label_is_named_with_those_that_exist():
    with pytest.raises(InputError, match="unknown label lungs; known: lung, infection"):
        labels.parse("lungs,infection")


@pytest.mark.parametrize("nothing", ["", " , ", []])
def test_no_label_at_all_is_a_mistake(nothing):
    with pytest.raises(InputError, match=r"\(none given\)"):
        labels.parse(nothing)


def test_every_label_has_its_own_colour_column_and_concept():
    for field in ("colour_rgb", "column", "snomed_ct"):
        values = [getattr(label, field) for label in labels.LABELS.values()]
        assert len(set(values)) == len(values)
