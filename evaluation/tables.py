"""The table model x label, for a terminal, for Markdown, LaTeX and CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import rich.box
import rich.table

from evaluation.summary import LabelSummary, Summary
from models.statistics import Estimate

HEADER = ("Model", "Label", "Accuracy", "Loss", "Dice (95 % interval)", "Cases", "Patients")
_NAMES = ("Task", *HEADER[:2])  # columns of text
MODELS = {
    "unet": "U-Net",
    "unet_residual": "residual U-Net",
    "light": "light U-Net",
    "cnn": "CNN",
    "threshold": "Thresholding",
}
NOTE = "Means over cases; interval: bootstrap of patients. Loss: nats per pixel."


def number(value: float, digits: int = 3) -> str:
    """Returns a number for reading; a dash where it is undefined."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def with_interval(estimate: Estimate, digits: int = 3) -> str:
    """Returns "0.951 (0.940-0.960)"; without brackets where there is no interval."""
    if math.isnan(estimate.low):
        return number(estimate.value, digits)
    low, high = number(estimate.low, digits), number(estimate.high, digits)
    dash = " to " if estimate.low < 0 else "-"
    return f"{number(estimate.value, digits)} ({low}{dash}{high})"


def with_stored_interval(estimate: Mapping[str, float | None], digits: int = 3) -> str:
    """The same of an estimate in summary.json, where null is what is undefined."""
    found = (estimate[name] for name in ("value", "low", "high"))
    value, low, high = (math.nan if number is None else number for number in found)
    return with_interval(Estimate(value, low, high, 0, 0), digits)


def p_value(p: float) -> str:
    """Returns a p value as journals print it."""
    return "-" if math.isnan(p) else ("< 0.001" if p < 0.001 else f"{p:.3f}")


def rows(labels: Sequence[LabelSummary]) -> list[tuple[str, ...]]:
    """Returns one row of text a model and label, in the columns of HEADER."""
    return [
        (
            item.model,
            item.label,
            number(item.metrics["accuracy"].mean.value),
            number(item.metrics["loss"].mean.value),
            with_interval(item.metrics["dice"].mean),
            str(item.cases) + (f" ({item.empty} empty)" if item.empty else ""),
            "unknown" if item.unknown_patients == item.cases else str(item.patients),
        )
        for item in labels
    ]


def for_terminal(labels: Sequence[LabelSummary]) -> rich.table.Table:
    """Returns the table for a rich console, narrow enough for 80 columns."""
    table = rich.table.Table(
        title="Scores", caption=NOTE, caption_justify="left", box=rich.box.SIMPLE_HEAD
    )
    for name in HEADER[:-1]:
        heading = name.replace(" (", "\n(")
        justify: Literal["left", "right"] = "left" if name in HEADER[:2] else "right"
        overflow: Literal["fold", "ellipsis"] = "fold" if name == "Model" else "ellipsis"
        table.add_column(
            heading,
            justify=justify,
            no_wrap=name != "Model",
            overflow=overflow,
            min_width=12 if name == "Model" else None,
        )
    for row in rows(labels):
        table.add_row(*row[:-1])
    return table


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table; names to the left, numbers to the right."""
    ruler = [":---" if name in _NAMES else "---:" for name in header]
    lines = [header, ruler, *body]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def latex(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Returns a LaTeX table (package booktabs)."""
    columns = "".join("l" if name in _NAMES else "r" for name in header)
    lines = [" & ".join(map(_escaped, cells)) + r" \\" for cells in (header, *body)]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    for sign in "%&_#$":
        text = text.replace(sign, "\\" + sign)
    return text.replace("<", "$<$")


def as_csv(summary: Summary) -> str:
    """Returns every metric's summary, a row a model, label and metric; NaN is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        (
            *("model", "label", "metric", "over", "value", "low", "high", "median"),
            *("standard_deviation", "first_quartile", "third_quartile"),
            *("cases", "patients", "undefined"),
        )
    )
    for item in summary.labels:
        for name, metric in item.metrics.items():
            spread = (metric.median, metric.standard_deviation)
            quartiles = (metric.first_quartile, metric.third_quartile)
            counts = (metric.mean.cases, metric.mean.patients, metric.undefined)
            values = map(_cell, (*_ends(metric.mean), *spread, *quartiles))
            writer.writerow((item.model, item.label, name, "cases", *values, *counts))
        for name, pooled in item.pooled.items():
            counts = (pooled.cases, pooled.patients, 0)
            values = map(_cell, (*_ends(pooled), *[math.nan] * 4))
            writer.writerow((item.model, item.label, name, "pixels", *values, *counts))
    return text.getvalue()


def groups_csv(summary: Summary) -> str:
    """Returns the means of each group of cases, each row with the warning that belongs to it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ("division", "group", "model", "label", "metric", "value", "low", "high")
    writer.writerow((*head, "cases", "patients", "warning"))
    for item in summary.strata:
        who = (item.stratification, item.group, item.model, item.label)
        for name, mean in item.metrics.items():
            counts = (mean.cases, mean.patients)
            writer.writerow((*who, name, *map(_cell, _ends(mean)), *counts, item.warning))
    return text.getvalue()


def _ends(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
