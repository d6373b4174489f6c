import collections
import csv
import dataclasses
import importlib.metadata
import itertools
import json
import pathlib
import platform
import signal
import subprocess
import sys
import textwrap
import time
import types

import numpy as np
import pytest
import tensorflow as tf
from rich import console as rich_console

from data_pipeline import cases, machine
from data_pipeline import spec as specs
from data_pipeline.errors import InputError
from models import segmenter, zoo
from training import backup, budget, calibrate, cleanup, config, fit, plan, record, run
from training.callbacks import AskedToStop, Interrupt

pytestmark = pytest.mark.usefixtures("tiny_training")


def train(planned):
    fit.train(planned, rich_console.Console(quiet=True))
    return planned.directory


def curve(directory):
    """What history.csv says of each epoch, but for the time it took."""
    return [{k: v for k, v in row.items() if k != "elapsed_s"} for row in history(directory)]


def history(directory):
    with (directory / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_all_that_evaluation_and_export_read(make_plan):
    directory = train(make_plan("whole"))
    network = segmenter.load(directory)
    settings = json.loads((directory / "config.json").read_text())
    assert network.spec == specs.load(directory / "spec.json")
    assert settings["seed"] == 0
    assert settings["parameters"] == network.network.count_params()
    assert settings["steps"] == 12
    first, second = history(directory)
    assert 0 < float(first["elapsed_s"]) < float(second["elapsed_s"]) <= settings["train_seconds"]
    card = (directory / "model_card.md").read_text()
    assert "not for diagnosis" in card
    assert f"- lung: Dice {settings['answers']['validation']['lung']['dice']:.3f} (" in card
    assert list((directory / "logs").rglob("*tfevents*"))
    assert (directory / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not (directory / "backup").exists()


def test_a_run_says_from_what_on_what_and_how_long_it_was_trained(make_plan):
    planned = make_plan("told", seed=3)
    told = json.loads((train(planned) / "config.json").read_text())
    assert told["seed"] == 3
    assert told["data_sha256"] == record.data_hash(planned.cases)
    asked = ["git", "rev-parse", "HEAD"]
    found = subprocess.run(
        asked, cwd=pathlib.Path(record.__file__).parent, capture_output=True, text=True, check=False
    )
    assert told["git_commit"].removesuffix("-dirty") == found.stdout.strip()
    versions = {
        name: importlib.metadata.version(name)
        for name in ("tensorflow", "keras", "numpy", "pandas", "imagecodecs", "scikit-image")
    }
    assert versions.items() <= told["versions"].items()
    assert told["versions"]["python"] == platform.python_version()
    assert told["device"].startswith("1 x CPU, one device; ")
    assert told["device"].endswith(f"{machine.processor()}, cores: {len(machine.cores())}")
    assert told["xla"] == "off"
    assert {"reading", "building", "training", "calibration", "total"} <= set(told["timings_s"])
    assert all(seconds >= 0 for seconds in told["timings_s"].values())


def test_the_loss_falls_and_the_phantoms_lungs_are_found(make_plan):
    planned = make_plan("learns", epochs=12, learning_rate=2e-2)
    directory = train(planned)
    losses = [float(row["loss"]) for row in history(directory)]
    case = planned.part("test")[0]
    scan = cases.read_scan(case)
    truth = cases.read_mask(case, ("lung",), scan.shape).planes[0]
    found = segmenter.load(directory).probabilities(scan)[0] > 0.5
    assert losses[-1] < 0.6 * losses[0]
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8


def test_the_same_seed_gives_the_same_curve_and_weights(make_plan):
    first, again = train(make_plan("first")), train(make_plan("again"))
    assert curve(first) == curve(again)
    for a, b in zip(weights(first), weights(again), strict=True):
        np.testing.assert_array_equal(a, b)


def weights(directory):
    return segmenter.load(directory).network.get_weights()


def test_a_run_interrupted_in_mid_epoch_resumes_to_weights_and_curve_of_a_whole_one(
    make_plan, monkeypatch
):
    whole = train(make_plan("whole", ema=0.9))
    planned = make_plan("broken", ema=0.9)
    steps = itertools.count(1)

    def interrupt(self, batch, logs=None):
        if next(steps) == 9:  # in the middle of the second epoch
            raise AskedToStop

    with monkeypatch.context() as context:
        context.setattr(Interrupt, "on_train_batch_end", interrupt)
        with pytest.raises(fit.Interrupted):
            train(planned)
    assert not fit.is_finished(planned.directory)
    resumed = train(make_plan("broken", ema=0.9, resume=True))
    assert curve(whole) == curve(resumed)
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_earlier_run_is_not_lost_unless_told_so(make_plan):
    directory = train(make_plan("kept"))
    with pytest.raises(InputError, match=r"kept holds an earlier run; .*--overwrite"):
        train(make_plan("kept"))
    assert fit.is_finished(directory)
    fit.clear(directory)
    assert not directory.exists()


def test_only_a_run_is_deleted(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is no run, so --overwrite does not delete it"):
        fit.clear(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_an_interrupted_cross_validation_goes_on_with_folds_not_begun(phantoms, tmp_path):
    settings = config.TrainConfig(
        data=phantoms, runs=tmp_path / "runs", cache=tmp_path / "cache", name="cv", folds=2,
        size=32, batch_size=4, precision="float32", epochs=1,
    )  # fmt: skip
    train(plan.make(settings)[0])
    second = plan.make(dataclasses.replace(settings, resume=True))[1]
    assert fit.is_finished(train(second))


def test_a_cross_validation_goes_on_only_if_its_finished_folds_were_trained_as_asked(
    phantoms, tmp_path, capsys
):
    flags = (
        f"--data {phantoms} --runs {tmp_path}/runs --cache {tmp_path}/cache --name cv --folds 2 "
        "--size 32 --batch-size 4 --precision float32 --epochs"
    ).split()
    train(plan.make(config.from_flags([*flags, "1"]))[0])
    with pytest.raises(SystemExit) as left:
        run.main([*flags, "2", "--resume"])
    assert left.value.code == 2
    assert "fold0 was started with --epochs 1, not 2; resume with" in capsys.readouterr().err


@pytest.fixture
def ctrl_c_is_heard():
    """What a shell starts in its background ignores Ctrl-C, tests included."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_ctrl_c_waits_until_the_step_is_counted():
    interrupt = Interrupt()
    interrupt.set_model(types.SimpleNamespace(stop_training=False))
    with interrupt.after_step():
        signal.raise_signal(signal.SIGINT)
        interrupt.model.stop_training = True
        interrupt.on_train_batch_end(0)  # the end of an epoch: its validation comes first
        interrupt.model.stop_training = False
        with pytest.raises(AskedToStop):
            interrupt.on_epoch_end(0)
        with pytest.raises(AskedToStop):
            interrupt.on_train_batch_end(0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_is_resumed_with_its_own_settings_only(make_plan):
    train(make_plan("kept"))
    with pytest.raises(InputError, match="started with --seed 0, not 1"):
        train(make_plan("kept", seed=1, resume=True))
    with pytest.raises(InputError, match="holds no run to resume"):
        train(make_plan("never", resume=True))


def test_a_budget_of_minutes_ends_a_run_and_its_seconds_are_told(make_plan):
    directory = train(make_plan("short", epochs=None, minutes=0.3))
    settings = json.loads((directory / "config.json").read_text())
    timings = settings["timings_s"]
    assert timings["total"] == settings["train_seconds"] > 0.3 * 60 / 2
    assert {"reading", "building", "validation", "calibration", "training"} < set(timings)
    parts = sum(seconds for name, seconds in timings.items() if name != "total")
    assert parts == pytest.approx(timings["total"], abs=0.3)  # of rounding


@pytest.fixture
def train_for_a_minute(make_plan, monkeypatch):
    """Trains, and returns config.json, where steps and answers take seconds to be counted."""
    now = [1000.0]

    def passes(seconds, does):
        def slow(*told, **more):
            now[0] += seconds
            return does(*told, **more)

        return slow

    for owner, name, seconds in (
        (Interrupt, "on_train_batch_end", 0.5),  # a step
        (segmenter.folding, "fold", 2.0),
        (segmenter.Network, "probabilities", 4.0),
        (cleanup, "learn", 1.0),
    ):
        monkeypatch.setattr(owner, name, passes(seconds, getattr(owner, name)))

    def train_for_a_minute():
        with monkeypatch.context() as clock:
            clock.setattr(time, "monotonic", lambda: now[0])
            directory = train(make_plan("planned", epochs=None, minutes=1))
        return json.loads((directory / "config.json").read_text())

    return train_for_a_minute


def test_calibration_and_post_processing_end_within_the_budget(train_for_a_minute):
    settings = train_for_a_minute()
    timings = settings["timings_s"]
    assert timings["planning"] == 2 + 4 + 4 + 1
    assert timings["calibration"] == 2 + 2 * 4 + 1  # two validation cases
    # Held back for them: 2 s to fold, 4 s for the first answer and 1.2 times 5 s a case;
    # of so few patients no threshold can be kept, which would ask for all of them once more.
    assert settings["steps"] == pytest.approx((60 - 11 - 18) / 0.5, abs=2)
    assert timings["total"] == pytest.approx(60 - 18 + 11, abs=1)
    assert settings["answers"]["learnt_from"] == "2 validation cases"


def test_a_small_budget_is_spent_on_steps_rather_than_on_all_of_validation(
    train_for_a_minute, monkeypatch
):
    monkeypatch.setattr(budget, "_LEAST_CASES", 1)
    settings = train_for_a_minute()
    # 6 s until the first answer and 6 s a case: of 49 s, one takes 12, two more than a quarter.
    assert settings["timings_s"]["calibration"] == 2 + 4 + 1
    assert settings["steps"] == pytest.approx((60 - 11 - 12) / 0.5, abs=2)
    told = settings["answers"]
    assert told["learnt_from"] == "1 of 2 validation cases, for want of time"
    assert told["calibration"]["lung"]["cases"] == 1


def test_a_network_is_built_twice_and_folded_twice(train_for_a_minute, monkeypatch):
    counts = collections.Counter()

    def counted(name, does):
        return lambda *told: counts.update([name]) or does(*told)

    monkeypatch.setitem(zoo.NETWORKS, "unet", counted("built", zoo.NETWORKS["unet"]))
    monkeypatch.setattr(segmenter.folding, "fold", counted("folded", segmenter.folding.fold))
    train_for_a_minute()
    # In float32 to be described, timed and saved, and to be trained; timed, and asked in the end.
    assert counts == {"built": 2, "folded": 2}


def test_a_half_written_backup_is_not_taken_for_one(tmp_path):
    variable = tf.Variable([1.0, 2.0])
    state = backup.State(50, 3.5, {"reading": 1.0}, 0.25, 0)
    backup.save(tmp_path, [variable], state)
    (tmp_path / ".unfinished-1").mkdir()
    (tmp_path / ".unfinished-1" / "state.npz").write_bytes(b"half")
    found, values = backup.load(tmp_path)
    assert found == state
    np.testing.assert_array_equal(values, [[1.0, 2.0]])
    assert backup.load(tmp_path / "nowhere") is None


def test_two_devices_train_and_resume_one_network_under_mirrored_strategy(
    phantoms, tmp_path, make_plan
):
    script = f"""
        import dataclasses
        import pathlib
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        from rich import console
        from models import unet, zoo
        from training import callbacks, config, device, fit, plan
        fit._LEAST_STEPS = 6
        zoo.NETWORKS["unet"] = lambda spec: unet.build(spec, (4, 6))
        (planned,) = plan.make(config.TrainConfig(
            data=pathlib.Path({str(phantoms)!r}), runs=pathlib.Path({str(tmp_path)!r}), name="two",
            cache=pathlib.Path({str(tmp_path / "cache")!r}), size=32, batch_size=2, epochs=1,
            precision="float32"))
        step = callbacks.Interrupt.on_train_batch_end
        def interrupt(self, batch, logs=None):
            raise callbacks.AskedToStop
        callbacks.Interrupt.on_train_batch_end = interrupt
        try:
            fit.train(planned, console.Console(quiet=True))
        except fit.Interrupted:
            callbacks.Interrupt.on_train_batch_end = step
        again = dataclasses.replace(planned.config, resume=True)
        fit.train(dataclasses.replace(planned, config=again), console.Console(quiet=True))
        print(device.describe(device.strategy()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.lstrip().startswith("2 x CPU, MirroredStrategy; ")
    assert float(history(tmp_path / "two")[0]["loss"]) < 2
    # A step of one device would be of half as many samples.
    other = make_plan("two", runs=tmp_path, batch_size=2, epochs=1, resume=True)
    with pytest.raises(InputError, match=r"two was started on 2 device\(s\), not 1: .* as many"):
        train(other)


def test_validation_on_two_devices_gives_the_numbers_of_one(phantoms, tmp_path):
    script = f"""
        import json
        import pathlib
        import keras
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        from data_pipeline import batches, cases, frames
        from data_pipeline.spec import InputSpec
        from models import unet
        from training import device, losses, metrics, trainee
        spec = InputSpec("XR", ("lung", "infection"), (32, 32))
        five = cases.load(pathlib.Path({str(phantoms)!r}))[:5]
        store = frames.open_store(five, spec, pathlib.Path({str(tmp_path)!r}))
        for strategy in (tf.distribute.get_strategy(), device.strategy()):
            stream = batches.distributed(strategy, lambda shard: batches.whole(
                store, spec, batch_size=4, shard=shard))
            with strategy.scope():
                keras.utils.set_random_seed(0)
                model = trainee.Trainee(unet.build(spec, (4, 6)), spec.labels)
                dice = metrics.CaseDice(None, "dice")
                model.compile("sgd", losses.make("dice_ce"), metrics=[dice], jit_compile=False)
                told = model.evaluate(stream, steps=2, return_dict=True, verbose=0)
            images, _ = next(iter(stream))
            told["images"] = [len(part) for part in strategy.experimental_local_results(images)]
            print(json.dumps(told | {{"pixels": model.counts.pixels.numpy().tolist()}}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = map(json.loads, done.stdout.splitlines())
    assert (one["images"], two["images"]) == ([4], [2, 2])
    # Five frames: of the last batch the second device has none of its own.
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert two["dice"] == pytest.approx(one["dice"], rel=1e-6)
    assert two["pixels"] == one["pixels"]


def test_a_budget_that_ends_before_the_first_step_is_refused(make_plan):
    with pytest.raises(InputError, match=r"--minutes 1e-06 leaves no time for a first step"):
        train(make_plan("none", epochs=None, minutes=1e-6))


def test_a_budget_that_is_held_back_whole_trains_no_network(make_plan, monkeypatch):
    monkeypatch.setattr(calibrate, "cost", lambda *told, **more: calibrate.Cost(700.0, 0.0))
    planned = make_plan("none", epochs=None, minutes=10)
    told = r"7\d\d s are held back .*\(700 s .*\); give it more than 1\d.*, or --calibration none"
    with pytest.raises(InputError, match=told):
        train(planned)
    assert not fit.is_finished(planned.directory)
