"""Processes that TF_CONFIG names train one network; here two of them, on loopback."""

import csv
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from data_pipeline import ports
from models import segmenter
from training import run

# What each process runs: the command, with short epochs. It notes the weights that it ends with,
# and which files it opened to write to.
WORKER = """
    import itertools, os, pathlib, signal, sys, types
    from data_pipeline import quiet_tensorflow
    import numpy as np
    import tensorflow as tf
    from models import unet, zoo
    from training import callbacks, fit, run
    {before}
    out, *flags = sys.argv[1:]
    fit._LEAST_STEPS = 6
    zoo.NETWORKS["unet"] = lambda spec: unet.build(spec, (4, 6))
    kept, set_up, wrote = [], fit._set_up, set()
    fit._set_up = lambda *told: kept.append(set_up(*told)) or kept[-1]
    sys.addaudithook(lambda event, told: event == "open" and isinstance(told[0], str)
        and told[1] not in (None, "r", "rb") and wrote.add(told[0]))
    run.main(flags)
    np.savez(out, *(weight.numpy() for one in kept for weight in one.model.weights))
    pathlib.Path(out).with_suffix(".txt").write_text("\\n".join(sorted(wrote)))
    pathlib.Path(out).with_suffix(".steps").write_text(str([one.pace.step for one in kept]))
"""
TWO_DEVICES = """
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
"""
DIES = """
    steps = itertools.count(1)
    callbacks.Interrupt.on_train_batch_end = lambda self, batch, logs=None: (
        os.kill(os.getpid(), signal.SIGKILL) if next(steps) == {step} else None)
"""
DIES_IN_THE_SECOND_EPOCH = DIES.format(step=9)
DIES_IN_THE_SECOND_FOLD = DIES.format(step=3 * 6 + 9)
# A clock that goes on by as many seconds each time somebody looks at it.
CLOCK = """
    from training import pace
    looks = itertools.count()
    run.time = pace.time = types.SimpleNamespace(monotonic=lambda: {seconds} * next(looks))
"""


