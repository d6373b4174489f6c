"""Scores of whole cases: is there infection, is it COVID-19, how much of the lung is infected.

A mask model answers such questions by how much it outlines. The share of the grid that it
outlines as infection ranks the cases; at POSITIVE_PERCENT or more the answer is yes. That limit
was fixed beforehand and is not tuned on any test case.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from evaluation import statistics, strata
from evaluation.statistics import Estimate

POSITIVE_PERCENT = 0.5  # of the image

INFECTED = "infection present"
COVID = "COVID-19 against all others"


@dataclasses.dataclass(frozen=True)
class CaseLevel:
    """How well a model answers one yes-or-no question about whole cases."""

    model: str
    question: str
    modality: str
    positives: int
    negatives: int
    roc_auc: Estimate
    pr_auc: Estimate
    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int
    sensitivity: Estimate
    specificity: Estimate
    accuracy: Estimate
    warning: str  # why the answer may not mean what it seems to; "" if nothing is known


@dataclasses.dataclass(frozen=True)
class ShareAgreement:
    """Infected share of the lung, predicted against true (Bland & Altman, Lancet 1986)."""

    model: str
    cases: int
    bias: Estimate  # percentage points, predicted - true
    absolute_error: Estimate  # percentage points
    lower_limit: float  # of agreement: bias - 1.96 standard deviations
    upper_limit: float
    empty_cases: int  # whose true share is zero
    share_on_empty: float  # percent outlined there, on average


def summarise(cases: pd.DataFrame, patients: np.ndarray, seed: int = 0) -> Iterable[CaseLevel]:
    """Answers both questions for each model that outlines infection, where both answers occur.

    Args:
      cases: the columns of score.CaseScore.
      patients: the patient of each row.
      seed: of the resampling.
    """
    for (model, modality), index in cases.groupby(["model", "modality"], sort=False).groups.items():
        rows = cases.loc[index].assign(patient=patients[cases.index.get_indexer(index)])
        rows = rows[rows["infection_share"].notna()]
        annotated = rows[rows["true_infection"] != ""]
        yield from _answer(
            annotated, annotated["true_infection"] == "yes", INFECTED, model, modality, seed
        )
        diagnosis = rows["diagnosis"].map(strata.diagnosis_group)
        diagnosed = rows[diagnosis != strata.UNKNOWN]
        yield from _answer(
            diagnosed,
            diagnosis[diagnosis != strata.UNKNOWN] == strata.COVID,
            COVID,
            model,
            modality,
            seed,
        )


def _answer(
    rows: pd.DataFrame, truth: pd.Series, question: str, model: object, modality: object, seed: int
) -> Iterable[CaseLevel]:
    true = truth.to_numpy(bool)
    if true.all() or not true.any():
        return
    score = rows["infection_share"].to_numpy(np.float64)
    said = score >= POSITIVE_PERCENT
    groups = rows["patient"].to_numpy(object)
    yield CaseLevel(
        model=str(model),
        question=question,
        modality=str(modality),
        positives=int(true.sum()),
        negatives=int((~true).sum()),
        roc_auc=_interval(roc_auc, true, score, groups, seed),
        pr_auc=_interval(average_precision, true, score, groups, seed),
        true_positive=int((true & said).sum()),
        false_positive=int((~true & said).sum()),
        false_negative=int((true & ~said).sum()),
        true_negative=int((~true & ~said).sum()),
        sensitivity=statistics.ratio(true & said, true, groups, seed).clipped(0, 1),
        specificity=statistics.ratio(~true & ~said, ~true, groups, seed).clipped(0, 1),
        accuracy=statistics.ratio(true == said, np.ones(len(true)), groups, seed).clipped(0, 1),
        warning=strata.confounder(rows),
    )


Area = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def roc_auc(true: np.ndarray, score: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Chance that a positive case scores higher than a negative one; ties count one half.

    Args:
      true: bool (cases,).
      score: float (cases,).
      weight: how often each case counts; once if None.
    """
    above, below = _curve(true, score, weight)
    if not above[-1] or not below[-1]:
        return math.nan
    steps = np.diff(below) * (above[1:] + above[:-1]) / 2
    return float(steps.sum() / (above[-1] * below[-1]))


def average_precision(
    true: np.ndarray, score: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """Area under the precision-recall curve as a sum of steps; arguments as roc_auc."""
    above, below = _curve(true, score, weight)
    if not above[-1]:
        return math.nan
    precision = above[1:] / np.maximum(above[1:] + below[1:], 1e-300)
    return float((np.diff(above) * precision).sum() / above[-1])


def _curve(
    true: np.ndarray, score: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns positives and negatives at or above each score, from the highest down."""
    weight = np.ones(len(score)) if weight is None else weight
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    above = np.cumsum((weight * true)[order])[last]
    below = np.cumsum((weight * ~true)[order])[last]
    return np.append(0.0, above), np.append(0.0, below)


def _interval(
    area: Area,
    true: np.ndarray,
    score: np.ndarray,
    groups: np.ndarray,
    seed: int,
) -> Estimate:
    """Percentile bootstrap of patients: an area is no mean, so bootstrap-t has no short form."""
    names, patient = np.unique(groups.astype(str), return_inverse=True)
    rng = np.random.default_rng(seed)
    areas = []
    for _ in range(statistics.RESAMPLES):
        drawn = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        areas.append(area(true, score, drawn[patient].astype(np.float64)))
    tail = (1 - statistics.CONFIDENCE) / 2
    low, high = np.nanquantile(areas, [tail, 1 - tail])
    return Estimate(
        area(true, score, np.ones(len(true))), float(low), float(high), len(true), len(names)
    )


def agreement(cases: pd.DataFrame, patients: np.ndarray, seed: int = 0) -> Iterable[ShareAgreement]:
    """Compares infected shares of the lung for each model that outlines lung and infection."""
    for model, index in cases.groupby("model", sort=False).groups.items():
        rows = cases.loc[index]
        groups = patients[cases.index.get_indexer(index)]
        error = rows["share_error"].to_numpy(np.float64)
        known = np.isfinite(error)
        if not known.any():
            continue
        spread = float(error[known].std(ddof=1)) if known.sum() > 1 else math.nan
        bias = statistics.mean(error, groups, seed)
        empty = known & (rows["true_share_of_lung"].to_numpy() == 0)
        yield ShareAgreement(
            model=str(model),
            cases=int(known.sum()),
            bias=bias,
            absolute_error=statistics.mean(np.abs(error), groups, seed).clipped(0, 100),
            lower_limit=bias.value - 1.96 * spread,
            upper_limit=bias.value + 1.96 * spread,
            empty_cases=int(empty.sum()),
            share_on_empty=float(rows["share_of_lung"].to_numpy()[empty].mean())
            if empty.any()
            else math.nan,
        )
