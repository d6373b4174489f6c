"""What the scores of many cases say together; written to summary.json.

Every number says how it was put together: `mean` is over cases (each case counts the same),
`pooled` is over all pixels of all cases (large masks count more). Intervals are of patients.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evaluation import case_level, strata, stretch
from evaluation.journal import Scored
from evaluation.score import CaseScore, LabelScore
from models import calibration, statistics
from models.statistics import Comparison, Estimate

# Each metric with the range its interval is kept in and whether more is better.
METRICS: dict[str, tuple[float, float, bool]] = {
    "dice": (0, 1, True),
    "iou": (0, 1, True),
    "accuracy": (0, 1, True),
    "loss": (0, math.inf, False),
    "sensitivity": (0, 1, True),
    "specificity": (0, 1, True),
    "precision": (0, 1, True),
    "hd95_px": (0, math.inf, False),
    "balanced_accuracy": (0, 1, True),
    "f2": (0, 1, True),
    "hd95_mm": (0, math.inf, False),
    "assd_mm": (0, math.inf, False),
    "surface_dice": (0, 1, True),
    "size_error": (-math.inf, math.inf, False),
    "false_positive_size": (0, math.inf, False),
    "ece": (0, 1, False),
    "brier": (0, 1, False),
}
# Below this many patients intervals cover clearly less than they say (docs/evaluation.md).
FEW_PATIENTS = 10
COMPARED = ("dice", "accuracy", "loss")
STRATIFIED = ("dice", "accuracy", "loss")


@dataclasses.dataclass(frozen=True)
class MetricSummary:
    """One metric of one model and label over cases; those where it is undefined left out."""

    mean: Estimate
    median: float
    standard_deviation: float
    first_quartile: float
    third_quartile: float
    undefined: int  # cases


@dataclasses.dataclass(frozen=True)
class LabelSummary:
    """One model on one label."""

    model: str
    label: str
    modality: str
    cases: int
    patients: int
    unknown_patients: int  # cases whose patient nobody knows: each counts as its own
    empty: int  # cases whose true mask is empty
    metrics: dict[str, MetricSummary]
    pooled: dict[str, Estimate]  # over all pixels of all cases
    reliability: calibration.Reliability | None
    pooled_ece: float


@dataclasses.dataclass(frozen=True)
class StratumSummary:
    """One model and label on one group of cases."""

    stratification: str
    group: str
    model: str
    label: str
    cases: int
    metrics: dict[str, Estimate]
    median_dice: float
    warning: str  # why its groups cannot be compared; "" if nothing is known


@dataclasses.dataclass(frozen=True)
class LabelComparison:
    """Two models on one label and metric."""

    label: str
    metric: str
    result: Comparison


@dataclasses.dataclass(frozen=True)
class Summary:
    """All that is said of an evaluation beyond its rows."""

    labels: tuple[LabelSummary, ...]
    comparisons: tuple[LabelComparison, ...]
    strata: tuple[StratumSummary, ...]
    questions: tuple[case_level.CaseLevel, ...]
    severities: tuple[case_level.Severity, ...]
    shares: tuple[case_level.ShareAgreement, ...]
    warnings: tuple[str, ...]
    left_out: tuple[str, ...]  # ids of cases that some model knows from training


def table(rows: Iterable[LabelScore] | Iterable[CaseScore], kind: type) -> pd.DataFrame:
    """Returns scores as a table whose columns are the fields of `kind`."""
    names = [field.name for field in dataclasses.fields(kind)]
    return pd.DataFrame([dataclasses.asdict(row) for row in rows], columns=names)


def patients(scores: pd.DataFrame) -> np.ndarray:
    """Returns the patient of each row; a case of an unknown patient is its own."""
    unknown = "unknown patient of " + scores["case_id"].astype(str)
    return np.asarray(scores["patient_id"].where(scores["patient_id"] != "", unknown), object)


def make(scored: Sequence[Scored], *, training_asked_for: bool, seed: int = 0) -> Summary:
    """Sums up an evaluation.

    Cases that a model knows from training are left out for all models, unless they are what
    was asked for or there are no others.

    Args:
      scored: every trial.
      training_asked_for: the split was train or validation.
      seed: of the resampling.
    """
    scores = table((row for trial in scored for row in trial.rows), LabelScore)
    cases = table((trial.case for trial in scored), CaseScore)
    known = set(cases.loc[cases["seen"] != "", "case_id"])
    warnings = _knowledge(cases, known, training_asked_for)
    left_out = known if known < set(cases["case_id"]) and not training_asked_for else set()
    scores = scores[~scores["case_id"].isin(left_out)]
    cases = cases[~cases["case_id"].isin(left_out)]
    kept = [trial for trial in scored if trial.case.case_id not in left_out]
    warnings += _patients_unknown(scores) + _few_patients(scores) + _confounded(scores)
    warnings += stretch.suspicions(scores, patients(scores))
    return Summary(
        labels=tuple(_label_summaries(scores, kept, seed)),
        comparisons=tuple(_comparisons(scores, seed)),
        strata=tuple(_strata(scores, seed)),
        questions=tuple(case_level.summarise(cases, patients(cases), seed)),
        severities=tuple(case_level.severities(cases, patients(cases), seed)),
        shares=tuple(case_level.agreement(cases, patients(cases), seed)),
        warnings=tuple(warnings),
        left_out=tuple(sorted(left_out)),
    )


def _knowledge(cases: pd.DataFrame, known: set[str], asked_for: bool) -> list[str]:
    """Returns warnings about cases that models know from training."""
    told = []
    for model, rows in cases[cases["seen"] != ""].groupby("model", sort=False):
        counts = rows["seen"].value_counts()
        how = ", ".join(f"{counts[k]} by {k}" for k in counts.index)
        told.append(f"LEAKAGE: {model} knows {len(rows)} of its cases from training ({how})")
    if not told:
        return []
    if asked_for:
        return [f"{line}; the scores are not those of new patients" for line in told]
    if known >= set(cases["case_id"]):
        return [f"{line}; no other case is left, so the scores flatter it" for line in told]
    return [f"{line}; they are in scores.csv and left out of everything else" for line in told]


def _patients_unknown(scores: pd.DataFrame) -> list[str]:
    cases = scores.drop_duplicates("case_id")
    unknown = int((cases["patient_id"] == "").sum())
    if not unknown:
        return []
    return [
        f"{unknown} of {len(cases)} cases have no known patient and count as one each; if some "
        "are of one patient, the true intervals are wider, and splits may share patients"
    ]


def _few_patients(scores: pd.DataFrame) -> list[str]:
    counts = {
        label: len(set(patients(rows))) for label, rows in scores.groupby("label", sort=False)
    }
    return [
        f"{label}: only {count} patients; an interval of so few is a rough guide"
        for label, count in counts.items()
        if count < FEW_PATIENTS
    ]


def _confounded(scores: pd.DataFrame) -> list[str]:
    found = {modality: strata.confounder(rows) for modality, rows in scores.groupby("modality")}
    return [f"{modality}: {warning}" for modality, warning in found.items() if warning]


def _label_summaries(
    scores: pd.DataFrame, scored: Sequence[Scored], seed: int
) -> Iterable[LabelSummary]:
    for (model, label), rows in scores.groupby(["model", "label"], sort=False):
        bins = [
            s.reliability[label] for s in scored if s.case.model == model and label in s.reliability
        ]
        pool = sum(bins[1:], bins[0]) if bins else None
        truths = rows["true_positive"] + rows["false_negative"]
        yield LabelSummary(
            model=model,
            label=label,
            modality=", ".join(sorted(rows["modality"].unique())),
            cases=len(rows),
            patients=len(set(patients(rows))),
            unknown_patients=int((rows["patient_id"] == "").sum()),
            empty=int((truths == 0).sum()),
            metrics={name: _metric(rows, name, seed) for name in METRICS},
            pooled=_pooled(rows, seed),
            reliability=pool,
            pooled_ece=math.nan if pool is None else pool.expected_error,
        )


def _metric(rows: pd.DataFrame, name: str, seed: int) -> MetricSummary:
    values = rows[name].to_numpy(np.float64)
    known = values[np.isfinite(values)]
    quartiles = np.quantile(known, [0.25, 0.5, 0.75]) if len(known) else [math.nan] * 3
    return MetricSummary(
        mean=statistics.mean(values, patients(rows), seed).clipped(*METRICS[name][:2]),
        median=float(quartiles[1]),
        standard_deviation=float(known.std(ddof=1)) if len(known) > 1 else math.nan,
        first_quartile=float(quartiles[0]),
        third_quartile=float(quartiles[2]),
        undefined=len(values) - len(known),
    )


def _pooled(rows: pd.DataFrame, seed: int) -> dict[str, Estimate]:
    """Returns the overlap metrics as if all cases were one large image."""
    tp, fp, fn, tn = (
        rows[name].to_numpy(np.float64)
        for name in ("true_positive", "false_positive", "false_negative", "true_negative")
    )
    parts = {
        "dice": (2 * tp, 2 * tp + fp + fn),
        "iou": (tp, tp + fp + fn),
        "accuracy": (tp + tn, tp + fp + fn + tn),
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "precision": (tp, tp + fp),
    }
    groups = patients(rows)
    return {
        name: statistics.ratio(part, whole, groups, seed).clipped(0, 1)
        for name, (part, whole) in parts.items()
    }


def _comparisons(scores: pd.DataFrame, seed: int) -> list[LabelComparison]:
    """Compares every two models on the cases they share; Holm over all of them."""
    found = []
    for label, rows in scores.groupby("label", sort=False):
        models = list(dict.fromkeys(rows["model"]))
        pairs = [(a, b) for i, a in enumerate(models) for b in models[i + 1 :]]
        for metric in COMPARED:
            wide = rows.pivot_table(index="case_id", columns="model", values=metric, dropna=False)
            who = pd.Series(patients(rows), rows["case_id"].to_numpy())
            who = who[~who.index.duplicated()].reindex(wide.index).to_numpy(object)
            for first, second in pairs:
                if first not in wide or second not in wide:
                    continue
                values = wide[first].to_numpy(), wide[second].to_numpy()
                result = statistics.compare(first, second, *values, who, seed)
                found.append(LabelComparison(str(label), metric, result))
    corrected = statistics.holm([item.result.wilcoxon_p for item in found])
    return [
        dataclasses.replace(item, result=dataclasses.replace(item.result, holm_p=p))
        for item, p in zip(found, corrected, strict=True)
    ]


def _strata(scores: pd.DataFrame, seed: int) -> Iterable[StratumSummary]:
    for stratification in strata.STRATIFICATIONS:
        warnings = {
            label: strata.warning(stratification, rows)
            for label, rows in scores.groupby("label", sort=False)
        }
        groups = stratification.group_of(scores)
        for group in strata.in_order(groups.unique()):
            there = scores[groups == group].groupby(["model", "label"], sort=False)
            for (model, label), rows in there:
                yield StratumSummary(
                    stratification=stratification.name,
                    group=group,
                    model=model,
                    label=label,
                    cases=len(rows),
                    metrics={name: _metric(rows, name, seed).mean for name in STRATIFIED},
                    median_dice=float(rows["dice"].median()),
                    warning=warnings[label],
                )


def save_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes JSON with NaN as null; the file appears whole or not at all."""
    text = json.dumps(plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    save_text(path, text)


def save_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def plain(value: Any) -> Any:
    """Returns a value that JSON can hold: no NaN, no NumPy, no dataclasses, no paths."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
