"""dashboard.html: one file that holds everything and asks the network for nothing."""

import dataclasses
import html
import json
import pathlib
import re
from collections.abc import Mapping, Sequence

import pandas as pd

from evaluation import boundary, case_level, figures, metrics, strata, summary, tables
from evaluation.figures import Draw
from evaluation.gallery import Pick
from evaluation.pictures import Picture
from evaluation.summary import Summary
from models import calibration
from models.statistics import CONFIDENCE, RESAMPLES

_PAGE = pathlib.Path(__file__).parent / "page"

CAPTIONS = {
    "comparison": "Each model's means with their 95 % intervals.",
    **dict.fromkeys(
        (f"by_{division.file}" for division in strata.STRATIFICATIONS),
        "Boxes: median and quartiles; whiskers: 1.5 times their distance; dots: cases.",
    ),
    "reliability": "On the dashed line a probability means what it says.",
    "whole_cases": "Left: ROC; right: precision-recall; in brackets the areas' 95 % intervals. On "
    "the dashed line a model says nothing about the case.",
    "infected_share": "Full line: bias; dashed lines: limits of agreement (1.96 deviations).",
    "training": "Dashed: on training cases, as augmented; full: on validation cases.",
}

METRIC_TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "f2": f"F-beta, beta {metrics.BETA:g}",
    "hd95_px": "HD95 (px)",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "Average surface distance (mm)",
    "surface_dice": f"Surface Dice at {boundary.TOLERANCE_MM:g} mm",
    "size_error": "Size error (px, mm2, ml)",
    "false_positive_size": "False positives on empty cases (px, mm2, ml)",
    "loss": "Loss, NLL (nats per pixel)",
    "ece": f"Calibration error (ECE, {calibration.BINS} bins)",
    "brier": "Brier score",
}

_COLUMNS = (
    ("case_id", "Case", 0),
    ("model", "Model", 0),
    ("label", "Label", 0),
    ("diagnosis", "Diagnosis", 0),
    ("dataset", "Data set", 0),
    ("dice", "Dice", 3),
    ("accuracy", "Accuracy", 3),
    ("loss", "Loss", 3),
    ("sensitivity", "Sensitivity", 3),
    ("precision", "Precision", 3),
    ("hd95_px", "HD95 (px)", 1),
)
_TEXT = ("case_id", "model", "label", "diagnosis", "dataset")

LIMITS = (
    "Research software: not a medical device, not for diagnosis or treatment.",
    "A score holds for patients, devices and annotators like those scored here, not beyond.",
    "Where patients are unknown, images of one patient may be among training and test cases.",
    "Outlines of two annotators of one image differ too (Dice 0.79 between two conventions of "
    "what the lung is), so scores near 1 mean agreement with one annotator.",
    "Masks are made as spec.json says (threshold, cleaning), learnt on validation cases if at all.",
)


@dataclasses.dataclass(frozen=True)
class Page:
    """All that a dashboard shows."""

    title: str
    found: Summary
    scores: pd.DataFrame  # columns of score.LabelScore
    drawings: Mapping[str, Draw]  # by the names of CAPTIONS
    picks: Sequence[Pick]
    pictures: Sequence[Picture]
    provenance: Mapping[str, object]  # as in summary.json


def render(page: Page) -> str:
    """Returns the whole page as HTML."""
    parts = {
        "title": html.escape(page.title),
        "subtitle": html.escape(_subtitle(page)),
        "css": (_PAGE / "page.css").read_text(encoding="utf-8"),
        "js": (_PAGE / "page.js").read_text(encoding="utf-8"),
        "navigation": _navigation(page),
        "warnings": "".join(_warning(text) for text in page.found.warnings),
        "scores": _scores(page.found),
        "figures": "".join(_figure(name, draw) for name, draw in page.drawings.items()),
        "provenance": _provenance(page.provenance),
        "limits": "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in LIMITS) + "</ul>",
        "data": _data(page),
    }
    template = (_PAGE / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found.group(1)], template)


