"""Areas under the ROC and the precision-recall curve, for many bootstrap samples at once."""

import math

import numpy as np

from models import statistics
from models.statistics import Estimate


def curves(
    true: np.ndarray, score: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many positives and negatives lie at or above each score, from the highest down.

    Args:
      true: bool (cases,).
      score: float (cases,); equal ones are one step.
      weights: float (samples, cases), how often each sample drew each case.

    Returns:
      two float (samples, steps + 1), both starting at 0.
    """
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    sorted_weights = weights[:, order]
    found = [
        np.cumsum(sorted_weights * kind, axis=1)[:, last] for kind in (true[order], ~true[order])
    ]
    start = np.zeros((len(weights), 1))
    return np.hstack([start, found[0]]), np.hstack([start, found[1]])


def areas(true: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns ROC AUC and average precision: float (2, samples); arguments as `curves`.

    ROC AUC is the chance that a positive case scores higher than a negative one, ties count one
    half; average precision sums precision over the steps of recall. NaN for a sample without
    positives, and for the ROC without negatives.
    """
    above, below = curves(true, score, weights)
    rising, falling = np.diff(above), np.diff(below)
    with np.errstate(invalid="ignore", divide="ignore"):
        roc = (falling * (above[:, 1:] + above[:, :-1]) / 2).sum(axis=1)
        roc /= above[:, -1] * below[:, -1]
        precision = above[:, 1:] / (above[:, 1:] + below[:, 1:])
        average = np.where(rising > 0, rising * precision, 0.0).sum(axis=1) / above[:, -1]
    return np.stack([roc, average])


def estimates(
    true: np.ndarray, score: np.ndarray, groups: np.ndarray, seed: int = 0
) -> tuple[Estimate, Estimate]:
    """Returns ROC AUC and average precision with their intervals.

    Percentile bootstrap of patients: an area is no mean, so bootstrap-t has no short form. The
    intervals are NaN with fewer than two patients.

    Args:
      true: bool (cases,).
      score: float (cases,).
      groups: the patient of each case.
      seed: of the resampling.
    """
    names, patient = np.unique(groups.astype(str), return_inverse=True)
    values = areas(true, score, np.ones((1, len(true))))[:, 0]
    low = high = np.full(2, math.nan)
    if len(names) > 1:
        low, high = _intervals(true, score, patient, seed)
    roc, average = (
        Estimate(float(v), float(a), float(b), len(true), len(names))
        for v, a, b in zip(values, low, high, strict=True)
    )
    return roc, average


def _intervals(
    true: np.ndarray, score: np.ndarray, patient: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lower and the upper ends: float (2,), of ROC AUC and average precision."""
    patients = int(patient.max()) + 1
    rng = np.random.default_rng(seed)
    found = np.hstack(
        [
            areas(true, score, drawn[:, patient])
            for drawn in statistics.resamples(rng, patients, len(true))
        ]
    )
    tail = (1 - statistics.CONFIDENCE) / 2
    low, high = np.nanquantile(found, [tail, 1 - tail], axis=1)
    return low, high
