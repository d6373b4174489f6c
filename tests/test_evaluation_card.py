import dataclasses
import types

import pytest

from data_pipeline.spec import InputSpec
from evaluation import card
from evaluation.results import Provenance
from evaluation.runs import Run

CARD = "# unet\n\n## Scores\n<!-- scores end here -->\n\n## Limits\n"


@pytest.fixture
def told():
    return Provenance("python -m x", "2026-01-02", "data", "a" * 64, "test", 0, {}, {}, True)


def test_scores_go_into_the_section_that_training_left_for_them(told):
    done = card.with_scores(CARD, "| 0.9 |", told)
    assert done.index("## Scores") < done.index("| 0.9 |") < done.index("## Limits")


def test_scoring_again_replaces_the_section_of_the_same_split_and_data(told):
    validation = dataclasses.replace(told, split="validation")
    once = card.with_scores(CARD, "| 0.9 |", told)
    both = card.with_scores(once, "| 0.8 |", validation)
    again = card.with_scores(both, r"| 0.7 \1 |", told)
    assert card.with_scores(again, r"| 0.7 \1 |", told) == again
    assert [score in again for score in ("| 0.9 |", "| 0.8 |", r"| 0.7 \1 |")] == [
        False, True, True,
    ]  # fmt: skip


def test_a_card_without_that_place_gets_them_at_its_end(told):
    assert card.with_scores("# old\n", "| 0.9 |", told).startswith("# old\n\n<!-- scores of test")


def test_a_card_tells_of_the_saved_network_only(told, tmp_path):
    (tmp_path / "model_card.md").write_text(CARD)
    spec = InputSpec("XR", ("lung",), (32, 32))
    run = Run("a", tmp_path, spec, {}, {}, {}, (tmp_path,), frozenset())
    found = types.SimpleNamespace(labels=[types.SimpleNamespace(model="a")], warnings=())
    for other in (
        dataclasses.replace(run, members=(run, run)),
        dataclasses.replace(run, tta="flips"),
        dataclasses.replace(run, name="not scored"),
    ):
        assert card.complete(other, found, told) is None
    assert (tmp_path / "model_card.md").read_text() == CARD
