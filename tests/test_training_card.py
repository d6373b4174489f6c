"""The cards of a cross-validation and of its folds."""

import pytest

from data_pipeline import phantom
from evaluation import run as evaluation_run
from training import run


@pytest.fixture
def folds(tiny_training, tmp_path):
    """The folder of two folds, trained on six phantoms."""
    data = phantom.write_manifest(tmp_path / "data", count=6)
    flags = f"--data {data} --runs {tmp_path}/runs --cache {tmp_path}/cache --name cv --folds 2"
    run.main([*flags.split(), *"--size 32 --batch-size 4 --precision float32 --epochs 1".split()])
    return tmp_path / "runs" / "cv"


def test_a_cross_validation_has_a_card_that_evaluation_completes(folds, tmp_path):
    card = (folds / "model_card.md").read_text()
    assert card.startswith("# unet: lung on XR, 2 folds\n")
    for text in (
        "6 cases of 6 patients: each held out by one of 2 folds",
        "| data set | source | licence of images | licence of masks | cases |",
        "| fold0 | 3 | 3 | 6 steps in",
        "| fold1 | 3 | 3 | 6 steps in",
        "all settings and versions are in `fold0/config.json`",
        "## What a label covers",
        "not for diagnosis",
        "## Limits",
    ):
        assert text in card
    evaluation_run.main([str(folds), "--out", str(tmp_path / "results")])
    done = (folds / "model_card.md").read_text()
    assert "### Split test of" in done
    assert "Each case by the network that held it out" in done
    assert "| lung" in done
    assert done.index("### Split test of") < done.index("<!-- scores end here -->")
    flags = f"--data {tmp_path}/data --runs {tmp_path}/runs --cache {tmp_path}/cache --name cv"
    options = "--size 32 --batch-size 4 --precision float32 --epochs 1 --folds 2 --resume"
    run.main([*flags.split(), *options.split()])  # there is nothing left to train
    assert "### Split test of" in (folds / "model_card.md").read_text()
    # A fold's own card is about its network alone.
    alone = (folds / "fold0" / "model_card.md").read_text()
    assert "### Split" not in alone
    assert "No case was left for validation: these are the last weights." in alone