class Machine:
    """Starts trainings that share a folder."""

    def __init__(self, folder, phantoms):
        self.folder, self.phantoms = folder, phantoms

    def start(self, out, *flags, before="", **environment):
        script = textwrap.dedent(WORKER.format(before=before.strip()))
        settings = {
            "--data": self.phantoms, "--runs": self.folder / "runs", "--size": 32,
            "--cache": self.folder / "cache", "--batch-size": 2,
            "--precision": "float32", "--ema": 0.9,
        }  # fmt: skip
        words = [word for pair in settings.items() for word in pair]
        words += () if "--minutes" in flags else ("--epochs", 3)
        return subprocess.Popen(
            [*map(str, (sys.executable, "-c", script, self.folder / out, *words, *flags))],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start_two(self, name, *flags, before=("", "")):
        cluster = {"worker": [f"localhost:{port}" for port in ports.free_ports(2)]}
        return [
            self.start(f"{name}{index}.npz", "--name", name, *flags, before=before[index],
                TF_CONFIG=json.dumps(
                    {"cluster": cluster, "task": {"type": "worker", "index": index}}))
            for index in range(2)
        ]  # fmt: skip

    def weights(self, out):
        with np.load(self.folder / f"{out}.npz") as saved:
            return [saved[name] for name in saved.files]

    def steps(self, out):
        return json.loads((self.folder / f"{out}.steps").read_text())

    def curve(self, name):
        with (self.folder / "runs" / name / "history.csv").open() as file:
            rows = list(csv.DictReader(file))
        return [[float(v) for k, v in row.items() if k != "elapsed_s"] for row in rows]


def all_finished(workers):
    """Waits for all, and returns what each said; what one says is why another was lost."""
    codes, told = zip(*map(ended, workers), strict=True)
    assert codes == (0, 0), "\n".join(words[-3000:] for words in told)
    return told


def ended(process):
    told, _ = process.communicate(timeout=600)
    return process.returncode, told


@pytest.fixture(scope="module")
def machine(tmp_path_factory, phantoms):
    return Machine(tmp_path_factory.mktemp("workers"), phantoms)


@pytest.fixture(scope="module")
def two(machine):
    """The processes of a finished training by two workers."""
    workers = machine.start_two("two")
    all_finished(workers)
    return workers


@pytest.mark.slow
@pytest.mark.timeout(1800)  # three processes
def test_two_workers_train_the_network_that_two_devices_of_one_machine_train(machine, two):
    code, told = ended(machine.start("single.npz", "--name", "single", before=TWO_DEVICES))
    assert code == 0, told[-3000:]
    for a, b in zip(machine.weights("two0"), machine.weights("two1"), strict=True):
        np.testing.assert_array_equal(a, b)
    # The same batches, whose gradients are added up in another order.
    assert len(machine.curve("two")) == 3
    np.testing.assert_allclose(machine.curve("two"), machine.curve("single"), rtol=1e-5)
    for a, b in zip(machine.weights("two0"), machine.weights("single"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_first_worker_alone_writes_the_run_directory(machine, two):
    directory = machine.folder / "runs" / "two"
    segmenter.load(directory)
    settings = json.loads((directory / "config.json").read_text())
    assert settings["device"].startswith("2 x CPU on 2 workers, MultiWorkerMirroredStrategy; ")
    chief, other = ((machine.folder / f"two{index}.txt").read_text() for index in range(2))
    assert f"{directory}/history.csv" in chief
    assert str(directory) not in other
    # TensorFlow writes without Python, and puts the process into a file's name.
    logs = list(directory.rglob("*tfevents*"))
    assert logs
    assert all(f".{two[0].pid}." in log.name for log in logs)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_worker_ends_the_other_in_words_and_both_resume(machine, two, lost):
    name = f"lost{lost}_"
    before = ["", ""]
    before[lost] = DIES_IN_THE_SECOND_EPOCH
    workers = machine.start_two(name, before=before)
    code, told = ended(workers[1 - lost])
    assert ended(workers[lost])[0] < 0
    assert code == 2, told[-3000:]
    assert "\nerror: another worker of TF_CONFIG was lost" in told
    assert "Traceback" not in told
    all_finished(machine.start_two(name, "--resume"))
    assert machine.curve(name) == machine.curve("two")
    for a, b in zip(machine.weights(f"{name}0"), machine.weights("two0"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # five processes
def test_two_workers_cross_validate_and_resume_as_two_devices_of_one_machine_do(machine):
    folds = ("--folds", "2")
    for worker in machine.start_two("cv", *folds, before=(DIES_IN_THE_SECOND_FOLD, "")):
        ended(worker)
    runs = machine.folder / "runs"
    assert (runs / "cv" / "fold0" / "network.keras").exists()
    assert not (runs / "cv" / "fold1" / "network.keras").exists()
    for told in all_finished(machine.start_two("cv", *folds, "--resume")):
        assert "fold 2 of 2" in told
        assert "fold 1 of 2" not in told
    code, told = ended(machine.start("cv_single.npz", "--name", "cv1", *folds, before=TWO_DEVICES))
    assert code == 0, told[-3000:]
    for fold in ("fold0", "fold1"):
        both = [segmenter.load(runs / name / fold).network for name in ("cv", "cv1")]
        for a, b in zip(*(network.get_weights() for network in both), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        of_two, of_one = (
            json.loads((runs / name / fold / "config.json").read_text()) for name in ("cv", "cv1")
        )
        assert of_two["steps"] == 18
        (one,), (two,) = (s["spec"]["temperatures"] for s in (of_one, of_two))
        assert two == pytest.approx(one, rel=1e-3)  # fitted on the cases of the other fold
    assert json.loads((runs / "cv" / "config.json").read_text())["folds"] == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_workers_whose_clocks_differ_end_a_budget_after_the_same_step(machine):
    clocks = (CLOCK.format(seconds=2), CLOCK.format(seconds=70))
    flags = ("--minutes", "5")
    all_finished(machine.start_two("minutes", *flags, before=clocks))
    settings = json.loads((machine.folder / "runs" / "minutes" / "config.json").read_text())
    assert machine.steps("minutes0") == machine.steps("minutes1") == [settings["steps"]]
    assert settings["steps"] > 6  # an epoch; by the other's clock the budget ends within five looks
    for a, b in zip(machine.weights("minutes0"), machine.weights("minutes1"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_budget_without_a_first_step_ends_all_workers_in_words(machine):
    told = []
    for worker in machine.start_two("none", "--minutes", "1e-6"):
        code, words = ended(worker)
        assert code == 2, words[-3000:]
        assert "Traceback" not in words
        told.append(words)
    assert "error: --minutes 1e-06 leaves no time for a first step" in told[0]
    assert "error: the first worker has no time left for a first step" in told[1]


def test_several_workers_without_a_name_are_refused(monkeypatch, capsys):
    two = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(two))
    with pytest.raises(SystemExit, match="2"):
        run.main(["--epochs", "1"])
    assert "several workers need a --name" in capsys.readouterr().err