def _subtitle(page: Page) -> str:
    cases = page.scores["case_id"].nunique()
    models = page.scores["model"].nunique()
    return (
        f"{cases} cases, {models} model{'' if models == 1 else 's'}, split "
        f"{page.provenance['split']}, scored {page.provenance['date']}"
    )


def _navigation(page: Page) -> str:
    names = {
        "scores": "Scores", "figures": "Figures", "viewer": "Masks", "galleries": "Galleries",
        "cases": "Every case", "provenance": "Provenance", "limits": "Limits",
    }  # fmt: skip
    if not page.pictures:
        names = {k: v for k, v in names.items() if k not in ("viewer", "galleries")}
    return "".join(f'<a href="#{key}">{name}</a>' for key, name in names.items())


def _warning(text: str) -> str:
    return f'<p class="warning" role="note">{html.escape(text)}</p>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 2) -> str:
    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=text' if i < text_columns else ''}>{html.escape(value)}</{tag}>"
            for i, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    head = f"<thead><tr>{cells('th', header)}</tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _scores(found: Summary) -> str:
    parts = [
        _table(tables.HEADER, tables.rows(found.labels)),
        f'<p class="note">{html.escape(tables.NOTE)} {RESAMPLES} resamples of patients, '
        f"{CONFIDENCE:.0%} interval.</p>",
    ]
    if found.comparisons:
        parts.append("<h3>Model against model</h3>" + _comparisons(found))
    parts.append("<h3>More metrics</h3>" + _more_metrics(found))
    parts.append("<h3>By group</h3>" + _strata(found))
    if found.questions:
        parts.append("<h3>Whole cases</h3>" + _questions(found.questions))
    if found.severities:
        parts.append("<h3>Severity, by the infected share of the lung</h3>")
        parts += map(_severity, found.severities)
    if found.shares:
        parts.append("<h3>Infected share of the lung</h3>" + _shares(found.shares))
    return "".join(parts)


def _comparisons(found: Summary) -> str:
    rows = [
        (
            f"{item.result.first} - {item.result.second}",
            item.label,
            item.metric,
            tables.with_interval(item.result.difference),
            tables.p_value(item.result.wilcoxon_p),
            tables.p_value(item.result.holm_p),
        )
        for item in found.comparisons
    ]
    header = ("Models", "Label", "Metric", "Difference (95 % interval)", "Wilcoxon p", "Holm p")
    return _table(header, rows) + (
        '<p class="note">Paired by case; interval: bootstrap of patients; p: signed ranks of '
        "patients, corrected for all rows.</p>"
    )


def _more_metrics(found: Summary) -> str:
    names = [
        name
        for name in METRIC_TITLES
        if any(item.metrics[name].mean.cases for item in found.labels)
    ]
    rows = [
        (
            METRIC_TITLES[name],
            item.model,
            item.label,
            tables.with_interval(m.mean),
            tables.number(m.median),
            f"{tables.number(m.first_quartile)} to {tables.number(m.third_quartile)}",
            tables.number(item.pooled[name].value) if name in item.pooled else "-",
            str(m.mean.cases),
        )
        for name in names
        for item in found.labels
        for m in [item.metrics[name]]
    ]
    header = ("Metric", "Model", "Label", "Mean over cases (95 % interval)", "Median", "Quartiles")
    return (
        "<details><summary>Every metric of every model</summary>"
        + _table((*header, "Pooled over pixels", "Cases"), rows, 3)
        + "</details>"
    )


def _strata(found: Summary) -> str:
    rows = [
        (
            item.stratification,
            item.group,
            item.model,
            item.label,
            tables.with_interval(item.metrics["dice"]),
            tables.number(item.median_dice),
            tables.number(item.metrics["accuracy"].value),
            str(item.cases),
        )
        for item in found.strata
    ]
    header = ("Division", "Group", "Model", "Label", "Dice (95 % interval)", "Median Dice")
    told = dict.fromkeys(item.warning for item in found.strata if item.warning)
    return (
        "".join(map(_warning, told))
        + "<details><summary>Scores by group</summary>"
        + _table((*header, "Accuracy", "Cases"), rows, 4)
        + "</details>"
    )


