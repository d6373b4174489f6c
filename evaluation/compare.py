"""Says what changed between two evaluations, case by case, and whether it is noise.

    python -m evaluation.compare results/before results/after
    python -m evaluation.compare results/unet results/cnn --model unet --with cnn

Only cases that both scored are compared. Takes a second.
"""

import argparse
import dataclasses
import math
import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import rich.box
import rich.console
import rich.table

from data_pipeline.errors import InputError, one_line_for_bad_input
from evaluation import summary, tables
from models import statistics
from models.statistics import Comparison

METRICS = ("dice", "accuracy", "loss", "hd95_px")


@dataclasses.dataclass(frozen=True)
class Change:
    """What happened to one label and metric between two evaluations."""

    before: str  # model
    after: str  # model
    label: str
    metric: str
    result: Comparison  # after minus before
    higher: int  # cases
    lower: int
    equal: int

    @property
    def verdict(self) -> str:
        """Whether the difference is more than noise, in words."""
        estimate = self.result.difference
        if self.higher == self.lower == 0:
            return "identical"
        if math.isnan(estimate.low):
            return "one patient: cannot tell"
        better = summary.METRICS[self.metric][2] == (estimate.value > 0)
        if estimate.low <= 0 <= estimate.high or not self.result.holm_p < 0.05:
            return "within noise"
        return "better" if better else "worse"


def read_scores(folder: pathlib.Path) -> pd.DataFrame:
    """Reads the scores.csv of a results folder.

    Raises:
      InputError: if there is none, or a column is missing.
    """
    path = folder / "scores.csv" if folder.is_dir() else folder
    try:
        scores = pd.read_csv(path, dtype={"case_id": str, "patient_id": str, "model": str})
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; `evaluation.run` writes one") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a table of scores: {error}") from error
    needed = ["model", "case_id", "patient_id", "label", *METRICS]
    missing = [name for name in needed if name not in scores]
    if missing:
        raise InputError(f"{path} lacks the column {', '.join(missing)}")
    scores["patient_id"] = scores["patient_id"].fillna("")
    return scores


def pairs(
    before: pd.DataFrame, after: pd.DataFrame, model: str | None, other: str | None
) -> list[tuple[str, str]]:
    """Returns which models to compare: those named, those of one name, or the only ones.

    Raises:
      InputError: if it is not clear which.
    """
    here, there = (list(dict.fromkeys(table["model"])) for table in (before, after))
    for name, known in ((model, here), (other or model, there)):
        if name is not None and name not in known:
            raise InputError(f"no model {name} there; known: {', '.join(known)}")
    if model is not None:
        return [(model, other or model)]
    shared = [name for name in here if name in there]
    if shared:
        return [(name, name) for name in shared]
    if len(here) == len(there) == 1:
        return [(here[0], there[0])]
    raise InputError(
        f"no model is in both: {', '.join(here)} and {', '.join(there)}; say --model and --with"
    )


def merge(before: pd.DataFrame, after: pd.DataFrame, names: tuple[str, str]) -> pd.DataFrame:
    """Returns one row a case and label that both scored; columns METRIC_before, METRIC_after."""
    ours = before[before["model"] == names[0]]
    theirs = after[after["model"] == names[1]]
    return ours.merge(theirs, on=["case_id", "label"], suffixes=("_before", "_after"))


def changes(
    before: pd.DataFrame, after: pd.DataFrame, chosen: Sequence[tuple[str, str]], seed: int = 0
) -> list[Change]:
    """Compares every label and metric of the chosen models; Holm over all of them."""
    found = []
    for names in chosen:
        for label, rows in merge(before, after, names).groupby("label", sort=False):
            who = summary.patients(rows.rename(columns={"patient_id_after": "patient_id"}))
            for metric in METRICS:
                new, old = (rows[f"{metric}_{when}"].to_numpy() for when in ("after", "before"))
                result = statistics.compare(names[1], names[0], new, old, who, seed)
                moved = (new - old)[np.isfinite(new - old)]
                counts = (moved > 0).sum(), (moved < 0).sum(), (moved == 0).sum()
                if len(moved):
                    found.append(
                        Change(names[0], names[1], str(label), metric, result, *map(int, counts))
                    )
    corrected = statistics.holm([change.result.wilcoxon_p for change in found])
    return [
        dataclasses.replace(change, result=dataclasses.replace(change.result, holm_p=p))
        for change, p in zip(found, corrected, strict=True)
    ]


def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.compare", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("before", type=pathlib.Path, help="results folder, or a scores.csv")
    parser.add_argument("after", type=pathlib.Path, help="likewise")
    parser.add_argument("--model", help="of the first; default: every model that both scored")
    parser.add_argument("--with", dest="other", help="of the second, if it is called otherwise")
    parser.add_argument("--cases", type=int, default=10, help="most changed cases to list")
    parser.add_argument("--csv", type=pathlib.Path, help="write every case's change here")
    flags = parser.parse_args(argv)
    before, after = read_scores(flags.before), read_scores(flags.after)
    chosen = pairs(before, after, flags.model, flags.other)
    found = changes(before, after, chosen)
    if not found:
        raise InputError(f"{flags.before} and {flags.after} have no case and label in common")
    console = rich.console.Console(highlight=False)
    for names in chosen:
        merged = merge(before, after, names)
        _report_alone(console, before, after, names, merged)
        console.print(_most_changed(merged, names, flags.cases))
        console.print(_table(found, names))
    if flags.csv:
        every = pd.concat(merge(before, after, names) for names in chosen)
        summary.save_text(flags.csv, every.to_csv(index=False))
        console.print(f"every case: {flags.csv}")


def _report_alone(
    console: rich.console.Console,
    before: pd.DataFrame,
    after: pd.DataFrame,
    names: tuple[str, str],
    merged: pd.DataFrame,
) -> None:
    """Says how many rows only one of the evaluations has."""
    left = int((before["model"] == names[0]).sum()) - len(merged)
    right = int((after["model"] == names[1]).sum()) - len(merged)
    if left or right:
        console.print(f"{names[0]}: {left} rows only before, {right} only after: left out")


def _table(found: Sequence[Change], names: tuple[str, str]) -> rich.table.Table:
    table = rich.table.Table(
        title=f"{names[1]} after minus {names[0]} before",
        caption="interval: bootstrap of patients; p: signed ranks, Holm over all tables",
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("Label", "Metric", "Difference", "Up/down/\nsame", "p", "Verdict"):
        table.add_column(name, no_wrap=name != "Verdict")
    for change in found:
        if (change.before, change.after) == names:
            table.add_row(
                change.label,
                change.metric,
                tables.with_interval(change.result.difference),
                f"{change.higher}/{change.lower}/{change.equal}",
                tables.p_value(change.result.holm_p),
                change.verdict,
            )
    return table


def _most_changed(merged: pd.DataFrame, names: tuple[str, str], count: int) -> rich.table.Table:
    moved = (merged["dice_after"] - merged["dice_before"]).rename("change")
    rows = merged.assign(change=moved)[moved.abs() > 0]
    rows = rows.reindex(rows["change"].abs().sort_values(ascending=False).index).head(count)
    table = rich.table.Table(
        title=f"{names[1]}: cases whose Dice changed most",
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("Case", "Label", "Before", "After", "Change"):
        table.add_column(name, overflow="fold", no_wrap=name != "Case")
    for row in rows.itertuples():
        table.add_row(
            row.case_id,
            row.label,
            f"{row.dice_before:.3f}",
            f"{row.dice_after:.3f}",
            f"{row.change:+.3f}",
        )
    return table


if __name__ == "__main__":
    with one_line_for_bad_input():
        main()
