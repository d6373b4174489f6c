"""Figures of an evaluation, each drawn from its scores; the same for papers and the dashboard."""

import functools
import io
import math
import pathlib
import textwrap
import warnings
from collections.abc import Callable, Iterable, Sequence

import matplotlib
import matplotlib.axes
import matplotlib.figure
import pandas as pd
import seaborn

from evaluation import appearance, case_level, strata, tables
from evaluation.summary import LabelSummary, Summary
from models.calibration import BINS

SHOWN = (("dice", "Dice"), ("accuracy", "Accuracy"), ("loss", "Loss (nats per pixel)"))
_MOST_POINTS = 2000  # in a strip plot; more hide each other and swell the file

Draw = Callable[[], matplotlib.figure.Figure]


def all_figures(scores: pd.DataFrame, cases: pd.DataFrame, summary: Summary) -> dict[str, Draw]:
    """Returns what draws each figure, by file name without ending; those without data left out.

    Args:
      scores: the columns of score.LabelScore.
      cases: the columns of score.CaseScore.
      summary: of both.
    """
    drawings: dict[str, Draw] = {"comparison": lambda: comparison(summary.labels)}
    for division in strata.STRATIFICATIONS:
        if worth_drawing(scores, division):
            drawings[f"by_{division.file}"] = functools.partial(by_group, scores, division)
    if any(item.reliability is not None for item in summary.labels):
        drawings["reliability"] = lambda: reliability(summary.labels)
    if summary.questions:
        drawings["whole_cases"] = lambda: whole_cases(summary.questions)
    if cases["share_error"].notna().any():
        drawings["infected_share"] = lambda: bland_altman(cases)
    return drawings


def comparison(labels: Iterable[LabelSummary]) -> matplotlib.figure.Figure:
    """Draws each metric of each model with its 95 % interval, a row a label."""
    items = list(labels)
    names = list(dict.fromkeys(item.label for item in items))
    models = list(dict.fromkeys(item.model for item in items))
    colour = appearance.colours(models)
    figure = appearance.figure(10.5, 1.1 + len(names) * (0.9 + 0.38 * len(models)))
    axes = figure.subplots(len(names), len(SHOWN), squeeze=False)
    for row, label in zip(axes, names, strict=True):
        here = {item.model: item for item in items if item.label == label}
        for axis, (metric, title) in zip(row, SHOWN, strict=True):
            for place, model in enumerate(models):
                if model in here:
                    mean = here[model].metrics[metric].mean
                    _interval(axis, place, mean.value, mean.low, mean.high, colour[model])
            axis.set_yticks(range(len(models)), models if axis is row[0] else [""] * len(models))
            axis.set_ylim(len(models) - 0.4, -0.6)
            axis.grid(axis="x", linewidth=0.6)
            axis.set_title(f"{label}: {title}", loc="left")
    count = max(item.cases for item in items)
    figure.supxlabel(
        f"mean over cases (up to {count}) with 95 % interval, bootstrap of patients", fontsize=8
    )
    return figure


def _interval(axis: object, y: int, value: float, low: float, high: float, colour: str) -> None:
    if math.isnan(value):
        return
    if not math.isnan(low):
        axis.plot([low, high], [y, y], color=colour, linewidth=2.5, solid_capstyle="butt")  # type: ignore[attr-defined]
    marker = appearance.MARKERS[y % len(appearance.MARKERS)]
    axis.plot([value], [y], marker, color=colour, markersize=7)  # type: ignore[attr-defined]
    axis.annotate(  # type: ignore[attr-defined]
        f"{value:.3f}", (value, y), (0, 7), textcoords="offset points", ha="center", fontsize=8
    )


def worth_drawing(scores: pd.DataFrame, division: strata.Stratification) -> bool:
    """Whether a division of the cases that have a Dice has more than one group.

    The diagnosis is drawn with one group too, since readers look for it.
    """
    there = scores[scores["dice"].notna()]
    if there.empty:
        return False
    counts = [division.group_of(rows).nunique() for _, rows in there.groupby("label")]
    return max(counts) > 1 or division.file == "diagnosis"


