"""Logs a training to MLflow: its settings, numbers of each epoch, and at the end card and figure.

Needs the extra `mlflow`, which is imported here alone and on request (`--mlflow URI`). What a
server or store does not take later on waits, and what it has not taken in the end is said and
lost: no training ends because of its log.
"""

import contextlib
import functools
import logging
import os
import pathlib
import textwrap
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras

from data_pipeline.errors import InputError

EXPERIMENT = "lung-segmentation"

_ID = "mlflow_run_id"  # in the run directory: what a resumed training goes on with
_ARTIFACTS = ("model_card.md", "curves.png", "config.json")
_LONGEST = 500  # characters of a parameter that every server takes

# After what was not taken: each attempt may have to wait for a server that is away.
_PAUSE_S = 60.0

# What MLflow is told, where nobody told it otherwise: it would wait four minutes for a server
# that does not answer, and report to its makers.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

_Telling = tuple[str, Callable[[], Any]]  # what it is called, and what says it

_LOGGER = logging.getLogger(__name__)


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


@functools.cache  # a server that goes away between two folds ends no cross-validation
def _connect(uri: str) -> tuple[Any, Any, str]:
    """Returns a client, MLflow's kinds of things to log, and the id of our experiment."""
    for variable, value in _SETTINGS.items():
        os.environ.setdefault(variable, value)
    try:
        import mlflow
    except ImportError as error:
        raise InputError("--mlflow needs: pip install --editable '.[mlflow]'") from error
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        number = found.experiment_id if found else client.create_experiment(EXPERIMENT)
    except Exception as error:  # MlflowException, or whatever a store raises
        raise InputError(f"--mlflow {uri}: {_one_line(error)}") from error
    if found and found.lifecycle_stage == "deleted":
        raise InputError(
            f"--mlflow {uri}: the experiment {EXPERIMENT} was deleted; bring it back by "
            f"`mlflow experiments restore --experiment-id {number}`"
        )
    return client, mlflow.entities, number


class _Log(keras.callbacks.Callback):
    """One run of MLflow, which a resumed training goes on with."""

    def __init__(
        self, uri: str, directory: pathlib.Path, name: str, settings: Mapping[str, object]
    ) -> None:
        super().__init__()
        self._known, self._name, self._settings = directory / _ID, name, settings
        self._run_id = ""  # once it has begun
        self._waiting: deque[_Telling] = deque()
        self._refused = False  # whether anything was
        self._pause_ends_s = 0.0
        self._client, self._entities, self._experiment = _connect(uri)

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Begins a run, or goes on with that of the run directory."""
        if not self._run_id:
            self._send()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Logs the numbers of an epoch, and what was not taken before."""
        now_ms = int(1000 * time.time())
        numbers = [
            self._entities.Metric(name, float(value), now_ms, epoch)
            for name, value in (logs or {}).items()
        ]
        say = functools.partial(self._log_batch, metrics=numbers)
        self._waiting.append(("numbers of an epoch", say))
        if time.monotonic() >= self._pause_ends_s:
            self._send()

    def end(self, status: str, artifacts: tuple[str, ...] = ()) -> None:
        """Logs files of the run directory and how the training ended, if it had begun.

        Says what MLflow has not got then.
        """
        if not self._run_id:  # what an earlier training logged is not ours to end
            if self._refused:
                _LOGGER.warning("MLflow has not got this run")
            return
        told = [*self._waiting]
        for path in map(self._known.with_name, artifacts):
            if path.exists():
                say = functools.partial(self._client.log_artifact, self._run_id, str(path))
                told.append((path.name, say))
        say = functools.partial(self._client.set_terminated, self._run_id, status)
        told.append((f"its end ({status})", say))
        missing = Counter(self._not_taken(told))
        if missing:
            listed = [what if n == 1 else f"{n} x {what}" for what, n in missing.items()]
            _LOGGER.warning("MLflow has not got of this run: %s", ", ".join(listed))

    def _not_taken(self, told: Iterable[_Telling]) -> Iterator[str]:
        """Says everything once, and yields what is not taken; a server that is away ends it."""
        is_there = True  # or each thing that is said to it would be waited for
        for what, say in told:
            if not (is_there and self._takes(say)):
                yield what
                is_there = is_there and self._takes(self._look)

    def _look(self) -> None:
        self._client.get_run(self._run_id)

    def _send(self) -> None:
        """Says what waits, until something is not taken, which then waits behind the rest."""
        if not self._run_id and not self._takes(self._begin):
            return
        for _ in range(len(self._waiting)):
            what, say = self._waiting.popleft()
            if not self._takes(say):
                self._waiting.append((what, say))
                return

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
        say = functools.partial(self._log_batch, params=told)
        self._waiting.appendleft(("settings", say))

    def _log_batch(self, **told: Any) -> None:
        self._client.log_batch(self._run_id, **told)

    def _takes(self, say: Callable[[], Any]) -> bool:
        """Whether MLflow takes something; says once why it does not."""
        try:
            say()
        except Exception as error:  # stores raise boto3's, urllib3's and others' own
            if not self._refused:
                _LOGGER.warning("MLflow did not take it: %s", _one_line(error))
            self._refused = True
            self._pause_ends_s = time.monotonic() + _PAUSE_S
            return False
        return True


def _one_line(error: Exception) -> str:
    return textwrap.shorten(str(error), _LONGEST) or type(error).__name__
