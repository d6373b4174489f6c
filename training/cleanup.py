"""Learns which post-processing helps, on masks of cases that the network has not learnt from.

A rule is kept if it raises the mean Dice and a paired test over patients says that this is no
accident. Dice of two empty masks counts as 1 here: to outline nothing where there is nothing is
what a rule may be for.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.stats

from data_pipeline import cleaning
from data_pipeline.spec import Cleaning, InputSpec

SIGNIFICANT = 0.05
_SMALLEST = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01)  # of a slice
_LUNGS = 2


@dataclasses.dataclass(frozen=True)
class Outlined:
    """One case: what the network outlined and what annotators did, as packed bits."""

    patient: str
    shape: tuple[int, ...]  # (labels, *grid)
    found: np.ndarray
    truth: np.ndarray
    annotated: tuple[bool, ...]  # a label

    @classmethod
    def of(cls, patient: str, found: np.ndarray, truth: Sequence[np.ndarray | None]) -> "Outlined":
        """Takes bool planes (labels, *grid); None where a label was not annotated."""
        nothing = np.zeros(found.shape[1:], np.bool_)
        whole = np.stack([nothing if plane is None else plane for plane in truth])
        annotated = tuple(plane is not None for plane in truth)
        return cls(patient, found.shape, np.packbits(found), np.packbits(whole), annotated)

    def planes(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns what was found and what is true: bool (labels, *grid)."""
        count = int(np.prod(self.shape))
        found, truth = (
            np.unpackbits(bits, count=count).astype(bool).reshape(self.shape)
            for bits in (self.found, self.truth)
        )
        return found, truth


@dataclasses.dataclass(frozen=True)
class Change:
    """A rule that was tried: mean Dice without and with it, and the test's p."""

    label: str
    rule: Cleaning
    before: float
    after: float
    p: float
    kept: bool


def learn(cases: Sequence[Outlined], spec: InputSpec) -> tuple[InputSpec, list[Change]]:
    """Returns the spec with the rules that help, and what was tried.

    Rules are tried one after the other, each on top of those kept before it. Of several sizes
    of a component the one of the highest Dice stands for all, so its p is optimistic.
    """
    rules = [Cleaning() for _ in spec.labels]
    tried = []
    for index, label in enumerate(spec.labels):
        if not any(case.annotated[index] for case in cases):
            continue
        for steps in _steps(label, spec.labels):
            changes = [_try(cases, spec, rules, index, step) for step in steps]
            best = max(changes, key=lambda change: change.after)
            tried.append(best)
            if best.kept:
                rules[index] = best.rule
    kept = tuple(rules) if any(rule != Cleaning() for rule in rules) else ()
    return dataclasses.replace(spec, cleaning=kept), tried


def _steps(label: str, labels: Sequence[str]) -> Iterator[list[dict[str, object]]]:
    """Yields rules to try; of each list one at most is kept."""
    if label == "infection" and "lung" in labels:
        yield [{"inside": "lung"}]
    yield [{"fill_holes": True}]
    yield [{"smallest": share} for share in _SMALLEST]
    if label == "lung":
        yield [{"largest": _LUNGS}]


def _try(
    cases: Sequence[Outlined],
    spec: InputSpec,
    rules: Sequence[Cleaning],
    index: int,
    step: dict[str, object],
) -> Change:
    label = spec.labels[index]
    changed = dataclasses.replace(rules[index], **step)  # type: ignore[arg-type]
    with_it = [*rules[:index], changed, *rules[index + 1 :]]
    known = [case for case in cases if case.annotated[index]]
    before, after = (
        dice(known, dataclasses.replace(spec, cleaning=tuple(used)), index)
        for used in (rules, with_it)
    )
    p = paired_p(after - before, [case.patient for case in known])
    helps = bool(after.mean() > before.mean()) and p < SIGNIFICANT
    return Change(label, changed, float(before.mean()), float(after.mean()), p, helps)


def dice(cases: Sequence[Outlined], spec: InputSpec, index: int) -> np.ndarray:
    """Returns the Dice of a label, cleaned, for each case in which it is annotated."""
    values = []
    for case in cases:
        if not case.annotated[index]:
            continue
        found, truth = case.planes()
        found = cleaning.clean(found, spec)
        size = found[index].sum() + truth[index].sum()
        values.append(2.0 * (found[index] & truth[index]).sum() / size if size else 1.0)
    return np.array(values)


def paired_p(differences: np.ndarray, patients: Sequence[str]) -> float:
    """Returns the one-sided p of Wilcoxon's signed ranks that differences are above zero.

    Over the patients' means, which are independent; 1 where nothing differs.
    """
    _, patient = np.unique(np.asarray(patients, object).astype(str), return_inverse=True)
    means = np.bincount(patient, differences) / np.maximum(np.bincount(patient), 1)
    if not means.any():
        return 1.0
    return float(scipy.stats.wilcoxon(means, alternative="greater").pvalue)
