import dataclasses

import numpy as np
import pandas as pd
import pytest

from data_pipeline.errors import InputError
from evaluation import compare, score


def write(folder, model, dice, patients=None):
    """Writes a scores.csv of one model whose other metrics follow from its Dice."""
    names = [field.name for field in dataclasses.fields(score.LabelScore)]
    rows = pd.DataFrame({name: "" for name in names}, index=range(len(dice)))
    rows["model"], rows["label"] = model, "lung"
    rows["case_id"] = [f"case{i}" for i in range(len(dice))]
    rows["patient_id"] = patients or [f"p{i}" for i in range(len(dice))]
    rows["dice"], rows["accuracy"] = dice, np.asarray(dice) / 2 + 0.5
    rows["loss"], rows["hd95_px"] = 1 - np.asarray(dice), 10.0
    folder.mkdir(exist_ok=True)
    rows.to_csv(folder / "scores.csv", index=False)
    return folder


def verdicts(before, after):
    tables = compare.read_scores(before), compare.read_scores(after)
    found = compare.changes(*tables, compare.pairs(*tables, None, None))
    return {change.metric: change for change in found}


def test_a_gain_on_every_patient_is_better_and_a_lower_loss_too(tmp_path):
    dice = np.linspace(0.5, 0.8, 12)
    found = verdicts(write(tmp_path / "a", "m", dice), write(tmp_path / "b", "m", dice + 0.1))
    assert found["dice"].result.difference.value == pytest.approx(0.1)
    assert (found["dice"].higher, found["dice"].lower) == (12, 0)
    assert found["dice"].verdict == found["accuracy"].verdict == found["loss"].verdict == "better"
    assert found["hd95_px"].verdict == "identical"


def test_a_loss_on_every_patient_is_worse(tmp_path):
    dice = np.linspace(0.5, 0.8, 12)
    found = verdicts(write(tmp_path / "a", "m", dice), write(tmp_path / "b", "m", dice - 0.1))
    assert found["dice"].verdict == found["loss"].verdict == "worse"


def test_ups_and_downs_are_noise(tmp_path):
    dice = np.linspace(0.5, 0.8, 12)
    moved = dice + np.array([0.05, -0.05] * 6)
    found = verdicts(write(tmp_path / "a", "m", dice), write(tmp_path / "b", "m", moved))
    assert found["dice"].verdict == "within noise"


def test_a_gain_on_many_images_of_two_patients_is_noise(tmp_path):
    dice, patients = np.linspace(0.5, 0.8, 12), ["p", "q"] * 6
    found = verdicts(
        write(tmp_path / "a", "m", dice, patients), write(tmp_path / "b", "m", dice + 0.1, patients)
    )
    assert found["dice"].verdict == "within noise"


def test_models_of_different_names_must_be_named(tmp_path):
    scores = [
        compare.read_scores(write(tmp_path / name, name, [0.5, 0.6])) for name in ("one", "two")
    ]
    assert compare.pairs(*scores, None, None) == [("one", "two")]
    assert compare.pairs(*scores, "one", "two") == [("one", "two")]
    with pytest.raises(InputError, match="no model three there; known: two"):
        compare.pairs(*scores, "one", "three")


def test_the_command_shows_the_change_of_each_case(tmp_path, capsys):
    a = write(tmp_path / "a", "m", [0.5, 0.6, 0.7])
    b = write(tmp_path / "b", "m", [0.9, 0.6, 0.7])
    every = tmp_path / "every.csv"
    compare.main([str(a), str(b), "--csv", str(every)])
    printed = capsys.readouterr().out
    assert "+0.400" in printed
    assert "case0" in printed
    assert "case1" not in printed
    assert len(pd.read_csv(every)) == 3


def test_a_folder_without_scores_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"scores\.csv does not exist"):
        compare.read_scores(tmp_path)
