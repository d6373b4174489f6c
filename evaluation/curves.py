"""How the scored runs were trained: loss and Dice by epoch, from their history.csv."""

import dataclasses
from collections.abc import Iterable, Sequence

import matplotlib.figure
import matplotlib.ticker
import pandas as pd

from evaluation import appearance
from evaluation.entrants import Entrant
from evaluation.runs import Run


@dataclasses.dataclass(frozen=True)
class Curve:
    """One training, or one fold of it."""

    model: str
    epochs: pd.DataFrame  # columns as Keras named them: epoch, loss, val_loss, ...


def load(entrants: Iterable[Entrant]) -> list[Curve]:
    """Reads the history of each run; runs without one are left out."""
    found = []
    for entrant in entrants:
        for folder in entrant.folds if isinstance(entrant, Run) else ():
            try:
                epochs = pd.read_csv(folder / "history.csv")
            except (OSError, ValueError):
                continue
            if len(epochs) and "loss" in epochs:
                found.append(Curve(entrant.name, epochs))
    return found


def draw(curves: Sequence[Curve]) -> matplotlib.figure.Figure:
    """Draws loss and Dice over epochs; validation as a full line, training dashed."""
    models = list(dict.fromkeys(curve.model for curve in curves))
    colour = appearance.colours(models)
    figure = appearance.figure(10.5, 3.8)
    for axis, (word, title) in zip(
        figure.subplots(1, 2), (("loss", "loss"), ("dice", "Dice")), strict=True
    ):
        for curve in curves:
            for name in curve.epochs.columns:
                if word not in name or (word == "loss" and name not in ("loss", "val_loss")):
                    continue
                axis.plot(
                    range(1, len(curve.epochs) + 1),
                    curve.epochs[name],
                    "-" if name.startswith("val_") else "--",
                    color=colour[curve.model],
                    linewidth=1.6,
                )
        axis.set(xlabel="epoch", ylabel=title, title=f"Training: {title}")
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axis.grid(linewidth=0.6)
        for model in models:
            axis.plot([], [], color=colour[model], label=model)
        axis.plot([], [], "--", color="#888888", label="on training cases")
        axis.plot([], [], "-", color="#888888", label="on validation cases")
        axis.legend(fontsize=8)
    return figure
