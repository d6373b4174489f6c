"""What a trained model costs: parameters, minutes of training, milliseconds a scan."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import pandas as pd

from data_pipeline.errors import InputError
from evaluation import runs, tables

HEADER = (
    *("Task", "Model", "Parameters", "Steps", "Minutes", "ms a scan"),
    *("Accuracy", "Dice (95 % interval)", "Cases"),
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one run; of a cross-validation, all its trainings together."""

    parameters: int
    steps: int
    minutes: float


def of_run(path: pathlib.Path) -> Cost:
    """Reads what a finished run says of itself."""
    told = [runs.read_config(folder) for folder in runs.load(path).folds]
    return Cost(
        int(_number(told[0], "parameters")),
        sum(int(_number(config, "steps")) for config in told),
        sum(_number(config, "train_seconds") for config in told) / 60,
    )


def _number(config: Mapping[str, object], name: str) -> float:
    if name not in config:
        raise InputError(f"config.json of a run does not tell its {name}; train it anew")
    return float(str(config[name]))


def rows(
    title: str, scored: pathlib.Path, trained: Sequence[pathlib.Path]
) -> list[tuple[str, ...]]:
    """Returns a row a model of what a results folder says, networks with their cost.

    Args:
      title: of the task.
      scored: the results folder.
      trained: the run directories among what was scored.
    """
    found = json.loads((scored / "summary.json").read_text(encoding="utf-8"))
    seconds = pd.read_csv(scored / "cases.csv").groupby("model")["seconds"].median()
    costs = {path.name: of_run(path) for path in trained}
    return [_row(title, item, costs.get(item["model"]), seconds) for item in found["labels"]]


def _row(
    title: str, item: dict[str, object], cost: Cost | None, seconds: pd.Series
) -> tuple[str, ...]:
    model, measured = str(item["model"]), item["metrics"]
    if not isinstance(measured, dict):
        raise TypeError("summary.json: metrics is no table")
    name = model.rpartition("-")[2]
    return (
        title,
        tables.MODELS.get(name, name),
        *(("0", "-", "-") if cost is None else _of(cost)),
        f"{1000 * seconds[model]:.0f}",
        f"{measured['accuracy']['mean']['value']:.3f}",
        tables.with_stored_interval(measured["dice"]["mean"]),
        str(item["cases"]),
    )


def _of(cost: Cost) -> tuple[str, ...]:
    return f"{cost.parameters:,}", f"{cost.steps:,}", f"{cost.minutes:.1f}"


def table(body: Sequence[Sequence[str]], versions: str, cores: int) -> str:
    """Returns the table in Markdown with its conditions."""
    return tables.markdown(HEADER, body) + (
        f"\nBy `python -m evaluation.benchmark` with {versions} on {cores} CPU core(s). Minutes "
        "are wall-clock and of all folds together, reading and validation included; ms a scan is "
        "the median from voxels to mask, with mirrored answers where the model averages them.\n"
    )
