"""As much of the module `mlflow` as training.mlflow_log uses, and the tests look at.

Stores live in memory, by their URI. What it refuses, and how it answers, is as MLflow 3 does:
the tests run against both where MLflow is installed.
"""

import collections
import pathlib
from types import SimpleNamespace

entities = SimpleNamespace(
    Param=lambda key, value: SimpleNamespace(key=key, value=value),
    Metric=lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step),
)


class MlflowException(Exception):
    """What the server or store refuses."""


_stores = collections.defaultdict(lambda: ({}, {}))  # uri: experiments and runs, by their ids


class MlflowClient:
    def __init__(self, tracking_uri):
        self._experiments, self._runs = _stores[tracking_uri]

    def get_experiment_by_name(self, name):
        return next((e for e in self._experiments.values() if e.name == name), None)

    def create_experiment(self, name):
        number = str(len(self._experiments))
        self._experiments[number] = SimpleNamespace(
            experiment_id=number, name=name, lifecycle_stage="active"
        )
        return number

    def delete_experiment(self, number):
        self._experiments[number].lifecycle_stage = "deleted"

    def create_run(self, experiment, run_name):
        if self._experiments[experiment].lifecycle_stage != "active":
            raise MlflowException(f"The experiment {experiment} must be in the 'active' state.")
        run_id = f"run{len(self._runs)}"
        info = SimpleNamespace(
            run_id=run_id, run_name=run_name, status="RUNNING", experiment_id=experiment
        )
        data = SimpleNamespace(params={})
        self._runs[run_id] = SimpleNamespace(info=info, data=data, metrics=[], files=[])
        return self._runs[run_id]

    def search_runs(self, experiments):
        return [run for run in self._runs.values() if run.info.experiment_id in experiments]

    def get_run(self, run_id):
        if run_id not in self._runs:
            raise MlflowException(f"Run '{run_id}' not found")
        return self._runs[run_id]

    def update_run(self, run_id, status):
        self.get_run(run_id).info.status = status

    set_terminated = update_run

    def log_batch(self, run_id, metrics=(), params=()):
        run = self.get_run(run_id)
        run.data.params |= {param.key: param.value for param in params}
        run.metrics += metrics

    def get_metric_history(self, run_id, key):
        return [metric for metric in self.get_run(run_id).metrics if metric.key == key]

    def log_artifact(self, run_id, path):
        self.get_run(run_id).files.append(SimpleNamespace(path=pathlib.Path(path).name))

    def list_artifacts(self, run_id):
        return self.get_run(run_id).files
