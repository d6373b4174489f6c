import csv
import itertools
import math
import sys

import fake_mlflow
import pytest
from rich import console as rich_console

from data_pipeline.errors import InputError
from training import config, fit, mlflow_log, plan
from training.callbacks import AskedToStop, Interrupt


@pytest.fixture
def uri(tmp_path):
    return f"file:{tmp_path}/store"


@pytest.fixture(params=["fake", "real"])
def client(request, uri, monkeypatch):
    if request.param == "fake":
        monkeypatch.setitem(sys.modules, "mlflow", fake_mlflow)
        return fake_mlflow.MlflowClient(tracking_uri=uri)
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return mlflow.MlflowClient(tracking_uri=uri)


def train(planned):
    fit.train(planned, rich_console.Console(quiet=True))
    return planned.directory


@pytest.fixture
def logged(tmp_path, uri):
    """Logs a block as if it were a training, in the run directory tmp_path."""
    return lambda: mlflow_log.logged(uri, tmp_path, "one", {"seed": 0})


def only_run(client):
    experiment = client.get_experiment_by_name(mlflow_log.EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_without_mlflow_it_is_refused_before_anything_is_written(make_plan, uri, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)  # what makes Python say it is not there
    planned = make_plan("refused", mlflow=uri)
    with pytest.raises(InputError, match=r"--mlflow needs: pip install --editable '.\[mlflow\]'"):
        train(planned)
    assert not planned.directory.exists()


def test_settings_curves_card_and_figure_are_logged(client, make_plan, uri):
    directory = train(make_plan("logged", mlflow=uri))
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


def test_an_interrupted_training_goes_on_with_its_run(client, make_plan, uri, monkeypatch):
    steps = itertools.count(1)

    def interrupt(self, batch, logs=None):
        if next(steps) == 9:
            raise AskedToStop

    with monkeypatch.context() as context:
        context.setattr(Interrupt, "on_train_batch_end", interrupt)
        with pytest.raises(fit.Interrupted):
            train(make_plan("broken", mlflow=uri))
    assert only_run(client).info.status == "KILLED"
    with pytest.raises(InputError, match="holds an earlier run"):
        train(make_plan("broken", mlflow=uri))
    assert only_run(client).info.status == "KILLED"
    train(make_plan("broken", mlflow=uri, resume=True))
    assert only_run(client).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("stopped", "status"),
    [
        (InputError, "FAILED"),
        (MemoryError, "FAILED"),
        (KeyboardInterrupt, "KILLED"),
        (fit.Interrupted, "KILLED"),
    ],
)
def test_what_broke_has_failed_and_what_was_stopped_was_killed(client, logged, stopped, status):
    def end(log):
        log.on_train_begin()
        raise stopped

    with pytest.raises(stopped), logged() as (log,):
        end(log)
    assert only_run(client).info.status == status


def test_an_experiment_that_was_deleted_is_refused_at_the_start(client, logged):
    with logged():
        pass
    number = only_run(client).info.experiment_id
    client.delete_experiment(number)
    mlflow_log._connect.cache_clear()  # another command
    again = f"was deleted; bring it back by `mlflow experiments restore --experiment-id {number}`"
    with pytest.raises(InputError, match=again), logged():
        pass


class Foreign(Exception):
    """As boto3's, which are no OSError and none of MLflow's."""


def refuse(*told, **more):
    raise Foreign("no\n  room")


NOT_TAKEN = "MLflow did not take it: no room"


def said(caplog):
    ours = [record for record in caplog.records if record.name == mlflow_log.__name__]
    return [record.getMessage() for record in ours]


@pytest.mark.parametrize("later", [True, False])
def test_a_run_that_is_not_taken_at_first_ends_no_training(
    client, logged, monkeypatch, tmp_path, caplog, later
):
    (tmp_path / "config.json").write_text("{}")
    with monkeypatch.context() as context:
        context.setattr(type(client), "create_run", refuse)
        with logged() as (log,):
            log.on_train_begin()
            log.on_epoch_end(0, {"loss": 2.0})
            if later:
                context.undo()
            log.on_epoch_end(1, {"loss": 1.0})
    assert said(caplog) == [NOT_TAKEN, *(() if later else ("MLflow has not got this run",))]
    if later:
        run = only_run(client)
        told = client.get_metric_history(run.info.run_id, "loss")
        assert run.info.status == "FINISHED"
        assert run.data.params == {"seed": "0"}
        assert sorted((m.step, m.value) for m in told) == [(0, 2.0), (1, 1.0)]


