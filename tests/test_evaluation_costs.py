import json

import pytest

from evaluation import costs


def write_run(folder, config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def finished(tmp_path):
    """A cross-validation of two folds, as far as its cost is concerned."""
    write_run(tmp_path / "task-unet", {"folds": 2})
    for number, (steps, seconds) in enumerate([(100, 90.0), (120, 30.0)]):
        fold = tmp_path / "task-unet" / f"fold{number}"
        write_run(fold, {"parameters": 1234567, "steps": steps, "train_seconds": seconds})
        (fold / "network.keras").touch()
        (fold / "splits.csv").write_text("case_id,patient_id,split\ncase1,p1,test\n")
        (fold / "spec.json").write_text(
            json.dumps({"modality": "CT", "labels": ["infection"], "shape": [32, 32]})
        )
    return tmp_path / "task-unet"


def test_a_cross_validation_costs_all_its_trainings_and_has_the_parameters_of_one(finished):
    assert costs.of_run(finished) == costs.Cost(parameters=1234567, steps=220, minutes=2.0)


def test_rows_show_cost_beside_scores_and_none_for_what_is_not_trained(finished, tmp_path):
    def label(model):
        dice = {"mean": {"value": 0.75, "low": 0.7, "high": 0.8}}
        metrics = {"dice": dice, "accuracy": {"mean": {"value": 0.925}}}
        return {"model": model, "cases": 50, "metrics": metrics}

    scored = tmp_path / "scored"
    scored.mkdir()
    found = {"labels": [label("task-unet"), label("threshold")]}
    (scored / "summary.json").write_text(json.dumps(found))
    (scored / "cases.csv").write_text(
        "model,seconds\ntask-unet,0.010\ntask-unet,0.030\ntask-unet,9.0\nthreshold,0.002\n"
    )
    assert costs.rows("CT", scored, [finished]) == [
        ("CT", "U-Net", "1,234,567", "220", "2.0", "30", "0.925", "0.750 (0.700-0.800)", "50"),
        ("CT", "Thresholding", "0", "-", "-", "2", "0.925", "0.750 (0.700-0.800)", "50"),
    ]