def by_group(scores: pd.DataFrame, division: strata.Stratification) -> matplotlib.figure.Figure:
    """Draws Dice by the groups of a division, with the confounder's warning beneath."""
    table = scores[scores["dice"].notna()]
    labels, models = (list(dict.fromkeys(table[name])) for name in ("label", "model"))
    colour = appearance.colours(list(dict.fromkeys(scores["model"])))
    warned = [strata.warning(division, rows) for _, rows in scores.groupby("label", sort=False)]
    lines = [line for text in dict.fromkeys(warned) for line in textwrap.wrap(text, 118)]
    figure = appearance.figure(10.5, 0.5 + 3.4 * len(labels) + 0.18 * len(lines))
    for axis, label in zip(figure.subplots(len(labels), squeeze=False)[:, 0], labels, strict=True):
        rows = table[table["label"] == label]
        rows = rows.assign(group=division.group_of(rows))
        here = [m for m in models if (rows["model"] == m).any()]
        _boxes(axis, rows, here, colour)
        axis.set_title(f"Dice by {division.name}: {label}", loc="left")
    if lines:
        figure.supxlabel("\n".join(lines), fontsize=8.5, ha="center")
    return figure


def _boxes(
    axis: matplotlib.axes.Axes, rows: pd.DataFrame, models: list[str], colour: dict[str, str]
) -> None:
    groups = strata.in_order(rows["group"].unique())
    options = {
        "x": "group", "y": "dice", "hue": "model", "order": groups, "hue_order": models,
        "palette": colour, "ax": axis, "legend": False,
    }  # fmt: skip
    with warnings.catch_warnings():
        # seaborn 0.13 passes an argument that matplotlib 3.11 renamed; ours are current.
        warnings.filterwarnings("ignore", message="vert: bool was deprecated")
        seaborn.boxplot(
            data=rows, showfliers=False, width=0.75 if len(groups) > 1 else 0.3, gap=0.15,
            linewidth=1, linecolor=matplotlib.rcParams["text.color"],
            boxprops={"alpha": 0.55}, **options,
        )  # fmt: skip
    some = rows.sample(min(len(rows), _MOST_POINTS), random_state=0)
    seaborn.stripplot(
        data=some, dodge=True, size=3.5, linewidth=0.5,
        edgecolor=matplotlib.rcParams["text.color"], **options,
    )  # fmt: skip
    counts = rows.groupby("group")["case_id"].nunique()
    names = ["\n".join(textwrap.wrap(group, 24)) for group in groups]
    ticks = [f"{name}\n{counts[group]} cases" for name, group in zip(names, groups, strict=True)]
    axis.set_xticks(range(len(groups)), ticks)
    axis.set(xlabel="", ylabel="Dice")
    axis.grid(axis="y", linewidth=0.6)
    for model in models:
        axis.plot([], [], "s", color=colour[model], label=model)
    axis.legend(
        loc="lower right", bbox_to_anchor=(1, 1), fontsize=8, ncols=len(models), borderaxespad=0
    )


def whole_cases(questions: Sequence[case_level.CaseLevel]) -> matplotlib.figure.Figure:
    """Draws ROC and precision-recall curves, a row a question and modality, with its warning."""
    rows = list(dict.fromkeys((item.question, item.modality) for item in questions))
    colour = appearance.colours(list(dict.fromkeys(item.model for item in questions)))
    figure = appearance.figure(9.5, 4.2 * len(rows))
    axes = figure.subplots(len(rows), 2, squeeze=False)
    for (roc, recall), (question, modality) in zip(axes, rows, strict=True):
        here = [i for i in questions if (i.question, i.modality) == (question, modality)]
        roc.plot([0, 1], [0, 1], "--", color="#888888", linewidth=1)
        share = here[0].positives / (here[0].positives + here[0].negatives)
        recall.axhline(share, linestyle="--", color="#888888", linewidth=1)
        for item in here:
            curve, style = item.curve, {"color": colour[item.model], "linewidth": 1.6}
            area, average = (tables.with_interval(e, 2) for e in (item.roc_auc, item.pr_auc))
            roc.plot(
                curve.false_positive_rate, curve.sensitivity, label=f"{item.model} {area}", **style
            )
            recall.step(
                curve.sensitivity, curve.precision, where="pre", label=f"{item.model} {average}",
                **style,
            )  # fmt: skip
        asked = f"{question} ({modality}, {here[0].positives} yes, {here[0].negatives} no)"
        roc.set_title(asked, loc="left")
        roc.set(xlabel="1 - specificity", ylabel="sensitivity")
        recall.set(xlabel="recall (sensitivity)", ylabel="precision")
        for axis, title in ((roc, "ROC AUC"), (recall, "PR AUC")):
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            axis.grid(linewidth=0.6)
            axis.legend(
                title=title, fontsize=8, loc="lower right" if axis is roc else "upper right"
            )
        warned = dict.fromkeys(item.warning for item in here if item.warning)
        lines = [line for text in warned for line in textwrap.wrap(text, 110)]
        if lines:
            roc.annotate(
                "\n".join(lines), (0, 0), (-40, -38), xycoords="axes fraction",
                textcoords="offset points", fontsize=8, va="top",
            )  # fmt: skip
    return figure


