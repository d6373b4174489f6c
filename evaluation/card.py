"""Completes the model card that a training wrote with the scores of its network, or networks.

A section a split and manifest, between comments, so that scoring again replaces it.
"""

import pathlib
import re

from evaluation import summary, tables
from evaluation.results import Provenance
from evaluation.runs import Run
from evaluation.summary import LabelSummary, Summary

_NAME = "model_card.md"

# Where training.card leaves room; sections go before it.
_PLACE = "<!-- scores end here -->"


def complete(run: Run, found: Summary, told: Provenance) -> pathlib.Path | None:
    """Writes a run's scores into its model card.

    Returns:
      the card; None if the run has none, if nobody may write there, or if what was scored is not
      what was saved (an ensemble, other views).
    """
    path = run.path / _NAME
    labels = [item for item in found.labels if item.model == run.name]
    if not path.is_file() or not labels or run.members or run.tta is not None:
        return None
    card = path.read_text(encoding="utf-8")
    try:
        scored = section(labels, found.warnings, told, folds=bool(run.fold_of))
        summary.save_text(path, with_scores(card, scored, told))
    except OSError:  # nobody may write there, or the disk is read-only
        return None
    return path


def section(
    labels: list[LabelSummary], warnings: tuple[str, ...], told: Provenance, *, folds: bool = False
) -> str:
    """Returns the scores of one model, or of the folds of a cross-validation, in Markdown."""
    header = ("Label", "Dice (95 % interval)", "Accuracy", "HD95 in pixels", "Cases", "Patients")
    body = [
        (
            item.label,
            tables.with_interval(item.metrics["dice"].mean),
            tables.with_interval(item.metrics["accuracy"].mean),
            tables.with_interval(item.metrics["hd95_px"].mean, 1),
            str(item.cases),
            "unknown" if item.unknown_patients == item.cases else str(item.patients),
        )
        for item in labels
    ]
    answered = (
        "Each case by the network that held it out, or by the mean of all if none knows it,"
        if folds
        else "Of the saved network"
    )
    lines = [
        f"### Split {told.split} of `{told.manifest}`, scored on {told.date[:10]}",
        "",
        tables.markdown(header, body),
        f"{answered} on the original grid of each scan; means over cases, intervals by bootstrap "
        f"of patients, by `{told.command}`.",
        *(f"\n- {warning}" for warning in warnings),
    ]
    return "\n".join(lines)


def with_scores(card: str, section: str, told: Provenance) -> str:
    """Returns a card with a section put in, or put in place of the one of the same data."""
    name = f"{told.split} of {told.manifest_sha256[:12]}"
    begin, end = f"<!-- scores of {name}: begin -->", f"<!-- scores of {name}: end -->"
    whole = f"{begin}\n{section}\n{end}\n"
    if begin in card:
        old = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}\n", re.DOTALL)
        return old.sub(lambda _: whole, card)
    if _PLACE in card:
        return card.replace(_PLACE, f"{whole}\n{_PLACE}", 1)
    return f"{card}\n{whole}"
