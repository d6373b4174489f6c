import csv
import itertools
import sys

import fake_mlflow
import pytest
from rich import console as rich_console

from data_pipeline.errors import InputError
from training import fit, mlflow_log
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
    again = f"was deleted; bring it back by `mlflow experiments restore --experiment-id {number}`"
    with pytest.raises(InputError, match=again), logged():
        pass


@pytest.mark.parametrize("later", [True, False])
def test_a_run_that_is_not_taken_at_first_ends_no_training(
    client, logged, monkeypatch, tmp_path, caplog, later
):
    def refuse(*told, **more):
        raise OSError("no room")

    (tmp_path / "config.json").write_text("{}")
    with monkeypatch.context() as context:
        context.setattr(type(client), "create_run", refuse)
        with logged() as (log,):
            log.on_train_begin()
            log.on_epoch_end(0, {"loss": 2.0})
            if later:
                context.undo()
            log.on_epoch_end(1, {"loss": 1.0})
    assert {record.getMessage() for record in caplog.records} == {"MLflow did not take it: no room"}
    if later:
        run = only_run(client)
        told = client.get_metric_history(run.info.run_id, "loss")
        assert (run.info.status, [(m.step, m.value) for m in told]) == ("FINISHED", [(1, 1.0)])


def test_what_a_store_does_not_take_later_ends_no_training(client, logged, monkeypatch, caplog):
    def refuse(*told, **more):
        raise OSError("no room")

    monkeypatch.setattr(type(client), "log_batch", refuse)
    with logged() as (log,):
        log.on_epoch_end(0, {"loss": 1.0})
    assert "MLflow did not take it: no room" in caplog.text
    assert only_run(client).info.status == "FINISHED"
