import csv
import json
import sys

import numpy as np
import pytest

from data_pipeline.errors import InputError
from evaluation.speed import training


def write_rows(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "unet"
    write_rows(
        folder / "history.csv",
        {"epoch": 0, "dice": 0.3, "elapsed_s": 30.0, "val_dice": 0.7},
        {"epoch": 1, "dice": 0.6, "elapsed_s": 60.0, "val_dice": 0.9},
    )
    told = {"parameters": 1281489, "steps": 100, "train_seconds": 61.5}
    told |= {"precision_used": "mixed_bfloat16", "seed": 0}
    (folder / "config.json").write_text(json.dumps(told))
    return folder


@pytest.fixture
def rival(tmp_path):
    folder = tmp_path / "rivals" / "BasicUNet"
    write_rows(folder / "history.csv", {"elapsed_s": 45.0, "dice": 0.8})
    (folder / "about.json").write_text(json.dumps({"parameters": 1978433, "steps": 20}))
    return folder


def test_our_curve_is_validation_and_not_training(run):
    assert training.our_curve(run) == training.Curve(
        "unet",
        (30.0, 60.0),
        (0.7, 0.9),
        {
            "parameters": 1281489,
            "steps": 100,
            "train_seconds": 61.5,
            "precision_used": "mixed_bfloat16",
        },
    )


def test_a_rival_s_curve_is_read_with_what_was_done(rival):
    told = {"parameters": 1978433, "steps": 20}
    assert training.rival_curve(rival) == training.Curve("BasicUNet", (45.0,), (0.8,), told)


def test_the_figure_has_a_line_a_network_over_minutes(run, rival):
    curves = [training.our_curve(run), training.rival_curve(rival)]
    [axis] = training.draw(curves, "XR lung, 1 min each").axes
    ours, theirs = axis.lines
    np.testing.assert_array_equal(ours.get_xydata(), [[0.5, 0.7], [1.0, 0.9]])
    np.testing.assert_array_equal(theirs.get_xydata(), [[0.75, 0.8]])
    assert [text.get_text() for text in axis.get_legend().texts] == ["unet", "BasicUNet"]
    assert ours.get_color() != theirs.get_color()
    assert axis.get_title() == "XR lung, 1 min each"


@pytest.mark.parametrize(("lowest", "bottom"), [(0.7, 0.5), (0.27, 0.2), (0.0, 0.0)])
def test_no_part_of_a_curve_is_below_the_figure(lowest, bottom):
    curve = training.Curve("unet", (30.0, 60.0), (lowest, 0.9), {})
    [axis] = training.draw([curve], "").axes
    assert axis.get_ylim() == (bottom, 1.0)
    assert axis.get_xlim()[0] == 0.0


def test_a_single_validation_is_seen_too():
    [axis] = training.draw([training.Curve("unet", (30.0,), (0.9,), {})], "").axes
    assert axis.lines[0].get_marker() == "o"


def test_the_table_has_parameters_steps_and_dice_of_the_test_cases(run, rival, tmp_path):
    estimates = [("unet", 0.9, 0.85, 0.95, 24), ("BasicUNet", 0.8, None, None, 24)]
    labels = [
        {"model": m, "cases": n, "metrics": {"dice": {"mean": {"value": v, "low": a, "high": b}}}}
        for m, v, a, b, n in estimates
    ]
    (tmp_path / "summary.json").write_text(json.dumps({"labels": labels}))
    curves = [training.our_curve(run), training.rival_curve(rival)]
    ours, theirs = training._table(curves, tmp_path)
    assert ours == ("unet", "1,281,489", "100", "0.900 (0.850-0.950)", "24")
    assert theirs[:3] == ("BasicUNet", "1,978,433", "20")
    assert len(training.HEADER) == len(ours)


def test_without_flags_it_is_four_minutes_of_x_rays_for_each_of_three():
    given = training._flags([])
    assert (given.minutes, given.modality, given.labels) == (4.0, "XR", "lung")
    assert (given.models, given.rivals) == ("unet", "BasicUNet,DynUNet")


@pytest.mark.parametrize("wrong", [["--labels", "lung,infection"], ["--minute", "1"]])
def test_several_labels_and_misspelt_flags_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as left:
        training._flags(wrong)
    assert left.value.code == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.fixture
def called(monkeypatch):
    commands = []
    monkeypatch.setattr(training, "_call", commands.append)
    return commands


def following(command, flag):
    return command[command.index(flag) + 1]


def test_ours_and_rivals_are_given_the_same_minutes_and_seed(called, tmp_path):
    flags = ["--minutes", "2", "--seed", "7", "--out", str(tmp_path), "--units", "stored"]
    given = training._flags([*flags, "--modality", "CT", "--labels", "infection"])
    run = training.train_ours(given, "unet")
    folder = training.train_rival(given, run, "DynUNet")
    assert (run, folder) == (tmp_path / "runs/unet", tmp_path / "rivals/DynUNet")
    ours, theirs = called
    for command in (ours, theirs):
        assert command[0] == sys.executable
        assert (following(command, "--minutes"), following(command, "--seed")) == ("2.0", "7")
    assert (following(ours, "--modality"), following(ours, "--units")) == ("CT", "stored")
    # Nothing is learnt from validation that rivals do not learn.
    assert (following(ours, "--calibration"), following(ours, "--cleaning")) == ("none", "none")
    assert following(theirs, "--run") == str(run)


def test_a_training_that_fails_ends_the_measurement():
    with pytest.raises(InputError, match=r"-c import sys; sys.exit\(3\) ended with exit code 3"):
        training._call([sys.executable, "-c", "import sys; sys.exit(3)"])


@pytest.fixture
def monai_training():
    pytest.importorskip("monai", reason="needs: pip install --editable '.[rivals]'")
    from evaluation.speed import monai_training

    return monai_training


def xray_spec(**settings):
    from data_pipeline.spec import InputSpec

    return InputSpec(**({"modality": "XR", "labels": ("lung",), "shape": (32, 32)} | settings))


@pytest.fixture
def trained(tmp_path, phantoms):
    """A run as a rival reads it: of twelve phantoms nine to train on, one to validate."""
    from data_pipeline import cases, split

    folder = tmp_path / "run"
    folder.mkdir()
    xray_spec().save(folder / "spec.json")
    known = cases.load(phantoms)
    names = ["test"] * 2 + ["validation"] + ["train"] * 9
    splits = {case.id: name for case, name in zip(known, names, strict=True)}
    split.save(folder / "splits.csv", known, splits)
    told = {"data": str(phantoms), "cache": str(tmp_path / "cache"), "batch_size": 2}
    (folder / "config.json").write_text(json.dumps(told | {"precision_used": "mixed_bfloat16"}))
    return folder


def test_a_rival_trains_for_a_moment_and_outlines_the_test_cases(monai_training, trained, tmp_path):
    out = tmp_path / "rivals" / "BasicUNet"
    words = ["--run", str(trained), "--network", "BasicUNet", "--minutes", "0.05"]
    monai_training.main([*words, "--out", str(out)])
    curve = training.rival_curve(out)
    assert curve.about["steps"] >= len(curve.dice) >= 1
    assert curve.about["precision"] == "bfloat16 autocast"
    assert list(curve.elapsed_s) == sorted(curve.elapsed_s)
    assert all(0 <= dice <= 1 for dice in curve.dice)
    masks = sorted(path.name for path in (out / "masks").iterdir())
    assert masks == ["phantom-0_lung.png", "phantom-1_lung.png"]


class Clock:
    """Stands in for the module time: nothing takes time but what says so."""

    def __init__(self):
        self.now_s = 100.0

    def monotonic(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch, monai_training):
    clock = Clock()
    monkeypatch.setattr(monai_training, "time", clock)
    return clock


def train_by(clock, monkeypatch, monai_training, *, step_s, validation_s, minutes):
    import torch

    dice = iter(np.linspace(0.1, 0.9, 100))

    def step(*_):
        clock.now_s += step_s

    def validate(*_):
        clock.now_s += validation_s
        return float(next(dice))

    monkeypatch.setattr(monai_training, "_step", step)
    monkeypatch.setattr(monai_training, "_validate", validate)
    samples = iter(lambda: {}, None)
    net = torch.nn.Conv2d(1, 1, 1)
    return monai_training.train(net, samples, None, minutes=minutes, batch_size=1)


def test_validation_is_part_of_a_rival_s_minutes(clock, monkeypatch, monai_training):
    history, steps = train_by(
        clock, monkeypatch, monai_training, step_s=1.0, validation_s=1.0, minutes=160 / 60
    )
    # Due every 10 s: ten steps, then one second of validation, time and again; the last one,
    # after a few steps of a 15th turn, ends with the minutes.
    assert [row["elapsed_s"] for row in history] == [11.0 * n for n in range(1, 15)] + [160.0]
    assert steps == 160 - 15


def test_a_slow_validation_comes_less_often(clock, monkeypatch, monai_training):
    history, steps = train_by(
        clock, monkeypatch, monai_training, step_s=1.0, validation_s=4.0, minutes=160 / 60
    )
    # A tenth of the time at most: 40 s of steps between two of 4 s.
    assert [row["elapsed_s"] for row in history] == [14.0, 58.0, 102.0, 146.0, 160.0]
    assert steps == 160 - 5 * 4


def test_ct_is_turned_as_ours_and_x_rays_are_not(monai_training):
    def kinds(**settings):
        composed = monai_training.augmentation(xray_spec(**settings))
        return [type(one).__name__ for one in composed.transforms]

    ct = {"modality": "CT", "units": "HU", "window": (-1000.0, 400.0)}
    assert kinds().count("RandFlipd") == 1
    assert "RandRotate90d" not in kinds()
    assert kinds(**ct).count("RandFlipd") == 2
    assert "RandRotate90d" in kinds(**ct)
    assert "RandRotate90d" not in kinds(**ct, shape=(32, 48))


def test_an_x_ray_is_mirrored_from_left_to_right_only(monai_training):
    [flip] = [
        one
        for one in monai_training.augmentation(xray_spec()).transforms
        if type(one).__name__ == "RandFlipd"
    ]
    assert flip.flipper.spatial_axis == 1


def test_a_rival_answers_with_the_mean_of_the_views_that_our_run_has(monai_training):
    import torch

    class LeftHalf(torch.nn.Module):
        """Says lung with 0.5 on the right, and with a probability of 0.9 on the left."""

        def forward(self, images):
            logits = torch.zeros_like(images)
            logits[..., : images.shape[-1] // 2] = np.log(0.9 / 0.1)
            return logits

    shown = np.zeros((1, 2, 4, 1), np.float32)
    once = monai_training._predictor(LeftHalf(), xray_spec(shape=(2, 4)))(shown)
    np.testing.assert_allclose(once[0, :, :, 0], [[0.9, 0.9, 0.5, 0.5]] * 2, rtol=1e-6)
    # Unmoved, and mirrored along rows, columns and both: two say left, two say right.
    views = monai_training._predictor(
        LeftHalf(), xray_spec(shape=(2, 4), flips=((0,), (1,), (0, 1)))
    )(shown)
    np.testing.assert_allclose(views[0, :, :, 0], np.full((2, 4), 0.7), rtol=1e-6)


def test_a_rival_is_asked_as_our_run_without_what_that_learnt(monai_training, tmp_path):
    plain = xray_spec(flips=((1,),))
    xray_spec(flips=((1,),), thresholds=(0.4,), temperatures=((2.0,),)).save(tmp_path / "spec.json")
    assert monai_training.rival_spec(tmp_path) == plain


def test_a_run_on_tiles_is_refused(monai_training, tmp_path):
    xray_spec(frame=(64, 64), window=(0.0, 255.0)).save(tmp_path / "spec.json")
    with pytest.raises(InputError, match=r"tiles of \(32, 32\) of frames of \(64, 64\)"):
        monai_training.rival_spec(tmp_path)


def test_what_nobody_outlined_is_background_to_a_rival(monai_training):
    class Store:
        def image(self, number):
            return np.zeros((2, 2, 1), np.float16)

        def target(self, number):
            return np.array([[[0], [127]], [[254], [255]]], np.uint8)

    image, target = monai_training._pair(Store(), 0)
    assert image.shape == (1, 2, 2)
    np.testing.assert_array_equal(target, [[[0.0, 0.5], [1.0, 0.0]]])


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", "float32"), ("bfloat16", "bfloat16")]
)
def test_a_rival_computes_in_bfloat16_where_asked_and_answers_in_float32(
    monai_training, precision, expected
):
    import torch

    computed = []
    net = torch.nn.Conv2d(1, 1, 1)
    net.register_forward_hook(lambda module, given, answer: computed.append(str(answer.dtype)))
    answers = monai_training._answers(net, torch.zeros(1, 1, 4, 4), getattr(torch, precision))
    assert computed == [f"torch.{expected}"]
    assert answers.dtype == torch.float32


def test_of_several_heads_each_counts_half_the_one_before(monai_training):
    import torch

    targets = torch.zeros(1, 1, 4, 4)
    targets[..., :2] = 1
    right, wrong = 20 * (targets - 0.5), 20 * (0.5 - targets)
    good, bad = monai_training._loss(right, targets), monai_training._loss(wrong, targets)
    heads = torch.stack([right, wrong, wrong], dim=1)
    # (1 good + 1/2 bad + 1/4 bad) / (7/4)
    torch.testing.assert_close(monai_training._loss(heads, targets), (4 * good + 3 * bad) / 7)


def test_validation_is_the_mean_dice_of_frames_that_hold_anything(monai_training):
    import torch

    class Store:
        images = (np.eye(2), np.ones((2, 2)), np.zeros((2, 2)))
        targets = (np.eye(2), np.eye(2), np.zeros((2, 2)))

        def __len__(self):
            return 3

        def image(self, number):
            return self.images[number][..., None].astype(np.float16)

        def target(self, number):
            return (254 * self.targets[number][..., None]).astype(np.uint8)

    class Bright(torch.nn.Module):
        """Says lung where it is white."""

        def forward(self, images):
            return images - 0.5

    # 1 for the same, 2 * 2 / (4 + 2) for twice as many pixels, and nothing for two empty ones.
    for batch_size in (1, 2, 8):
        dice = monai_training._validate(Bright(), Store(), batch_size, torch.float32)
        assert dice == pytest.approx((1 + 2 / 3) / 2)