def test_what_is_not_taken_ends_no_training_and_is_said_at_its_end(
    client, make_plan, uri, monkeypatch, caplog
):
    for name in ("log_batch", "log_artifact"):
        monkeypatch.setattr(type(client), name, refuse)
    monkeypatch.setattr(mlflow_log, "_PAUSE_S", math.inf)
    directory = train(make_plan("unlogged", mlflow=uri))
    assert fit.is_finished(directory)
    assert said(caplog) == [
        NOT_TAKEN,
        "MLflow has not got of this run: settings, 2 x numbers of an epoch, model_card.md, "
        "curves.png, config.json",
    ]
    assert only_run(client).info.status == "FINISHED"


@pytest.mark.parametrize("pause_s", [0.0, math.inf])
def test_epochs_that_are_not_taken_keep_no_other_from_being_logged(
    client, logged, monkeypatch, caplog, pause_s
):
    log_batch = type(client).log_batch

    def refuse_nan(self, run_id, metrics=(), **more):
        if any(math.isnan(metric.value) for metric in metrics):
            raise ValueError
        log_batch(self, run_id, metrics=metrics, **more)

    monkeypatch.setattr(type(client), "log_batch", refuse_nan)
    monkeypatch.setattr(mlflow_log, "_PAUSE_S", pause_s)
    with logged() as (log,):
        for epoch, loss in enumerate((math.nan, math.nan, 3.0, math.nan, 1.0)):
            log.on_epoch_end(epoch, {"loss": loss})
    assert said(caplog) == [
        "MLflow did not take it: ValueError",
        "MLflow has not got of this run: 3 x numbers of an epoch",
    ]
    told = client.get_metric_history(only_run(client).info.run_id, "loss")
    assert sorted((m.step, m.value) for m in told) == [(2, 3.0), (4, 1.0)]


def test_a_server_that_is_away_is_not_asked_after_every_epoch(client, logged, monkeypatch):
    asked = []
    monkeypatch.setattr(
        type(client), "log_batch", lambda *told, **more: asked.append(1) or refuse()
    )
    with logged() as (log,):
        log.on_train_begin()
        for epoch in range(100):
            log.on_epoch_end(epoch, {"loss": 1.0})
        assert len(asked) == 1


def test_a_server_that_is_away_at_the_end_is_not_waited_for_again_and_again(
    client, logged, monkeypatch, tmp_path, caplog
):
    (tmp_path / "config.json").write_text("{}")
    asked = []
    with logged() as (log,):
        log.on_train_begin()
        log.on_epoch_end(0, {"loss": 1.0})
        for name in ("get_run", "log_batch", "log_artifact", "set_terminated"):

            def away(*told, name=name, **more):
                asked.append(name)
                refuse()

            monkeypatch.setattr(type(client), name, away)
        log.on_epoch_end(1, {"loss": 1.0})
        asked.clear()
    assert asked == ["log_batch", "get_run"]
    missing = "numbers of an epoch, config.json, its end (FINISHED)"
    assert said(caplog) == [NOT_TAKEN, f"MLflow has not got of this run: {missing}"]


@pytest.mark.parametrize("error", [Foreign("no such host"), OSError("no such host")])
def test_a_server_that_cannot_be_reached_is_refused_at_the_start(
    client, make_plan, uri, monkeypatch, error
):
    def unreachable(self, name):
        raise error

    monkeypatch.setattr(type(client), "get_experiment_by_name", unreachable)
    planned = make_plan("refused", mlflow=uri)
    with pytest.raises(InputError, match=f"^--mlflow {uri}: no such host$"):
        train(planned)
    assert not planned.directory.exists()


@pytest.mark.usefixtures("tiny_training")
def test_a_server_that_goes_away_between_two_folds_ends_no_cross_validation(
    client, phantoms, tmp_path, uri, monkeypatch, caplog
):
    settings = config.TrainConfig(
        data=phantoms, runs=tmp_path / "runs", cache=tmp_path / "cache", name="cv", folds=2,
        size=32, batch_size=4, precision="float32", epochs=1, mlflow=uri,
    )  # fmt: skip
    first, second = plan.make(settings)
    train(first)
    for name in ("get_experiment_by_name", "create_run"):
        monkeypatch.setattr(type(client), name, refuse)
    assert fit.is_finished(train(second))
    assert said(caplog) == [NOT_TAKEN, "MLflow has not got this run"]
