"""The command itself, on phantoms, with a network of one weight that finds what is dark."""

import csv
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from data_pipeline import cases, phantom, raster, split
from data_pipeline.spec import Cleaning, InputSpec
from evaluation import entering, run, runs, score
from models import segmenter

# Keras 3.15 converts variables in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ROOT = pathlib.Path(__file__).parents[1]


def dark_network(spec, brightness):
    """Returns a network that calls a pixel lung where it is darker than `brightness`."""
    inputs = keras.Input((*spec.shape, 1))
    x = keras.layers.Conv2D(1, 1, name="dark")(inputs)
    network = keras.Model(inputs, keras.layers.Activation("sigmoid")(x), name="tiny")
    network.get_layer("dark").set_weights(
        [np.full((1, 1, 1, 1), -40.0, np.float32), np.array([40.0 * brightness], np.float32)]
    )
    return network


@pytest.fixture
def make_run(tmp_path):
    def make(name, manifest, brightness=0.6, splits=None):
        path = tmp_path / "runs" / name
        path.mkdir(parents=True)
        spec = InputSpec("XR", ("lung",), (96, 96))
        spec.save(path / "spec.json")
        segmenter.save(path, dark_network(spec, brightness))
        (path / "config.json").write_text(json.dumps({"data": str(manifest), "model": "tiny"}))
        known = cases.load(manifest)
        splits = splits or {c.id: "test" if i > 1 else "train" for i, c in enumerate(known)}
        split.save(path / "splits.csv", known, splits)
        return str(path)

    return make


@pytest.fixture
def manifest(tmp_path):
    return phantom.write_manifest(tmp_path / "data", count=8)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "evaluation.run", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_baseline_is_the_same_beside_any_network(make_run, manifest):
    path = make_run("learnt", manifest)
    given = runs.load(pathlib.Path(path)).spec
    rule = Cleaning(fill_holes=True)
    dataclasses.replace(given, thresholds=(0.3,), cleaning=(rule,)).save(
        pathlib.Path(path) / "spec.json"
    )
    (network, baseline), _ = entering.enter([path, "threshold"])
    assert network.spec.thresholds == (0.3,)
    assert (baseline.model.spec.thresholds, baseline.model.spec.cleaning) == ((), ())


