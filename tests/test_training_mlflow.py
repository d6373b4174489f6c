import csv
import itertools
import sys

import pytest
from rich import console as rich_console

from data_pipeline.errors import InputError
from models import unet, zoo
from training import config, fit, mlflow_log, plan
from training.callbacks import AskedToStop, Interrupt


@pytest.fixture
def make_plan(phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "_LEAST_STEPS", 6)
    monkeypatch.setitem(zoo.NETWORKS, "unet", lambda spec: unet.build(spec, (4, 6)))

    def make(name, **settings):
        chosen = config.TrainConfig(
            data=phantoms, runs=tmp_path / "runs", cache=tmp_path / "cache", name=name, size=32,
            batch_size=4, precision="float32", epochs=2, mlflow=f"file:{tmp_path}/store",
            **settings,
        )  # fmt: skip
        return plan.make(chosen)[0]

    return make


def train(planned):
    fit.train(planned, rich_console.Console(quiet=True))
    return planned.directory


def test_without_mlflow_it_is_refused_before_anything_is_written(make_plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)  # what makes Python say it is not there
    planned = make_plan("refused")
    with pytest.raises(InputError, match=r"--mlflow needs: pip install --editable '.\[mlflow\]'"):
        train(planned)
    assert not planned.directory.exists()


def test_credentials_are_not_taken_in_the_uri():
    with pytest.raises(InputError, match="put them into MLFLOW_TRACKING_USERNAME"):
        config.TrainConfig(mlflow="https://me:secret@tracking.example")


@pytest.fixture
def client(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return mlflow.MlflowClient(tracking_uri=f"file:{tmp_path}/store")


def only_run(client):
    experiment = client.get_experiment_by_name(mlflow_log.EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_settings_curves_card_and_figure_are_logged(client, make_plan):
    directory = train(make_plan("logged"))
    run = only_run(client)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "logged"
    assert run.data.params["batch_size"] == "4"
    with (directory / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("loss", "val_dice"):
        told = client.get_metric_history(run.info.run_id, name)
        assert [(m.step, m.value) for m in told] == [
            (number, pytest.approx(float(row[name]))) for number, row in enumerate(rows)
        ]
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert files == {"model_card.md", "curves.png", "config.json"}


def test_an_interrupted_training_goes_on_with_its_run(client, make_plan, monkeypatch):
    steps = itertools.count(1)

    def interrupt(self, batch, logs=None):
        if next(steps) == 9:
            raise AskedToStop

    with monkeypatch.context() as context:
        context.setattr(Interrupt, "on_train_batch_end", interrupt)
        with pytest.raises(fit.Interrupted):
            train(make_plan("broken"))
    assert only_run(client).info.status == "KILLED"
    with pytest.raises(InputError, match="holds an earlier run"):
        train(make_plan("broken"))
    assert only_run(client).info.status == "KILLED"
    train(make_plan("broken", resume=True))
    assert only_run(client).info.status == "FINISHED"


def test_what_a_store_does_not_take_later_ends_no_training(client, make_plan, monkeypatch, caplog):
    def refuse(*told, **more):
        raise OSError("no room")

    monkeypatch.setattr(type(client), "log_batch", refuse)
    assert fit.is_finished(train(make_plan("lost")))
    assert "MLflow did not take it: no room" in caplog.text
