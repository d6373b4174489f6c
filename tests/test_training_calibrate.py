"""Calibration and post-processing at a training's end, and by the command for a finished run."""

import dataclasses
import json
from typing import ClassVar

import numpy as np
import pytest
import tiny_network

from data_pipeline import cases, inference, split
from data_pipeline import spec as specs
from data_pipeline.spec import Cleaning, InputSpec
from models import segmenter
from training import calibrate, card, plan
from training.config import TrainConfig
from training.temperature import Counts
from training.thresholds import Tally

# Keras, saving a network; see setup.cfg.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SPEC = InputSpec("XR", ("lung",), (32, 32))

CARD = "# tiny\n\n## Calibration and post-processing\n- stale\n- lines\n\n## Intended use\nnone\n"


@pytest.fixture
def make_run(phantoms):
    def make(folder, parts, seed=0, **spec):
        folder.mkdir(parents=True)
        network = tiny_network.build(SPEC, seed)
        dataclasses.replace(SPEC, **spec).save(folder / "spec.json")
        segmenter.save(folder, network.network)
        known = cases.load(phantoms)
        split.save(
            folder / "splits.csv", known, dict(zip([c.id for c in known], parts, strict=True))
        )
        (folder / "config.json").write_text(json.dumps({"data": str(phantoms), "seed": 7}))
        (folder / "model_card.md").write_text(CARD)
        return folder

    return make


