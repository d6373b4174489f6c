"""The state of an unfinished training on disk, complete or not there at all."""

import dataclasses
import json
import os
import pathlib
import shutil

import keras
import numpy as np

from training.averaging import Average

_WEIGHTS = "state.weights.h5"
_AVERAGE = "average.npz"


@dataclasses.dataclass(frozen=True)
class State:
    """Where a training stands, besides its weights and its optimizer's."""

    step: int
    epoch: int
    elapsed_s: float
    best: float | None  # validation Dice of the best weights so far


def save(folder: pathlib.Path, model: keras.Model, average: Average, state: State) -> None:
    """Writes weights, optimizer, average and state below `folder`, replacing the one before.

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
    model.save_weights(unfinished / _WEIGHTS)
    np.savez(unfinished / _AVERAGE, *average.values())
    (unfinished / "state.json").write_text(json.dumps(dataclasses.asdict(state)), encoding="utf-8")
    unfinished.rename(place)
    for other in folder.iterdir():
        if other != place:
            shutil.rmtree(other, ignore_errors=True)


def restore(folder: pathlib.Path, model: keras.Model, average: Average) -> State | None:
    """Loads the newest complete state into a compiled model and its average; None if none is."""
    steps = sorted(folder.glob("step-*"))
    if not steps:
        return None
    model.optimizer.build(model.trainable_variables)
    model.load_weights(steps[-1] / _WEIGHTS)
    state = State(**json.loads((steps[-1] / "state.json").read_text(encoding="utf-8")))
    with np.load(steps[-1] / _AVERAGE) as saved:
        average.go_on_from(state.step, list(saved.values()))
    return state
