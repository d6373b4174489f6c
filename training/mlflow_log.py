"""Logs a training to MLflow: its settings, numbers of each epoch, and at the end card and figure.

Needs the extra `mlflow`, which is imported here alone and on request (`--mlflow URI`). What a
server does not take later on is said and lost: no training ends because of its log.
"""

import contextlib
import functools
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from data_pipeline.errors import InputError

EXPERIMENT = "lung-segmentation"

_ID = "mlflow_run_id"  # in the run directory: what a resumed training goes on with
_ARTIFACTS = ("model_card.md", "curves.png", "config.json")
_LONGEST = 500  # characters of a parameter that every server takes


@contextlib.contextmanager
def logged(
    uri: str, directory: pathlib.Path, name: str, settings: Mapping[str, object]
) -> Iterator[list[keras.callbacks.Callback]]:
    """Gives the callbacks that log a training, and logs how it ended.

    Args:
      uri: of the tracking server or store, as MLflow takes it; empty: nothing is logged.
      directory: of the run.
      name: of the run in MLflow.
      settings: what to log as parameters.

    Raises:
      InputError: if MLflow is not installed, or the server or store cannot be used.
    """
    if not uri:
        yield []
        return
    log = _Log(uri, directory, name, settings)
    try:
        yield [log]
    except BaseException as stopped:
        log.end("FAILED" if isinstance(stopped, Exception) else "KILLED")
        raise
    log.on_train_begin()  # not called where only the end of a training was left to do
    log.end("FINISHED", _ARTIFACTS)


class _Log(keras.callbacks.Callback):
    """One run of MLflow, which a resumed training goes on with."""

    def __init__(
        self, uri: str, directory: pathlib.Path, name: str, settings: Mapping[str, object]
    ) -> None:
        super().__init__()
        self._known, self._name, self._settings = directory / _ID, name, settings
        self._run_id = ""  # once it has begun
        # Nobody asked for reports to MLflow's makers.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            import mlflow
        except ImportError as error:
            raise InputError("--mlflow needs: pip install --editable '.[mlflow]'") from error
        self._entities, self._refusal = mlflow.entities, mlflow.MlflowException
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(EXPERIMENT)
            self._experiment = (
                found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
            )
        except (self._refusal, OSError) as error:
            raise InputError(f"--mlflow {uri}: {_one_line(error)}") from error
        if found and found.lifecycle_stage == "deleted":
            raise InputError(
                f"--mlflow {uri}: the experiment {EXPERIMENT} was deleted; bring it back by "
                f"`mlflow experiments restore --experiment-id {self._experiment}`"
            )

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Begins a run, or goes on with that of the run directory."""
        if not self._run_id:
            self._tell(self._begin)

    def _begin(self) -> None:
        if self._known.exists():
            run_id = self._known.read_text(encoding="utf-8").strip()
            self._client.update_run(run_id, status="RUNNING")
            self._run_id = run_id
            return
        run = self._client.create_run(self._experiment, run_name=self._name)
        self._known.write_text(f"{run.info.run_id}\n", encoding="utf-8")
        self._run_id = run.info.run_id
        told = [
            self._entities.Param(name, str(value)[:_LONGEST])
            for name, value in self._settings.items()
        ]
        self._client.log_batch(self._run_id, params=told)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Logs the numbers of an epoch."""
        self.on_train_begin()  # a server that did not take the run may do so now
        if not self._run_id:
            return
        now_ms = int(1000 * time.time())
        numbers = [
            self._entities.Metric(name, float(value), now_ms, epoch)
            for name, value in (logs or {}).items()
        ]
        self._tell(lambda: self._client.log_batch(self._run_id, metrics=numbers))

    def end(self, status: str, artifacts: tuple[str, ...] = ()) -> None:
        """Logs files of the run directory and how the training ended, if it had begun."""
        if not self._run_id:  # what an earlier training logged is not ours to end
            return
        for path in map(self._known.with_name, artifacts):
            if path.exists():
                self._tell(functools.partial(self._client.log_artifact, self._run_id, str(path)))
        self._tell(lambda: self._client.set_terminated(self._run_id, status))

    def _tell(self, say: Callable[[], Any]) -> None:
        try:
            say()
        except (self._refusal, OSError) as error:
            logging.getLogger(__name__).warning("MLflow did not take it: %s", _one_line(error))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
