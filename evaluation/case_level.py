"""Scores of whole cases: is there infection, how severe is it, is it COVID-19.

A mask model answers such questions by how much it outlines: the share of the image that it
outlines as infection, or for severity the infected share of the lung, ranks the cases; at a
limit or more the answer is yes. The limits were fixed beforehand and are not tuned on any case.
"""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from evaluation import areas, strata
from models import statistics
from models.statistics import Estimate

POSITIVE_PERCENT = 0.5  # of the image
# Where the grades of severity begin, in percent of the lung; below the first is what shows any
# infection at all. Morozov et al., MosMedData, arXiv:2005.06465: CT-0 to CT-4.
GRADE_LIMITS_PERCENT = (25.0, 50.0, 75.0)
GRADES = ("none", "up to 25 %", "25 to 50 %", "50 to 75 %", "from 75 %")

INFECTED = "infection present"
COVID = "COVID-19 against all others"
SEVERE = f"severe: at least {GRADE_LIMITS_PERCENT[0]:g} % of the lung"


@dataclasses.dataclass(frozen=True)
class Curve:
    """Points of the ROC and precision-recall curves, from the highest score down."""

    sensitivity: np.ndarray  # recall
    false_positive_rate: np.ndarray
    precision: np.ndarray  # NaN at the first point, where nothing is called positive


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
    curve: Curve
    warning: str  # why the answer may not mean what it seems to; "" if nothing is known


@dataclasses.dataclass(frozen=True)
class Severity:
    """Grades of severity by the infected share of the lung, predicted against true."""

    model: str
    cases: int
    matrix: np.ndarray  # int (true grade, predicted grade), in the order of GRADES
    same: Estimate  # share of cases with the true grade
    within_one: Estimate  # share of cases at most one grade off
    warning: str


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
    """Answers each question for each model that outlines infection, where both answers occur.

    Args:
      cases: the columns of score.CaseScore.
      patients: the patient of each row.
      seed: of the resampling.
    """
    for (model, modality), index in cases.groupby(["model", "modality"], sort=False).groups.items():
        rows = cases.loc[index].assign(patient=patients[cases.index.get_indexer(index)])
        diagnosis = rows["diagnosis"].map(strata.diagnosis_group)
        graded = rows["true_share_of_lung"].notna()
        for question, asked, true, score, limit in (
            (
                INFECTED, rows["true_infection"] != "", rows["true_infection"] == "yes",
                "infection_share", POSITIVE_PERCENT,
            ),
            (
                SEVERE, graded, rows["true_share_of_lung"] >= GRADE_LIMITS_PERCENT[0],
                "share_of_lung", GRADE_LIMITS_PERCENT[0],
            ),
            (
                COVID, diagnosis != strata.UNKNOWN, diagnosis == strata.COVID,
                "infection_share", POSITIVE_PERCENT,
            ),
        ):  # fmt: skip
            here = asked & rows[score].notna()
            if true[here].nunique() == 2:
                yield _answer(
                    str(model), question, str(modality), rows[here], true[here], score, limit, seed
                )


def _answer(
    model: str,
    question: str,
    modality: str,
    rows: pd.DataFrame,
    truth: pd.Series,
    column: str,
    limit: float,
    seed: int,
) -> CaseLevel:
    true = truth.to_numpy(bool)
    score = rows[column].to_numpy(np.float64)
    said = score >= limit
    groups = rows["patient"].to_numpy(object)
    roc_auc, pr_auc = areas.estimates(true, score, groups, seed)
    return CaseLevel(
        model=model,
        question=question,
        modality=modality,
        positives=int(true.sum()),
        negatives=int((~true).sum()),
        roc_auc=roc_auc,
        pr_auc=pr_auc,
        true_positive=int((true & said).sum()),
        false_positive=int((~true & said).sum()),
        false_negative=int((true & ~said).sum()),
        true_negative=int((~true & ~said).sum()),
        sensitivity=statistics.ratio(true & said, true, groups, seed).clipped(0, 1),
        specificity=statistics.ratio(~true & ~said, ~true, groups, seed).clipped(0, 1),
        accuracy=statistics.ratio(true == said, np.ones(len(true)), groups, seed).clipped(0, 1),
        curve=_curve(true, score),
        warning=strata.confounder(rows),
    )


def _curve(true: np.ndarray, score: np.ndarray) -> Curve:
    above, below = (found[0] for found in areas.curves(true, score, np.ones((1, len(true)))))
    with np.errstate(invalid="ignore"):
        return Curve(above / above[-1], below / below[-1], above / (above + below))


def severities(cases: pd.DataFrame, patients: np.ndarray, seed: int = 0) -> Iterable[Severity]:
    """Grades cases for each model that outlines lung and infection; arguments as `summarise`."""
    for model, index in cases.groupby("model", sort=False).groups.items():
        rows = cases.loc[index].assign(patient=patients[cases.index.get_indexer(index)])
        rows = rows[rows["share_error"].notna()]
        if rows.empty:
            continue
        true, said = (grade(rows[name]) for name in ("true_share_of_lung", "share_of_lung"))
        matrix = np.zeros((len(GRADES), len(GRADES)), np.int64)
        np.add.at(matrix, (true, said), 1)
        groups = rows["patient"].to_numpy(object)
        yield Severity(
            model=str(model),
            cases=len(rows),
            matrix=matrix,
            same=statistics.mean(true == said, groups, seed).clipped(0, 1),
            within_one=statistics.mean(np.abs(true - said) <= 1, groups, seed).clipped(0, 1),
            warning=strata.confounder(rows),
        )


def grade(share: pd.Series) -> np.ndarray:
    """Returns the grade of each infected share of the lung (percent), an index into GRADES."""
    percent = share.to_numpy(np.float64)
    return np.where(percent > 0, 1 + np.digitize(percent, GRADE_LIMITS_PERCENT), 0)


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