def reliability(labels: Iterable[LabelSummary]) -> matplotlib.figure.Figure:
    """Draws how often pixels of a said probability are in the true mask, pooled over cases."""
    items = [item for item in labels if item.reliability is not None]
    names = list(dict.fromkeys(item.label for item in items))
    colour = appearance.colours(list(dict.fromkeys(item.model for item in items)))
    figure = appearance.figure(4.6 * len(names) + 0.6, 4.4)
    for axis, label in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axis.plot([0, 1], [0, 1], "--", color="#888888", linewidth=1)
        for place, item in enumerate(i for i in items if i.label == label):
            bins = item.reliability
            if bins is None:
                continue
            there = bins.pixels > 0
            axis.plot(
                bins.said[there] / bins.pixels[there],
                bins.true[there] / bins.pixels[there],
                marker=appearance.MARKERS[place % len(appearance.MARKERS)],
                markersize=4,
                color=colour[item.model],
                label=f"{item.model} (ECE {item.pooled_ece:.3f})",
            )
        axis.set(
            xlabel=f"probability said ({BINS} bins)", ylabel="share of pixels in the true mask",
            title=f"{label}: calibration", xlim=(0, 1), ylim=(0, 1),
        )  # fmt: skip
        axis.grid(linewidth=0.6)
        axis.legend(loc="upper left", fontsize=8)
    return figure


def bland_altman(cases: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draws predicted minus true infected share of the lung over their mean, a panel a model."""
    rows = cases[cases["share_error"].notna()]
    models = list(dict.fromkeys(rows["model"]))
    colour = appearance.colours(list(dict.fromkeys(cases["model"])))
    figure = appearance.figure(4.4 * len(models) + 0.6, 4.2)
    axes = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
    for axis, model in zip(axes, models, strict=True):
        here = rows[rows["model"] == model]
        error = here["share_error"].to_numpy()
        middle = (here["share_of_lung"] + here["true_share_of_lung"]) / 2
        axis.scatter(middle, error, s=14, color=colour[model])
        spread = 1.96 * error.std(ddof=1) if len(error) > 1 else math.nan
        for offset, line in ((0, "-"), (-spread, "--"), (spread, "--")):
            if not math.isnan(offset):
                axis.axhline(error.mean() + offset, color="#888888", linestyle=line, linewidth=1)
        axis.set(
            title=f"{model}: bias {error.mean():+.1f} points",
            xlabel="mean of true and predicted share (% of lung)",
        )
        axis.grid(linewidth=0.6)
    axes[0].set_ylabel("predicted - true (percentage points)")
    return figure


def save(drawings: dict[str, Draw], folder: pathlib.Path) -> None:
    """Writes each figure as PNG and SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in drawings.items():
        with appearance.style():
            drawn = draw()
            for ending in ("png", "svg"):
                buffer = io.BytesIO()
                drawn.savefig(buffer, format=ending, dpi=150, metadata=_undated(ending))
                path = folder / f"{name}.{ending}"
                unfinished = path.with_name(f".{path.name}")
                unfinished.write_bytes(buffer.getvalue())
                unfinished.replace(path)


def svg(draw: Draw, *, dark: bool = False) -> str:
    """Returns a figure as an <svg> element to stand inside a page."""
    with appearance.style(dark=dark):
        buffer = io.StringIO()
        draw().savefig(buffer, format="svg", transparent=True, metadata=_undated("svg"))
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _undated(ending: str) -> dict[str, None]:
    return {"Date": None} if ending == "svg" else {}
