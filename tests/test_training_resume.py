"""Kills real trainings with SIGKILL, which nothing in them can answer, and lets them go on."""

import csv
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from models import segmenter

STEPS_AN_EPOCH = 50  # the least that training.fit makes of an epoch


@pytest.fixture
def start(phantoms, tmp_path):
    def start(name, *flags):
        command = [sys.executable, "-m", "training.run", "--model", "light", "--data", phantoms]
        command += ["--runs", tmp_path, "--cache", tmp_path / "cache", "--name", name]
        command += ["--epochs", 2, "--size", 32, "--ema", 0.9, "--precision", "float32"]
        command += ["--backup-seconds", 0, *flags]
        return subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)

    return start


def newest_step(backup: pathlib.Path) -> int:
    return max((int(path.name[5:]) for path in backup.glob("step-*")), default=0)


def kill_when(process, condition) -> bool:
    """Stops the process when it looks so, and kills it if that still holds when it stands."""
    while process.poll() is None:
        if condition():
            process.send_signal(signal.SIGSTOP)
            while "(stopped)" not in pathlib.Path(f"/proc/{process.pid}/status").read_text():
                time.sleep(0.001)
            if condition():
                process.kill()
                process.wait()
                return True
            process.send_signal(signal.SIGCONT)
        time.sleep(0.001)
    return False


def curve(run: pathlib.Path) -> list[dict[str, str]]:
    with (run / "history.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "elapsed_s"} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.timeout(3000)  # four processes on a machine that may be busy
@pytest.mark.skipif(not pathlib.Path("/proc").exists(), reason="looks at Linux' /proc")
def test_a_run_killed_in_mid_epoch_and_in_mid_backup_ends_with_the_weights_of_a_whole_one(
    start, tmp_path
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    backup = broken / "backup"

    def in_mid_epoch():
        return newest_step(backup) > 60 and newest_step(backup) % STEPS_AN_EPOCH

    def in_mid_backup():
        return newest_step(backup) > 70 and any(backup.glob(".unfinished-*"))

    assert start("whole").wait() == 0
    assert kill_when(start("broken"), in_mid_epoch)
    assert kill_when(start("broken", "--resume"), in_mid_backup)
    assert any(backup.glob(".unfinished-*"))
    assert start("broken", "--resume").wait() == 0
    assert len(curve(whole)) == 2
    assert curve(broken) == curve(whole)
    trained = [segmenter.load(run).network.get_weights() for run in (whole, broken)]
    for a, b in zip(*trained, strict=True):
        np.testing.assert_array_equal(a, b)
