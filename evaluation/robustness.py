"""How much Dice is lost when scans get worse: noise, blur, contrast, rotation, fewer pixels.

    python -m evaluation.robustness runs/unet threshold --out results/robust --cases 24

Every scan is spoiled in a known way and outlined again; what a model is told is still a scan in
its own units. One figure and one table. The 23 test X-rays of the sample take about two
minutes a model.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import matplotlib.figure
import pandas as pd
import rich.console
import rich.progress
import rich.table

from data_pipeline import cases
from data_pipeline.errors import InputError, one_line_for_bad_input
from data_pipeline.scan import MODALITIES
from evaluation import (
    appearance,
    damage,
    entering,
    entrants,
    figures,
    metrics,
    selection,
    summary,
)
from evaluation.damage import Damage
from evaluation.selection import Trial
from models import statistics


def sweep(trial: Trial, damages: Sequence[Damage], seed: int) -> list[dict[str, object]]:
    """Scores one trial at every level of every damage: a row a label, damage and level."""
    scan = cases.read_scan(trial.case)
    truth = cases.read_mask(trial.case, trial.entrant.labels, scan.shape)
    rows: list[dict[str, object]] = []
    for one in damages:
        for level in one.levels:
            answer = trial.entrant.answer(trial.case, damage.spoil(scan, one, level, seed))
            moved = damage.spoil_mask(truth, one, level)
            for label, plane in zip(answer.mask.labels, answer.mask.planes, strict=True):
                expected = moved.plane(label)
                if expected is not None:
                    rows.append(
                        {
                            "model": trial.entrant.name,
                            "case_id": trial.case.id,
                            "patient_id": trial.case.patient_id,
                            "label": label,
                            "damage": one.name,
                            "level": level,
                            "dice": metrics.dice(metrics.count(expected, plane)),
                        }
                    )
    return rows


def means(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Returns the mean Dice with its interval for each model, label, damage and level."""
    keys = ["model", "label", "damage", "level"]
    found = []
    for key, group in rows.groupby(keys, sort=False):
        dice = statistics.mean(group["dice"].to_numpy(), summary.patients(group), seed)
        dice = dice.clipped(0, 1)
        found.append((*key, dice.value, dice.low, dice.high, dice.cases))
    return pd.DataFrame(found, columns=[*keys, "dice", "low", "high", "cases"])


def draw(table: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draws mean Dice over the level of each damage: a column a damage, a row a label."""
    labels, models = (list(dict.fromkeys(table[name])) for name in ("label", "model"))
    damages = [one for one in damage.DAMAGES if (table["damage"] == one.name).any()]
    colour = appearance.colours(models)
    figure = appearance.figure(2.9 * len(damages), 3.0 * len(labels) + 0.6)
    axes = figure.subplots(len(labels), len(damages), sharey="row", squeeze=False)
    for row, label in zip(axes, labels, strict=True):
        for axis, one in zip(row, damages, strict=True):
            here = table[(table["label"] == label) & (table["damage"] == one.name)]
            for place, model in enumerate(models):
                line = here[here["model"] == model]
                x = range(len(line))
                axis.plot(
                    x, line["dice"], color=colour[model], markersize=5, label=model,
                    marker=appearance.MARKERS[place % len(appearance.MARKERS)],
                )  # fmt: skip
                axis.fill_between(
                    x, line["low"], line["high"], color=colour[model], alpha=0.18, linewidth=0
                )
            axis.set_xticks(range(len(one.levels)), [f"{level:g}" for level in one.levels])
            axis.set_title(one.name)
            axis.set_xlabel(one.unit)
            axis.grid(linewidth=0.6)
        row[0].set_ylabel(f"Dice of {label}")
    axes[0][0].legend(fontsize=8, loc="lower left")
    return figure


def main(argv: list[str] | None = None) -> int:
    """Runs the command; 0 if all cases were scored, 1 if some failed."""
    flags = _flags(argv)
    found, path = entering.enter(flags.models, (), flags.data, flags.modality, flags.labels)
    trials = selection.trials(found, cases.load(path), flags.split)
    trials = [trial for entrant in found for trial in _some(trials, entrant, flags.cases)]
    console = rich.console.Console(highlight=False)
    rows: list[dict[str, object]] = []
    failed = []
    with rich.progress.Progress(console=console, transient=True) as progress:
        for trial in progress.track(trials, description="Spoiling and scoring"):
            try:
                rows += sweep(trial, damage.DAMAGES, flags.seed)
            except InputError as error:
                failed.append(f"{trial.entrant.name}, case {trial.case.id}: {error}")
    if not rows:
        raise InputError(f"no case could be scored; the first: {failed[0]}")
    scores = pd.DataFrame(rows)
    table = means(scores, flags.seed)
    summary.save_text(flags.out / "robustness.csv", scores.to_csv(index=False))
    summary.save_text(flags.out / "robustness_means.csv", table.to_csv(index=False))
    figures.save({"robustness": lambda: draw(table)}, flags.out / "figures")
    _report(console, table)
    for line in failed:
        console.print(f"not scored: {line}", style="red", markup=False)
    console.print(f"Figure: {flags.out / 'figures' / 'robustness.png'}")
    return 1 if failed else 0


def _some(trials: Sequence[Trial], entrant: entrants.Entrant, count: int) -> list[Trial]:
    """Returns up to `count` unseen trials of an entrant, spread over the manifest."""
    own = [trial for trial in trials if trial.entrant is entrant and not trial.seen]
    if not own:
        raise InputError(f"{entrant.name} knows every case from training; choose other data")
    if not count or count >= len(own):
        return own
    return [own[i * len(own) // count] for i in range(count)]


def _flags(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.robustness",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="a run directory, or threshold")
    add("--out", type=pathlib.Path, required=True, help="folder for the results")
    add("--data", type=pathlib.Path, help="manifest; default: the one that the runs trained from")
    add("--split", choices=selection.SPLITS, default="test", help="default: %(default)s")
    add("--modality", choices=MODALITIES, help="only needed without a run")
    add("--labels", help="only needed without a run")
    add("--cases", type=int, default=0, help="at most so many a model; 0: all")
    add("--seed", type=int, default=0, help="of the noise and the bootstrap")
    return parser.parse_args(argv)


def _report(console: rich.console.Console, table: pd.DataFrame) -> None:
    grid = rich.table.Table(title="Mean Dice, from as it is to worst")
    for heading in ("Model", "Label", "Damage", "Levels", "Dice"):
        grid.add_column(heading)
    for (model, label, name), rows in table.groupby(["model", "label", "damage"], sort=False):
        levels = ", ".join(f"{level:g}" for level in rows["level"])
        unit = next(one.unit for one in damage.DAMAGES if one.name == name)
        dice = ", ".join(f"{value:.3f}" for value in rows["dice"])
        grid.add_row(model, label, name, f"{levels} {unit}", dice)
    console.print(grid)


if __name__ == "__main__":
    with one_line_for_bad_input():
        sys.exit(main())
