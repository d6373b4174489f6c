import json
import subprocess
import sys

import pytest

from training import run


def test_threshold_has_nothing_to_train_and_says_what_to_run(capsys):
    with pytest.raises(SystemExit) as left:
        run.main(["--model", "threshold"])
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: threshold has nothing to train")
    assert "python -m evaluation.run RUN threshold" in told
    assert told.count("\n") == 1


def test_data_that_is_not_there_is_one_line_and_exit_code_two(capsys, tmp_path):
    with pytest.raises(SystemExit) as left:
        run.main(["--data", str(tmp_path / "nowhere.csv")])
    assert left.value.code == 2
    assert "nowhere.csv does not exist" in capsys.readouterr().err


def test_the_command_trains_and_says_what_comes_next(phantoms, tmp_path):
    command = [sys.executable, "-m", "training.run", "--model", "cnn", "--data", phantoms]
    flags = ["--epochs", "1", "--size", "32", "--name", "it", "--runs", tmp_path / "runs"]
    done = subprocess.run(
        [*map(str, [*command, *flags, "--cache", tmp_path / "cache"])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "12 XR cases of 12 patients" in done.stdout
    assert "8 train, 2 validation, 2 test (by patient, seed 0)" in done.stdout
    assert f"next: python -m evaluation.run {tmp_path}/runs/it threshold" in done.stdout
    assert (tmp_path / "runs" / "it" / "network.keras").exists()
    assert ", XLA " in done.stdout
    told = json.loads((tmp_path / "runs" / "it" / "config.json").read_text())
    assert "deriving" in told["timings_s"]  # the look at the data counts too
