"""Several runs as one entrant, whose answer is the mean of theirs."""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence

from data_pipeline.errors import InputError
from evaluation import runs
from evaluation.runs import Run
from models import members


def load(name: str, paths: Sequence[pathlib.Path], tta: str | None = None) -> Run:
    """Returns runs as one model; it has seen what any of them has trained or validated on.

    Args:
      name: as it stands in scores.csv.
      paths: run directories; of a cross-validation, every fold is a member.
      tta: test-time augmentation other than the runs' own, one of tta.CHOICES.

    Raises:
      InputError: if a directory is no finished run, is given twice, or they do not fit together.
    """
    twice = [path for path in paths if [p.resolve() for p in paths].count(path.resolve()) > 1]
    if twice:
        raise InputError(f"{twice[0]} is twice in the ensemble {name}, so it would count twice")
    alone = tuple(_all_folds_at_once(runs.load(path, tta)) for path in paths)
    networks = tuple(itertools.chain.from_iterable(run.folds for run in alone))
    return Run(
        name,
        paths[0],
        members.common_spec(networks, tta),
        alone[0].config,
        _splits(alone),
        {},
        networks,
        frozenset().union(*(run.patients for run in alone)),
        members=alone,
        tta=tta,
    )


def _all_folds_at_once(run: Run) -> Run:
    """Returns a cross-validation as a member: its folds together have trained on every case."""
    if not run.fold_of:
        return run
    return dataclasses.replace(run, fold_of={}, splits=dict.fromkeys(run.splits, "train"))


def _splits(alone: Sequence[Run]) -> dict[str, str]:
    """Returns the part of each case: test only where no member has learnt from it."""
    found: dict[str, str] = {}
    for part in ("test", "validation", "train"):
        for run in alone:
            found |= {case: part for case, own in run.splits.items() if own == part}
    return found
