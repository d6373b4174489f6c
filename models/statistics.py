"""Means with honest intervals, and tests of model against model.

Images of one patient are alike, so patients are what is drawn anew, not images. The interval
is the studentised bootstrap (bootstrap-t, Efron & Tibshirani 1993, chapter 12.5), which knows
that skewed values need a lopsided interval. On simulated Dice values it covered the truth in
95 % of trials with 24 patients or more, in 93 % with 8 and 90 % with 5, where plain percentiles
cover 91, 85 and 80 % (tests/test_evaluation_coverage.py repeats the first of these).
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.stats

RESAMPLES = 2000
CONFIDENCE = 0.95
# Drawn from few patients, a resample may be of nearly equal values, and its tiny standard error
# would stretch the interval without end: with 6 patients to three times Student's. Held to at
# least this share of the sample's it is one and a half times, at nearly the same coverage.
_LEAST_SPREAD = 0.35
_CHUNK = 4_000_000  # numbers drawn at a time, which bounds the memory

Groups = Sequence[object] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean, or a ratio of sums, with its 95 % interval."""

    value: float
    low: float
    high: float
    cases: int
    patients: int

    def clipped(self, lowest: float, highest: float) -> "Estimate":
        """Keeps the interval within what the metric can be."""
        low, high = (min(max(v, lowest), highest) for v in (self.low, self.high))
        return dataclasses.replace(self, low=low, high=high)


UNDEFINED = Estimate(math.nan, math.nan, math.nan, 0, 0)


def mean(values: np.ndarray, groups: Groups, seed: int = 0) -> Estimate:
    """Returns the mean over cases, NaN left out; groups name the patient of each case."""
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    return ratio(values[known], np.ones(known.sum()), np.asarray(groups, object)[known], seed)


def ratio(parts: np.ndarray, wholes: np.ndarray, groups: Groups, seed: int = 0) -> Estimate:
    """Returns sum(parts) / sum(wholes) over cases: a pooled metric, or a mean.

    The interval is NaN with fewer than two patients.

    Args:
      parts: float (cases,).
      wholes: float (cases,), not negative.
      groups: the patient of each case.
      seed: of the resampling.
    """
    parts, wholes = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    counted = wholes > 0
    if not counted.any():
        return UNDEFINED
    groups = np.asarray(groups, object)[counted]
    part, whole = _by_patient(parts[counted], wholes[counted], groups)
    value = part.sum() / whole.sum()
    low, high = _interval(part, whole, value, seed)
    return Estimate(float(value), low, high, int(counted.sum()), len(part))


def _by_patient(
    parts: np.ndarray, wholes: np.ndarray, groups: Groups
) -> tuple[np.ndarray, np.ndarray]:
    # In order of name, so that the interval does not depend on the order of the cases.
    _, patient = np.unique(np.asarray(groups, object).astype(str), return_inverse=True)
    return np.bincount(patient, parts), np.bincount(patient, wholes)


def _interval(part: np.ndarray, whole: np.ndarray, value: float, seed: int) -> tuple[float, float]:
    """Bootstrap-t: how far resampled ratios stray, in units of their own standard error."""
    patients = len(part)
    if patients < 2:
        return math.nan, math.nan
    # What a patient adds to the distance of a resample's ratio from `value`.
    residual = part - value * whole
    columns = np.stack([residual, whole, residual**2, residual * whole, whole**2], axis=1)
    spread = float(_errors(columns.sum(axis=0)[None], patients)[0])
    if spread <= 1e-12 * abs(value):
        return float(value), float(value)
    strayed = []
    for drawn in resamples(np.random.default_rng(seed), patients, patients):
        sums = drawn @ columns
        sums = sums[sums[:, 1] > 0]
        errors = np.maximum(_errors(sums, patients), _LEAST_SPREAD * spread)
        strayed.append(sums[:, 0] / sums[:, 1] / errors)
    tail = (1 - CONFIDENCE) / 2
    upper, lower = np.quantile(np.concatenate(strayed), [1 - tail, tail])
    return float(value - upper * spread), float(value - lower * spread)


def resamples(rng: np.random.Generator, patients: int, width: int) -> Iterator[np.ndarray]:
    """Yields how often each resample draws each patient: float64 (some resamples, patients).

    RESAMPLES in all, so many at a time that an array `width` numbers wide stays small.
    """
    step = max(1, _CHUNK // width)
    for start in range(0, RESAMPLES, step):
        count = min(step, RESAMPLES - start)
        drawn = rng.integers(patients, size=(count, patients))
        drawn += np.arange(count)[:, None] * patients
        counts = np.bincount(drawn.ravel(), minlength=count * patients)
        yield counts.reshape(count, patients).astype(np.float64)


def _errors(sums: np.ndarray, patients: int) -> np.ndarray:
    """Returns the linearised standard error of ratios, (resamples,), from sums of the columns."""
    residual, whole, squares, products, whole_squares = sums.T
    off = residual / whole
    variance = squares - 2 * off * products + off**2 * whole_squares
    return np.asarray(np.sqrt(np.maximum(variance, 0.0) * patients / (patients - 1)) / whole)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models on the cases that both were scored on; positive where `first` is higher."""

    first: str
    second: str
    difference: Estimate  # of means, first minus second
    wilcoxon_p: float  # over patients; NaN with no difference at all
    holm_p: float = math.nan  # corrected for all comparisons of a table


def compare(
    first: str, second: str, values: np.ndarray, others: np.ndarray, groups: Groups, seed: int = 0
) -> Comparison:
    """Compares two models' values of the same cases, in the same order.

    The paired bootstrap resamples patients with both their values; Wilcoxon's signed-rank test
    is on the mean difference of each patient, since it needs independent pairs.
    """
    differences = np.asarray(values, np.float64) - np.asarray(others, np.float64)
    known = np.isfinite(differences)
    groups = np.asarray(groups, object)[known]
    differences = differences[known]
    estimate = mean(differences, groups, seed)
    if not len(differences) or not differences.any():
        return Comparison(first, second, estimate, math.nan)
    part, whole = _by_patient(differences, np.ones(len(differences)), groups)
    p = float(scipy.stats.wilcoxon(part / whole).pvalue) if (part != 0).any() else math.nan
    return Comparison(first, second, estimate, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p values for their number (Holm 1979); NaN stays NaN and counts for nothing."""
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        corrected[index] = highest
    return corrected