def _questions(questions: Sequence[case_level.CaseLevel]) -> str:
    rows = [
        (
            item.model,
            f"{item.question} ({item.modality})",
            f"{item.positives} / {item.negatives}",
            tables.with_interval(item.roc_auc),
            tables.with_interval(item.pr_auc),
            tables.with_interval(item.sensitivity),
            tables.with_interval(item.specificity),
            f"{item.true_positive} / {item.false_positive}",
            f"{item.false_negative} / {item.true_negative}",
        )
        for item in questions
    ]
    header = (
        *("Model", "Question", "Yes / no", "ROC AUC", "PR AUC"),
        *("Sensitivity", "Specificity", "Said yes: right / wrong", "Said no: wrong / right"),
    )
    warnings = dict.fromkeys(item.warning for item in questions if item.warning)
    return "".join(_warning(text) for text in warnings) + _table(header, rows)


def _severity(item: case_level.Severity) -> str:
    rows = [
        (name, *(str(count) if count else "." for count in counts))
        for name, counts in zip(case_level.GRADES, item.matrix, strict=True)
    ]
    said = (
        f"{item.model}, {item.cases} cases: the true grade in "
        f"{tables.with_interval(item.same, 2)} of cases, at most one grade off in "
        f"{tables.with_interval(item.within_one, 2)}. Rows: true grade; columns: predicted."
    )
    note = f'<p class="note">{html.escape(said)}</p>'
    warned = _warning(item.warning) if item.warning else ""
    return warned + note + _table(("True grade", *case_level.GRADES), rows, 1)


def _shares(shares: Sequence[case_level.ShareAgreement]) -> str:
    rows = [
        (
            item.model,
            str(item.cases),
            tables.with_interval(item.bias, 1),
            tables.with_interval(item.absolute_error, 1),
            f"{tables.number(item.lower_limit, 1)} to {tables.number(item.upper_limit, 1)}",
            f"{tables.number(item.share_on_empty, 1)} ({item.empty_cases} cases)",
        )
        for item in shares
    ]
    header = ("Model", "Cases", "Bias (points)", "Absolute error (points)", "Limits of agreement")
    return _table((*header, "Percent outlined where nothing is infected"), rows, 1)


def _figure(name: str, draw: Draw) -> str:
    light, dark = figures.svg(draw), figures.svg(draw, dark=True)
    # Both shades of a picture name their parts alike, and a page may use a name only once.
    pictures = "".join(
        f'<span class="for-{shade}">{_renamed(text, f"{name}-{shade}-")}</span>'
        for shade, text in (("light", light), ("dark", dark))
    )
    return f"<figure>{pictures}<figcaption>{html.escape(CAPTIONS[name])}</figcaption></figure>"


def _renamed(svg: str, prefix: str) -> str:
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    return re.sub(r"url\(#", f"url(#{prefix}", svg)


def _provenance(provenance: Mapping[str, object]) -> str:
    shown = {k: v for k, v in provenance.items() if not isinstance(v, Mapping)}
    items = "".join(
        f"<dt>{html.escape(k)}</dt><dd>{html.escape(str(v))}</dd>" for k, v in shown.items()
    )
    details = json.dumps(
        {k: v for k, v in provenance.items() if isinstance(v, Mapping)}, indent=1, default=str
    )
    return (
        f"<dl>{items}</dl><details><summary>Models, settings and versions</summary>"
        f"<pre>{html.escape(details)}</pre></details>"
    )


def _data(page: Page) -> str:
    names = [name for name, _, _ in _COLUMNS]
    content = {
        "models": list(dict.fromkeys(page.scores["model"])),
        "labels": list(dict.fromkeys(page.scores["label"])),
        "columns": [
            {"name": name, "title": title, "digits": digits, "text": name in _TEXT}
            for name, title, digits in _COLUMNS
        ],
        "rows": page.scores[names].to_dict("records"),
        "picks": list(page.picks),
        "pictures": list(page.pictures),
    }
    # In a script element only "</" could end it early.
    return json.dumps(summary.plain(content), separators=(",", ":")).replace("</", "<\\/")
