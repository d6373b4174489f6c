"""Which trained networks some run directories hold, and the spec of all of them together.

A run holds one network, a cross-validation one a fold; several runs make an ensemble, whose
answer is the mean of theirs.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

from data_pipeline import spec as specs
from data_pipeline import tta
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec

WEIGHTS = "network.keras"  # in a run directory, beside spec.json

_MERGED = ("temperatures", "thresholds")  # fields in which members may differ


def directories(runs: Sequence[pathlib.Path]) -> tuple[pathlib.Path, ...]:
    """Returns the directory of each network of some runs, folds in order.

    Raises:
      InputError: if a fold is missing, or a training has not finished.
    """
    found = [directory for run in runs for directory in _of(run)]
    for directory in found:
        if (directory / "spec.json").exists() and not (directory / WEIGHTS).exists():
            raise InputError(f"{directory} holds no {WEIGHTS}: the training is not finished")
    return tuple(found)


def _of(run: pathlib.Path) -> list[pathlib.Path]:
    folds = sorted(run.glob("fold*"), key=lambda path: int("0" + path.name[4:]))
    if not folds:
        return [run]
    count = _folds_planned(run)
    if len(folds) != count:
        raise InputError(f"{run} has {len(folds)} of {count} folds: train the rest first")
    return folds


def _folds_planned(run: pathlib.Path) -> int:
    try:
        return int(json.loads((run / "config.json").read_text(encoding="utf-8"))["folds"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{run} is a cross-validation that has not finished") from None


def common_spec(networks: Sequence[pathlib.Path], choice: str | None = None) -> InputSpec:
    """Returns the spec of the mean of some networks.

    Each keeps its own temperatures, thresholds are their mean; all else must be equal.

    Args:
      networks: directories of networks.
      choice: test-time augmentation other than their own, one of tta.CHOICES.

    Raises:
      InputError: naming the first field that differs, or a directory that is no run.
    """
    read = [specs.load(directory / "spec.json") for directory in networks]
    if choice is not None:
        read = [tta.chosen(spec, choice) for spec in read]
    first = read[0]
    for directory, other in zip(networks[1:], read[1:], strict=True):
        for field in dataclasses.fields(InputSpec):
            here, there = getattr(first, field.name), getattr(other, field.name)
            if here != there and field.name not in _MERGED:
                raise InputError(
                    f"{networks[0]} and {directory} cannot be averaged: {field.name} is {here} "
                    f"in the one and {there} in the other{_WAY_OUT.get(field.name, '')}"
                )
    if len(read) > 1 and any(spec.thresholds for spec in read):
        of_labels = zip(*(spec.above for spec in read), strict=True)
        mean = tuple(sum(several) / len(several) for several in of_labels)
        first = dataclasses.replace(first, thresholds=mean)
    if not any(spec.temperatures for spec in read):
        return first
    as_it_says = ((1.0,) * len(first.labels),)
    rows = [row for spec in read for row in spec.temperatures or as_it_says]
    return dataclasses.replace(first, temperatures=tuple(rows))


_WAY_OUT = {
    "cleaning": "; `python -m training.calibrate RUN --cleaning threshold` takes it from a run",
    "flips": "; --tta says it for all of them",
    "scales": "; --tta says it for all of them",
    "shape": "; train both with the same --size and --tile",
    "window": "; train both with the same --window",
}
