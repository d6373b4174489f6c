"""The state of an unfinished training on disk, complete or not there at all."""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

_ARRAYS = "state.npz"


@dataclasses.dataclass(frozen=True)
class State:
    """Where a training stands, besides its arrays."""

    step: int
    elapsed_s: float
    spent_s: dict[str, float]
    best: float | None  # validation Dice of the best weights so far
    best_epoch: int


def save(folder: pathlib.Path, variables: Sequence[Any], state: State) -> None:
    """Writes the values of variables and the state below `folder`, replacing the one before.

    Each is a folder of its own named by its step, renamed into place when complete, so that a
    kill at any moment leaves the newest complete one.
    """
    place = folder / f"step-{state.step:09d}"
    if place.exists():
        return  # the same step has the same weights; replacing it would leave a moment without
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".unfinished-{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    values = {f"{number:05d}": v.numpy() for number, v in enumerate(variables)}
    np.savez(unfinished / _ARRAYS, **values)
    (unfinished / "state.json").write_text(json.dumps(dataclasses.asdict(state)), encoding="utf-8")
    unfinished.rename(place)
    for other in folder.iterdir():
        if other != place:
            shutil.rmtree(other, ignore_errors=True)


def load(folder: pathlib.Path) -> tuple[State, list[np.ndarray]] | None:
    """Returns the newest complete state and the values; None if there is none."""
    steps = sorted(folder.glob("step-*"))
    if not steps:
        return None
    state = State(**json.loads((steps[-1] / "state.json").read_text(encoding="utf-8")))
    with np.load(steps[-1] / _ARRAYS) as saved:
        return state, [saved[name] for name in sorted(saved.files)]
