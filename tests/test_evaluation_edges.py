"""Evaluations that have little to go on: they end with a result that says so."""

import csv
import json

import numpy as np
import pytest

from data_pipeline import phantom, raster
from evaluation import run

EMPTY = np.zeros((96, 80), np.uint8)
FULL = np.full((96, 80), 255, np.uint8)
TOP = EMPTY.copy()
TOP[:40] = 255


@pytest.fixture
def score(tmp_path):
    """Returns what scores tools on infection; truths and answers are images, None is no mask."""

    def go(truths, **tools):
        manifest = phantom.write_manifest(tmp_path / "data", count=len(truths))
        rows = list(csv.DictReader(manifest.read_text().splitlines()))
        for number, (row, truth) in enumerate(zip(rows, truths, strict=True)):
            row["infection_mask"] = ""
            if truth is not None:
                raster.write(manifest.parent / f"truth{number}.png", truth)
                row["infection_mask"] = f"truth{number}.png"
        with manifest.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        flags = ["--modality", "XR", "--labels", "infection", "--data", str(manifest)]
        for name, answers in tools.items():
            flags += ["--masks", f"{name}={tmp_path / name}"]
            for number, answer in enumerate(answers):
                raster.write(tmp_path / name / f"phantom-{number}_infection.png", answer)
        out = tmp_path / "out"
        assert run.main([*flags, "--split", "all", "--out", str(out)]) == 0
        assert (out / "dashboard.html").stat().st_size > 10_000
        return json.loads((out / "summary.json").read_text())

    return go


def test_nothing_to_find_and_nothing_found_has_no_dice_and_perfect_accuracy(score):
    found = score([EMPTY] * 4, tool=[EMPTY] * 4)["labels"][0]
    assert found["empty"] == 4
    assert found["metrics"]["dice"]["mean"]["value"] is None
    assert found["metrics"]["dice"]["undefined"] == 4
    assert found["metrics"]["accuracy"]["mean"]["value"] == 1.0
    assert found["metrics"]["false_positive_size"]["mean"]["value"] == 0.0


def test_what_is_invented_on_empty_cases_is_counted_beside_the_dice(score):
    found = score([EMPTY, EMPTY, TOP], tool=[FULL, EMPTY, TOP])["labels"][0]
    assert found["metrics"]["dice"]["mean"]["value"] == 0.5
    assert found["metrics"]["dice"]["mean"]["cases"] == 2
    assert found["metrics"]["false_positive_size"]["mean"]["value"] == 96 * 80 / 2


def test_one_case_has_scores_and_no_intervals(score):
    summary = score([TOP], one=[TOP], other=[EMPTY])
    one, other = (item["metrics"]["dice"]["mean"] for item in summary["labels"])
    assert (one["value"], other["value"]) == (1.0, 0.0)
    assert one["low"] is None
    assert other["low"] is None
    assert summary["labels"][1]["metrics"]["hd95_px"]["mean"]["value"] == pytest.approx(
        np.hypot(95, 79)
    )


def test_cases_without_the_label_take_no_part(score):
    found = score([None, TOP, None, TOP], tool=[EMPTY, TOP, EMPTY, TOP])["labels"][0]
    assert found["cases"] == 2


def test_presence_of_infection_is_asked_where_both_answers_occur(score):
    summary = score([TOP, EMPTY] * 3, right=[TOP, EMPTY] * 3, always=[TOP] * 6)
    right, always = summary["questions"][0], summary["questions"][2]
    assert right["question"] == always["question"] == "infection present"
    assert right["roc_auc"]["value"] == 1.0
    assert always["roc_auc"]["value"] == 0.5
    assert (always["true_positive"], always["false_positive"]) == (3, 3)


def test_groups_that_cannot_be_compared_carry_the_warning_themselves(tmp_path, capsys):
    manifest = phantom.write_manifest(tmp_path / "data", count=6)
    text = manifest.read_text().replace(",phantom,XR,COVID-19", ",adults,XR,COVID-19")
    manifest.write_text(text.replace(",phantom,XR,normal", ",kermany_v7,XR,normal"))
    flags = ["--data", str(manifest), "--split", "all", "--out", str(tmp_path / "out")]
    assert run.main(["threshold", *flags]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    groups = [g for g in summary["strata"] if g["stratification"] == "diagnosis"]
    assert {g["group"] for g in groups} == {"COVID-19", "normal"}
    assert all("CONFOUNDED" in g["warning"] and "children" in g["warning"] for g in groups)
    assert any("CONFOUNDED" in warning for warning in summary["warnings"])
    assert "CONFOUNDED" in capsys.readouterr().out
    assert "CONFOUNDED" in (tmp_path / "out" / "dashboard.html").read_text()
