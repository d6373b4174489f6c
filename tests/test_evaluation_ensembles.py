"""Several runs as one model: what they answer, and which cases they have seen."""

import dataclasses
import io
import json

import numpy as np
import pytest
import rich.console
import tiny_network

from data_pipeline import cases, inference, phantom, split
from data_pipeline.errors import InputError
from evaluation import ensembles, entering, runs, selection
from evaluation import run as evaluation_run
from models import segmenter

# Keras, saving a network; see setup.cfg.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return phantom.write_manifest(tmp_path_factory.mktemp("data"), count=6)


@pytest.fixture
def make_run(tmp_path, manifest):
    def make(name, parts, seed=0, data=manifest, **config):
        path = tmp_path / name
        path.mkdir(parents=True)
        network = tiny_network.build(seed=seed)
        dataclasses.replace(network.spec).save(path / "spec.json")
        segmenter.save(path, network.network)
        (path / "config.json").write_text(json.dumps({"data": str(data), **config}))
        known = cases.load(manifest)
        split.save(path / "splits.csv", known, dict(zip([c.id for c in known], parts, strict=True)))
        return path

    return make


A = ["train", "train", "train", "validation", "test", "test"]
B = ["test", "train", "train", "train", "test", "validation"]


def seen(run, manifest, which="all"):
    found = selection.trials([run], cases.load(manifest), which)
    return {int(t.case.id[-1]): t.seen for t in found}


def test_an_ensemble_is_scored_where_no_member_has_learnt(make_run, manifest):
    both = ensembles.load("both", [make_run("a", A), make_run("b", B)])
    assert seen(both, manifest, "test") == {4: ""}
    assert seen(both, manifest) == {
        0: "training", 1: "training", 2: "training", 3: "training", 4: "", 5: "validation",
    }  # fmt: skip


def test_an_ensemble_without_unseen_cases_says_so(make_run, manifest):
    both = ensembles.load("both", [make_run("a", A), make_run("b", A[::-1])])
    with pytest.raises(InputError, match=r"was trained or validated on by one of its 2 members"):
        seen(both, manifest, "test")


def test_a_members_case_is_known_by_its_image_too(make_run, manifest, tmp_path):
    renamed = [dataclasses.replace(case, id=f"other-{case.id}") for case in cases.load(manifest)]
    both = ensembles.load("both", [make_run("a", A), make_run("b", B)])
    known = selection.seen_in_training(both, renamed)
    assert [known.get(case.id, "") for case in renamed] == [
        "training", "training", "training", "training", "", "validation",
    ]  # fmt: skip


def test_the_folds_of_a_cross_validation_have_together_seen_every_case(make_run, manifest):
    for fold in range(2):
        parts = ["test" if n % 2 == fold else "train" for n in range(6)]
        make_run(f"cv/fold{fold}", parts, seed=fold)
    path = make_run("single", A).parent / "cv"
    (path / "config.json").write_text(json.dumps({"folds": 2, "data": str(manifest)}))
    alone = runs.load(path)
    assert len(seen(alone, manifest, "test")) == 6  # each by the network that held it out
    both = ensembles.load("both", [path, path.parent / "single"])
    assert len(both.folds) == 3
    assert set(seen(both, manifest).values()) == {"training"}


def test_a_summary_does_not_tell_where_its_maker_keeps_files(make_run, tmp_path, monkeypatch):
    path = make_run("a", A)
    told = json.loads((path / "config.json").read_text())
    told |= {"runs": "/home/me/runs", "cache": "/home/me/cache", "mlflow": "http://mine", "seed": 3}
    (path / "config.json").write_text(json.dumps(told | {"data": str(tmp_path / "m.csv")}))
    monkeypatch.chdir(tmp_path)
    config = runs.load(path).describe()["config"]
    assert config["data"] == "m.csv"
    assert config["seed"] == 3
    assert not {"runs", "cache", "mlflow"} & config.keys()


def test_an_ensemble_answers_as_the_network_that_is_exported(make_run, manifest):
    paths = [make_run("a", A, seed=0), make_run("b", B, seed=1)]
    both = ensembles.load("both", paths, "flips")
    case = cases.load(manifest)[4]
    scan = cases.read_scan(case)
    answer = both.answer(case, scan)
    exported = segmenter.load(*paths, tta="flips")
    np.testing.assert_array_equal(answer.probabilities, exported.probabilities(scan))
    expected = inference.mask(answer.probabilities, exported.spec).planes
    np.testing.assert_array_equal(answer.mask.planes, expected)
    singles = [segmenter.load(path, tta="flips").probabilities(scan) for path in paths]
    np.testing.assert_allclose(answer.probabilities, np.mean(singles, axis=0), atol=2e-5)
    assert both.describe()["members"] == [str(path) for path in paths]


def test_ensembles_are_named_on_the_command_line(make_run, manifest):
    a, b = make_run("a", A), make_run("b", A, seed=1)
    found, path = entering.enter([str(a)], averaged=[f"both={a},{b}"], tta="none")
    assert [one.name for one in found] == ["a", "both"]
    assert path == manifest
    for wrong in ("both", f"both={a}", f"={a},{b}"):
        with pytest.raises(InputError, match=r"--ensemble takes NAME=RUN,RUN"):
            entering.enter([], averaged=[wrong])
    with pytest.raises(InputError, match=r"is twice in the ensemble both"):
        entering.enter([], averaged=[f"both={a},{a}"])


def test_what_an_answer_costs_is_said_of_models_that_ask_more_than_one_network_once(make_run):
    a, b = make_run("a", A), make_run("b", A, seed=1)
    console = rich.console.Console(file=io.StringIO())
    evaluation_run._introduce([runs.load(a), runs.load(a, "none")], console)
    assert console.file.getvalue() == ""
    evaluation_run._introduce([ensembles.load("both", [a, b], "flips")], console)
    assert console.file.getvalue() == (
        "both: 4 times the arithmetic of one network an answer: 2 networks, mirrored views: 1, "
        "sizes: (1.0,)\n"
    )
