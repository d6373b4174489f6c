import dataclasses
import json

import numpy as np
import pytest

from data_pipeline import cases, phantom, split
from data_pipeline.errors import InputError
from data_pipeline.scan import Mask
from data_pipeline.spec import InputSpec
from evaluation import runs, selection
from evaluation.entrants import Classical
from evaluation.score import Answer

SPEC = InputSpec("XR", ("lung",), (32, 32))


class Nothing:
    spec = SPEC

    def probabilities(self, scan):
        return np.zeros((1, *scan.shape), np.float32)


@pytest.fixture
def manifest(tmp_path):
    return phantom.write_manifest(tmp_path / "data", count=6)


@pytest.fixture
def make_run(tmp_path, manifest):
    """Returns what writes a run directory whose network is never opened."""

    def make(name, splits, data=manifest, folder=None, **config):
        path = (folder or tmp_path) / name
        path.mkdir(parents=True)
        (path / "network.keras").write_bytes(b"never opened")
        (path / "config.json").write_text(json.dumps({"data": str(data), **config}))
        SPEC.save(path / "spec.json")
        split.save(path / "splits.csv", cases.load(data), splits)
        return path

    return make


def parts(*names):
    return {f"phantom-{number}": name for number, name in enumerate(names)}


USUAL = parts("train", "train", "train", "validation", "test", "test")


def chosen(entrants, manifest, which):
    trials = selection.trials(entrants, cases.load(manifest), which)
    return [(t.entrant.name, t.case.id, t.seen) for t in trials]


def test_a_run_is_scored_on_the_test_cases_of_its_own_split(make_run, manifest):
    run = runs.load(make_run("a", USUAL))
    assert chosen([run], manifest, "test") == [("a", "phantom-4", ""), ("a", "phantom-5", "")]


def test_all_cases_say_which_of_them_training_has_seen(make_run, manifest):
    run = runs.load(make_run("a", USUAL))
    seen = [seen for _, _, seen in chosen([run], manifest, "all")]
    assert seen == ["training"] * 3 + ["validation", "", ""]


def test_runs_with_different_test_cases_are_not_compared(make_run, manifest):
    one = runs.load(make_run("a", USUAL))
    other = runs.load(make_run("b", parts("test", "test", "train", "validation", "train", "test")))
    with pytest.raises(
        InputError, match=r"a and b have different test cases for lung \(2 and 3, 1 in"
    ):
        chosen([one, other], manifest, "test")


def test_a_run_that_trained_on_everything_has_no_test_cases(make_run, manifest):
    run = runs.load(make_run("a", parts(*["train"] * 6), use_all=True))
    with pytest.raises(InputError, match=r"trained on all 6 cases .*--data MANIFEST --split all"):
        chosen([run], manifest, "test")


def test_a_method_without_training_takes_the_cases_of_the_first_run(make_run, manifest):
    run = runs.load(make_run("a", USUAL))
    method = Classical("nothing", Nothing(), run.splits)
    assert [id for name, id, _ in chosen([run, method], manifest, "test") if name == "nothing"] == [
        "phantom-4",
        "phantom-5",
    ]


def test_without_any_split_only_all_cases_can_be_scored(manifest):
    method = Classical("nothing", Nothing())
    with pytest.raises(InputError, match=r"nothing says which of the 6 cases .* --split all"):
        chosen([method], manifest, "test")
    assert len(chosen([method], manifest, "all")) == 6


def test_a_training_image_under_another_name_is_found_by_its_content(make_run, manifest, tmp_path):
    run = runs.load(make_run("a", USUAL))
    copies = phantom.write_manifest(tmp_path / "copies", count=6)
    text = copies.read_text().replace("phantom-", "other-").replace(",p", ",q")
    copies.write_text(text)
    seen = {id: how for _, id, how in chosen([run], copies, "all")}
    assert seen["other-0"] == "training"
    assert seen["other-3"] == "validation"
    assert seen["other-4"] == ""  # a copy of a test image


def test_another_image_under_a_training_cases_name_is_not_taken_for_it(
    make_run, manifest, tmp_path
):
    run = runs.load(make_run("a", USUAL))
    others = phantom.write_manifest(tmp_path / "others", count=2, shape=(64, 64))
    others.write_text(others.read_text().replace(",p", ",q"))
    assert [how for _, _, how in chosen([run], others, "all")] == ["", ""]


def test_another_image_of_a_training_patient_is_marked(make_run, manifest, tmp_path):
    run = runs.load(make_run("a", USUAL))
    others = phantom.write_manifest(tmp_path / "others", count=2, shape=(64, 64))
    assert [how for _, _, how in chosen([run], others, "all")] == ["patient", "patient"]


def test_a_run_with_folds_tests_every_case_and_has_seen_none(make_run, manifest, tmp_path):
    folder = tmp_path / "cv"
    for fold in range(2):
        part = parts(*["test" if number % 2 == fold else "train" for number in range(6)])
        make_run(f"fold{fold}", part, folder=folder)
    (folder / "config.json").write_text(json.dumps({"data": str(manifest), "folds": 2}))
    run = runs.load(folder)
    assert {how for _, _, how in chosen([run], manifest, "test")} == {""}
    assert len(chosen([run], manifest, "test")) == 6
    assert run.fold_of["phantom-3"].name == "fold1"


def test_a_case_is_answered_by_the_fold_that_held_it_out(make_run, manifest, tmp_path, monkeypatch):
    folder = tmp_path / "cv"
    for fold in range(2):
        part = parts(*["test" if number % 2 == fold else "train" for number in range(6)])
        make_run(f"fold{fold}", part, folder=folder)
    (folder / "config.json").write_text(json.dumps({"data": str(manifest), "folds": 2}))

    class Constant:
        spec = SPEC

        def __init__(self, value):
            self.value = value

        def probabilities(self, scan):
            return np.full((1, *scan.shape), self.value, np.float32)

    value_of = {"fold0": 0.2, "fold1": 0.9}
    monkeypatch.setattr(
        runs,
        "_network",
        lambda folds, tta: Constant(np.mean([value_of[fold.name] for fold in folds])),
    )
    run = runs.load(folder)
    known = cases.load(manifest)
    scan = cases.read_scan(known[0])
    assert run.answer(known[0], scan).probabilities[0, 0, 0] == np.float32(0.2)
    assert run.answer(known[1], scan).probabilities[0, 0, 0] == np.float32(0.9)
    new = dataclasses.replace(known[0], id="new")
    answer = run.answer(new, scan)
    assert isinstance(answer, Answer)
    assert isinstance(answer.mask, Mask)
    assert answer.probabilities[0, 0, 0] == pytest.approx(0.55)


def test_a_missing_fold_is_named(make_run, manifest, tmp_path):
    folder = tmp_path / "cv"
    make_run("fold0", USUAL, folder=folder)
    (folder / "config.json").write_text(json.dumps({"folds": 5}))
    with pytest.raises(InputError, match="cv has 1 of 5 folds"):
        runs.load(folder)


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is not a run: no config\.json"):
        runs.load(tmp_path)