def test_two_runs_and_the_threshold_are_scored_on_the_same_cases(
    make_run, manifest, tmp_path, capsys
):
    models = [make_run("good", manifest), make_run("bad", manifest, 0.2), "threshold"]
    out = tmp_path / "out"
    assert run.main([*models, "--out", str(out), "--save-masks"]) == 0
    rows = rows_of(out / "scores.csv")
    assert len(rows) == 3 * 6
    assert [f for f in rows[0]][:2] == ["model", "case_id"]
    mean = {
        name: np.mean([float(r["dice"]) for r in rows if r["model"] == name])
        for name in ("good", "bad", "threshold")
    }
    assert mean["good"] > 0.6 > mean["bad"]
    assert {r["seen"] for r in rows} == {""}
    summary = json.loads((out / "summary.json").read_text())
    good = next(item for item in summary["labels"] if item["model"] == "good")
    assert good["metrics"]["dice"]["mean"]["value"] == pytest.approx(mean["good"], abs=1e-6)
    assert good["cases"] == good["patients"] == 6
    assert summary["provenance"]["entrants"]["good"]["kind"] == "run"
    assert summary["provenance"]["onednn"] is True
    for name in ("comparison", "by_diagnosis", "gallery", "reliability"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 5000
    mask = raster.read(out / "masks" / "good" / "phantom-2_lung.png")
    assert mask.shape == (96, 80)
    assert set(np.unique(mask)) == {0, 255}
    assert not (out / "unfinished").exists()
    printed = capsys.readouterr().out
    assert "good" in printed and "threshold" in printed  # noqa: PT018 - one table


def test_the_saved_masks_score_the_same_when_they_come_back_as_another_tools(
    make_run, manifest, tmp_path
):
    path = make_run("good", manifest)
    run.main([path, "--out", str(tmp_path / "first"), "--save-masks"])
    masks = f"again={tmp_path / 'first' / 'masks' / 'good'}"
    run.main([path, "--masks", masks, "--out", str(tmp_path / "second")])
    rows = rows_of(tmp_path / "second" / "scores.csv")
    columns = ("case_id", "dice", "accuracy", "hd95_px", "true_positive")
    good, again = (
        [[r[c] for c in columns] for r in rows if r["model"] == name] for name in ("good", "again")
    )
    assert good == again
    assert {r["loss"] for r in rows if r["model"] == "again"} == {""}


def test_other_data_is_scored_whole(make_run, manifest, tmp_path):
    other = phantom.write_manifest(tmp_path / "other", count=3, shape=(120, 64))
    other.write_text(other.read_text().replace(",p", ",q"))
    out = tmp_path / "out"
    path = make_run("good", manifest)
    assert run.main([path, "--data", str(other), "--split", "all", "--out", str(out)]) == 0
    rows = rows_of(out / "scores.csv")
    assert [(r["case_id"], r["n_pixels"], r["seen"]) for r in rows] == [
        (f"phantom-{number}", str(120 * 64), "") for number in range(3)
    ]


def test_training_cases_are_in_the_rows_but_not_in_the_means(make_run, manifest, tmp_path, capsys):
    out = tmp_path / "out"
    run.main([make_run("good", manifest), "--split", "all", "--out", str(out)])
    rows = rows_of(out / "scores.csv")
    assert [r["seen"] for r in rows] == ["training"] * 2 + [""] * 6
    summary = json.loads((out / "summary.json").read_text())
    assert summary["labels"][0]["cases"] == 6
    assert summary["left_out"] == ["phantom-0", "phantom-1"]
    assert "LEAKAGE: good knows 2 of its cases from training" in summary["warnings"][0]
    assert "LEAKAGE" in capsys.readouterr().out


def test_one_unreadable_image_is_listed_and_the_rest_is_scored(make_run, manifest, tmp_path):
    path = make_run("good", manifest)
    (manifest.parent / "images" / "3.png").write_bytes(b"no image")
    code, printed, _ = command(path, "--out", tmp_path / "out")
    assert code == 1
    assert len(rows_of(tmp_path / "out" / "scores.csv")) == 5
    assert "phantom-3" in printed
    failures = json.loads((tmp_path / "out" / "summary.json").read_text())["failures"]
    assert [f["case_id"] for f in failures] == ["phantom-3"]


def test_the_next_try_scores_only_what_failed(make_run, manifest, tmp_path, capsys):
    path = make_run("good", manifest)
    image = manifest.parent / "images" / "3.png"
    whole = image.read_bytes()
    image.write_bytes(b"no image")
    assert run.main([path, "--out", str(tmp_path / "out")]) == 1
    image.write_bytes(whole)
    capsys.readouterr()
    assert run.main([path, "--out", str(tmp_path / "out")]) == 0
    assert "Going on with 5 of 6 already scored" in capsys.readouterr().out
    assert len(rows_of(tmp_path / "out" / "scores.csv")) == 6


def test_helper_processes_give_the_same_rows(make_run, manifest, tmp_path):
    models = [make_run("good", manifest), "threshold"]
    run.main([*models, "--out", str(tmp_path / "alone"), "--processes", "1"])
    code, _, errors = command(*models, "--out", tmp_path / "helped", "--processes", "2")
    assert code == 0, errors
    alone, helped = ((tmp_path / name / "scores.csv").read_text() for name in ("alone", "helped"))
    assert alone == helped


@pytest.mark.parametrize(
    ("spoil", "arguments", "expected"),
    [
        ("", ["nowhere"], "nowhere is neither a run directory nor one of threshold"),
        ("", ["threshold", "--labels", "heart", "--split", "all"], "unknown label heart"),
        ("", ["threshold", "--split", "test"], "nothing says which of the 8 cases"),
        ("", [], "nothing to score"),
        ("column", ["threshold", "--split", "all"], "lacks the column modality"),
        ("image", ["threshold", "--split", "all"], r"images/.*\.png"),
        ("size", ["threshold", "--split", "all"], r"no case could be scored; the first: .*mask"),
        ("", ["threshold", "--modality", "CT", "--split", "all"], "no case of modality CT"),
    ],
)
def test_a_users_mistake_gets_one_line_and_exit_code_two(
    manifest, tmp_path, capsys, spoil, arguments, expected
):
    for path in manifest.parent.glob("*/*.png"):
        if spoil == "image" and path.parent.name == "images":
            path.write_bytes(b"no image")
        if spoil == "size" and path.parent.name == "lung_masks":
            raster.write(path, np.zeros((5, 7), np.uint8))
    if spoil == "column":
        manifest.write_text(manifest.read_text().replace("modality", "kind"))
    with pytest.raises(SystemExit) as left, run.one_line_for_bad_input():
        run.main([*arguments, "--data", str(manifest), "--out", str(tmp_path / "out")])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1  # noqa: PT018
    assert re.search(expected, said)


def test_the_rows_hold_every_column_of_the_score(manifest, tmp_path):
    run.main(["threshold", "--data", str(manifest), "--split", "all", "--out", str(tmp_path)])
    names = [field.name for field in dataclasses.fields(score.LabelScore)]
    assert list(rows_of(tmp_path / "scores.csv")[0]) == names
