import json
import subprocess
import sys
import types

import pytest

from data_pipeline import cases
from data_pipeline.errors import InputError
from evaluation import benchmark


def settings(tmp_path, *flags):
    folders = ["--runs", str(tmp_path / "runs"), "--shown", str(tmp_path / "shown")]
    return benchmark.from_flags([*folders, *flags])


def test_the_training_command_uses_only_flags_that_training_knows(tmp_path):
    # In a process of its own: evaluation must not import training.
    for task in benchmark.TASKS:
        command = benchmark.train_command(settings(tmp_path), task, "unet", resume=True)
        code = (
            "import sys; from training import config; c = config.from_flags(sys.argv[1:]); "
            "print(c.model, c.modality, c.labels, c.folds, c.epochs, c.name)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *command[3:]], capture_output=True, text=True, check=False
        )
        epochs = 96 if task.modality == "XR" else 112
        assert done.stdout.split() == [
            "unet", task.modality, task.label, str(task.folds), str(epochs),
            f"benchmark-{task.name}-unet",
        ], done.stderr  # fmt: skip


def test_a_finished_run_is_used_if_it_was_trained_as_asked_and_refused_otherwise(
    tmp_path, monkeypatch
):
    known = {"epochs": 112, "seed": 0, "data": str(cases.SAMPLE)}
    monkeypatch.setattr(benchmark.runs, "load", lambda path: types.SimpleNamespace(config=known))
    ct = benchmark.TASKS[1]
    path = tmp_path / "runs" / "benchmark-ct-infection-unet"
    manifest = tmp_path.resolve() / "manifest.csv"
    assert benchmark.train(settings(tmp_path), ct, "unet") == path
    in_folder = settings(tmp_path, "--data", str(cases.SAMPLE.parent))  # the same manifest
    assert benchmark.train(in_folder, ct, "unet") == path
    for flags, told in (
        (("--ct-epochs", "32"), "epochs 112, and 32 is asked for"),
        (("--seed", "1"), "seed 0, and 1 is asked for"),
        (("--data", str(tmp_path)), f"data {cases.SAMPLE.resolve()}, and {manifest} is"),
    ):
        with pytest.raises(InputError, match=f"{path} was trained with {told}"):
            benchmark.train(settings(tmp_path, *flags), ct, "unet")


def test_a_row_holds_what_the_summary_says(tmp_path):
    def mean(value):
        return {"mean": {"value": value, "low": value - 0.01, "high": value + 0.01}}

    item = {
        "model": "benchmark-xr-lung-unet",
        "cases": 24,
        "metrics": {"dice": mean(0.95), "accuracy": mean(0.97), "loss": mean(0.08)},
    }
    (tmp_path / "summary.json").write_text(json.dumps({"labels": [item]}))
    row = benchmark.rows_of(benchmark.TASKS[0], tmp_path)[0]
    assert row == (
        "X-ray, lungs", "U-Net", "0.970", "0.080", "0.950 (0.940-0.960)", "24", "0.95", "0.05",
        "0.92",
    )  # fmt: skip
    assert len(row) == len(benchmark.HEADER)


def test_every_model_of_the_table_stands_beside_the_published_figures():
    assert set(benchmark.PUBLISHED) == {"unet", "cnn", benchmark.BASELINE}
    assert benchmark.PUBLISHED["cnn"] == benchmark.Published(accuracy=0.90, loss=0.10, dice=0.85)
    assert benchmark.PUBLISHED["threshold"].loss == 0.25


def test_the_table_goes_between_the_markers_and_nothing_else_changes(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"top\n{benchmark.BEGIN}\nold\n{benchmark.END}\nbottom\n")
    benchmark.put_into(readme, "new\n")
    benchmark.put_into(readme, "newer\n")
    assert readme.read_text() == f"top\n{benchmark.BEGIN}\nnewer\n{benchmark.END}\nbottom\n"


def test_a_readme_without_markers_is_left_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("top\n")
    with pytest.raises(InputError, match="no place for the table"):
        benchmark.put_into(readme, "new\n")
    assert readme.read_text() == "top\n"


def test_an_unknown_task_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown task heart; known: xr-lung, ct-infection"):
        settings(tmp_path, "--tasks", "heart")