def test_what_learning_will_take_is_told_from_two_cases(phantoms, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(calibrate.time, "monotonic", lambda: now[0])

    class Slow(segmenter.Network):
        asked = 0

        def __init__(self, network, spec):
            now[0] += 7.0  # to fold it
            super().__init__(network, spec)

        def probabilities(self, scan):
            now[0] += 30.0 if Slow.asked == 0 else 2.0  # the first answer builds the graph
            Slow.asked += 1
            return np.full((1, *scan.shape), 0.2, np.float32)

    monkeypatch.setattr(calibrate, "Network", Slow)
    network, known = tiny_network.build(SPEC, 0).network, cases.load(phantoms)
    cost = calibrate.cost(network, SPEC, known[:10])
    assert cost.of(10) == pytest.approx(2 * (7 + 30) + 1.2 * 10 * 2 * 2)
    assert cost.of(5000) == pytest.approx(2 * (7 + 30) + 1.2 * calibrate.MOST_CASES * 2 * 2)
    assert Slow.asked == 2
    assert calibrate.cost(network, SPEC, []).of(0) == 0
    off = calibrate.cost(network, SPEC, known, calibration="none", cleaning="none")
    assert off.of(12) == 0


def test_the_case_that_is_timed_has_as_many_labels_as_any(phantoms, monkeypatch):
    known, asked = cases.load(phantoms), []

    def hear(network, some, outlines):
        asked.append(some)
        return calibrate.Heard((), (), ())

    monkeypatch.setattr(calibrate, "hear", hear)
    both = next(case for case in known if case.infection_mask)
    lung = dataclasses.replace(both, infection_mask=None)
    network = tiny_network.build()
    calibrate.cost(network.network, network.spec, [lung, both, lung, lung], cleaning="none")
    assert asked == [[lung], [both]]


def test_learning_folds_a_network_once_more_only_to_forget_what_it_knew(phantoms, monkeypatch):
    made = []
    monkeypatch.setattr(
        calibrate, "Network", lambda *told: made.append(told) or segmenter.Network(*told)
    )
    network, known = tiny_network.build(SPEC, 0), cases.load(phantoms)[:1]
    calibrate.learn(network, known, cleaning="none")
    assert made == []
    network.spec = dataclasses.replace(SPEC, temperatures=((3.0,),))
    calibrate.learn(network, known, cleaning="none")
    assert made == [(network.network, SPEC)]


USUAL = ["train"] * 6 + ["validation"] * 4 + ["test"] * 2


def test_a_finished_run_is_calibrated_on_its_validation_cases(make_run, tmp_path, capsys):
    run = make_run(tmp_path / "run", USUAL)
    before = segmenter.load(run)
    calibrate.main([str(run)])
    told = json.loads((run / "config.json").read_text())
    gain = told["answers"]["calibration"]["lung"]
    assert gain["cases"] == 4
    assert gain["nll"][1] < gain["nll"][0]
    assert told["seed"] == 7
    spec = specs.load(run / "spec.json")
    assert spec.temperatures == ((gain["temperature"],),)
    assert "validation cases" in capsys.readouterr().out
    card = (run / "model_card.md").read_text()
    assert "stale" not in card
    assert "## Validation, calibration and post-processing\n- " in card
    assert f"- lung: temperature {gain['temperature']:.3g}; NLL" in card
    assert card.endswith("\n\n## Intended use\nnone\n")
    # What the command told of is what the calibrated network says on the scan's own grid.
    after, known = segmenter.load(run), cases.load(told["data"])
    nll = [[], []]
    for case in known[6:10]:
        scan = cases.read_scan(case)
        truth = cases.read_mask(case, ("lung",), scan.shape).planes
        for values, network in zip(nll, (before, after), strict=True):
            said = np.clip(network.probabilities(scan), 1e-6, 1 - 1e-6)
            values.append(-np.log(np.where(truth, said, 1 - said)).mean())
    np.testing.assert_allclose(np.mean(nll, axis=1), gain["nll"], rtol=0.05)


@pytest.mark.parametrize("cleaning", ["learn", "threshold", "none"])
def test_validation_dice_is_that_of_the_final_masks_with_an_interval_of_patients(
    phantoms, cleaning
):
    known, network = cases.load(phantoms)[:6], tiny_network.build(SPEC, 0)
    fitted = calibrate.learn(network, known, cleaning=cleaning)
    final, dice = segmenter.Network(network.network, fitted.spec), []
    for case in known:
        scan = cases.read_scan(case)
        [truth] = cases.read_mask(case, SPEC.labels, scan.shape).planes
        [found] = inference.mask(final.probabilities(scan), fitted.spec).planes
        dice.append(2 * (truth & found).sum() / (truth.sum() + found.sum()))
    told = fitted.told["validation"]["lung"]
    assert told["dice"] == pytest.approx(np.mean(dice), abs=2e-3)  # temperature and resampling
    assert told["interval"][0] < told["dice"] < told["interval"][1]
    assert (told["cases"], told["patients"]) == (6, 6)
    [line] = [line for line in card.gains(fitted.told) if "flatters" in line]
    low, high = told["interval"]
    assert f"lung: Dice {told['dice']:.3f} ({low:.3f}-{high:.3f}) on 6 validation cases" in line


def test_one_patient_in_validation_has_no_interval(phantoms):
    fitted = calibrate.learn(tiny_network.build(SPEC, 0), cases.load(phantoms)[:1])
    assert fitted.told["validation"]["lung"]["interval"] is None
    assert "on 1 validation cases of 1 patients" in "".join(card.gains(fitted.told))


def test_what_was_learnt_is_taken_back(make_run, tmp_path):
    rules = {"temperatures": ((3.0,),), "cleaning": (Cleaning(largest=2),)}
    run = make_run(tmp_path / "run", USUAL, **rules)
    calibrate.main([str(run), "--calibration", "none", "--cleaning", "none"])
    assert specs.load(run / "spec.json") == SPEC


def test_without_validation_cases_nothing_is_learnt_and_that_is_said(make_run, tmp_path, capsys):
    run = make_run(tmp_path / "run", ["train"] * 12)
    calibrate.main([str(run)])
    assert specs.load(run / "spec.json") == SPEC
    assert "no validation split" in capsys.readouterr().out


def test_a_folds_temperature_comes_from_what_the_others_held_out(make_run, tmp_path):
    of_fold = [["test" if n % 3 == fold else "train" for n in range(12)] for fold in range(3)]
    for fold, parts in enumerate(of_fold):
        make_run(tmp_path / "cv" / f"fold{fold}", parts, seed=fold)
    (tmp_path / "cv" / "config.json").write_text('{"folds": 3}')
    calibrate.main([str(tmp_path / "cv")])
    temperatures = [
        specs.load(tmp_path / "cv" / f"fold{fold}" / "spec.json").temperatures[0][0]
        for fold in range(3)
    ]
    whole = segmenter.load(tmp_path / "cv")
    assert whole.spec.temperatures == tuple((value,) for value in temperatures)
    known = cases.load(json.loads((tmp_path / "cv/fold0/config.json").read_text())["data"])
    heard = [
        calibrate.hear(tiny_network.build(SPEC, fold), known[fold::3], outlines=False).evidence[0]
        for fold in range(3)
    ]
    expected = [
        calibrate.temperature.fit(one + other)
        for one, other in ((heard[1], heard[2]), (heard[0], heard[2]), (heard[0], heard[1]))
    ]
    assert temperatures == pytest.approx(expected, rel=1e-3)


class Hesitant(segmenter.Network):
    """Says 0.4 of lungs and 0.1 of all else, so that one half is too much to ask."""

    truth: ClassVar[dict] = {}

    def probabilities(self, scan):
        return np.where(self.truth[scan.source], 0.4, 0.1).astype(np.float32)


def test_a_threshold_that_helps_every_patient_is_learnt_and_masks_follow_it(phantoms, monkeypatch):
    known = [case for case in cases.load(phantoms) if case.modality == "XR"][:8]
    scans = [cases.read_scan(case) for case in known]
    truth = {
        scan.source: cases.read_mask(case, SPEC.labels, scan.shape).planes
        for case, scan in zip(known, scans, strict=True)
    }
    monkeypatch.setattr(Hesitant, "truth", truth)
    monkeypatch.setattr(calibrate, "Network", Hesitant)
    network = Hesitant(tiny_network.build(SPEC, 0).network, SPEC)
    fitted = calibrate.learn(network, known, calibration="none")
    assert fitted.spec.thresholds == (fitted.told["thresholds"][0]["threshold"],)
    assert fitted.spec.thresholds == (12 / 32,)  # the highest below 0.4
    # Cleaning is then learnt on masks above it: no lung is lost any more.
    assert len(fitted.told["cleaning"]) == 3
    assert all(change["before"] == 1 for change in fitted.told["cleaning"])
    [line] = [line for line in card.gains(fitted.told) if "threshold" in line]
    assert "kept; Dice 0.0000 without, 1.0000 with" in line
    alone = calibrate.learn(network, known, calibration="none", cleaning="threshold")
    assert alone.spec.thresholds == (12 / 32,)
    assert "cleaning" not in alone.told


def test_a_label_that_no_case_has_keeps_one_half_beside_one_that_gains():
    # Of 90 true pixels 30 lie at 0.4, and no other pixel is above 0.05.
    said = np.array([0.9] * 60 + [0.4] * 30 + [0.05] * 110, np.float32)
    counts = Counts.of(said, np.arange(200) < 90)
    tallies = [Tally.of(f"p{number}", counts) for number in range(5)]
    both = dataclasses.replace(SPEC, labels=("lung", "infection"))
    learnt, chosen = calibrate._above_thresholds(both, ([], tallies))
    assert learnt.thresholds == (0.5, 12 / 32)
    assert [choice.label for choice in chosen] == ["infection"]
    nothing, chosen = calibrate._above_thresholds(both, ([], []))
    assert (nothing, chosen) == (both, [])


def test_a_folds_threshold_comes_from_what_the_others_held_out(phantoms, monkeypatch):
    known = [case for case in cases.load(phantoms) if case.modality == "XR"]
    scans = [cases.read_scan(case) for case in known]
    truth = {
        scan.source: cases.read_mask(case, SPEC.labels, scan.shape).planes
        for case, scan in zip(known, scans, strict=True)
    }
    monkeypatch.setattr(Hesitant, "truth", truth)
    hesitant = Hesitant(tiny_network.build(SPEC, 0).network, SPEC)

    class Sure(Hesitant):
        def probabilities(self, scan):
            return np.where(self.truth[scan.source], 0.9, 0.1).astype(np.float32)

    networks = [hesitant, Sure(hesitant.network, SPEC), Sure(hesitant.network, SPEC)]
    folds = [known[:6], known[6:7], known[7:8]]
    fitted = calibrate.learn_folds(networks, folds, calibration="none")
    # Only the first fold held out enough patients of a network that says too little.
    assert [one.spec.thresholds for one in fitted] == [(), (12 / 32,), (12 / 32,)]
    left = calibrate.learn_folds(networks, folds, calibration="none", cleaning="none")
    assert [one.spec for one in left] == [SPEC] * 3


@pytest.mark.parametrize(
    ("choice", "flips", "scales"),
    [("auto", (), ()), ("flips", ((1,),), ()), ("flips+scales", ((1,),), (0.8, 1.25))],
)
def test_a_run_is_asked_as_its_flags_say(choice, flips, scales, phantoms, tmp_path):
    [planned] = plan.make(TrainConfig(data=phantoms, runs=tmp_path, tta=choice))
    assert (planned.spec.flips, planned.spec.scales) == (flips, scales)


def test_a_manifest_that_has_gone_is_one_line(make_run, tmp_path, capsys):
    run = make_run(tmp_path / "run", USUAL)
    (run / "config.json").write_text(json.dumps({"data": "/nowhere/manifest.csv"}))
    with pytest.raises(SystemExit) as left:
        calibrate.main([str(run)])
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
