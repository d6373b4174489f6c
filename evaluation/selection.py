"""Which cases each entrant is scored on, and which of them it knows from training.

Scores on cases that a model has trained on say nothing about new patients, so it is decided
here, once, and told in every output.
"""

import dataclasses
import hashlib
import pathlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from data_pipeline import cases as manifests
from data_pipeline import remote
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from evaluation.entrants import Entrant
from evaluation.runs import Run

SPLITS = (*manifests.SPLITS, "all")

# How an entrant may know a case, worst first.
_WORST_FIRST = TRAINING, VALIDATION, PATIENT, UNSEEN = "training", "validation", "patient", ""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One entrant on one case."""

    entrant: Entrant
    case: Case
    seen: str = UNSEEN  # TRAINING, VALIDATION (chosen by it), PATIENT (another image) or ""


def trials(entrants: Sequence[Entrant], manifest: Sequence[Case], split: str) -> list[Trial]:
    """Returns who is scored on what, an entrant at a time.

    Raises:
      InputError: if a split is empty, or two runs would be compared on different cases.
    """
    chosen = {entrant.name: _cases_for(entrant, manifest, split) for entrant in entrants}
    _check_same(entrants, chosen, split)
    result = []
    for entrant in entrants:
        known = seen_in_training(entrant, chosen[entrant.name])
        result += [Trial(entrant, c, known.get(c.id, UNSEEN)) for c in chosen[entrant.name]]
    return result


def _cases_for(entrant: Entrant, manifest: Sequence[Case], split: str) -> list[Case]:
    labels = ", ".join(entrant.labels)
    candidates = manifests.select(manifest, entrant.modality, entrant.labels)
    if not candidates:
        raise InputError(
            f"{entrant.name} outlines {labels} on {entrant.modality}, and no case of the manifest "
            "has such a mask; nothing to score against"
        )
    if split == "all":
        return candidates
    chosen = [case for case in candidates if entrant.split_of(case) == split]
    if not chosen:
        raise InputError(f"{entrant.name}: {_why_empty(entrant, candidates, split)}")
    return chosen


def _why_empty(entrant: Entrant, candidates: Sequence[Case], split: str) -> str:
    parts = {entrant.split_of(case) for case in candidates}
    if parts == {""}:
        return (
            f"nothing says which of the {len(candidates)} cases are its {split} split; "
            "score all of them with --split all"
        )
    if isinstance(entrant, Run) and entrant.members:
        return (
            f"each of {len(candidates)} cases was trained or validated on by one of its "
            f"{len(entrant.members)} members, so its {split} split is empty; score it on other "
            "data with --data MANIFEST --split all"
        )
    if isinstance(entrant, Run) and parts == {"train"}:
        return (
            f"it trained on all {len(candidates)} cases (--use-all), so its {split} split is "
            "empty; score it on other data with --data MANIFEST --split all"
        )
    return f"its {split} split is empty; there is {', '.join(sorted(parts - {''}))}"


def _check_same(
    entrants: Sequence[Entrant], chosen: Mapping[str, Sequence[Case]], split: str
) -> None:
    """Refuses a comparison of two models on different cases."""
    first: dict[tuple[str, str], Entrant] = {}
    for entrant in entrants:
        for label in entrant.labels:
            other = first.setdefault((entrant.modality, label), entrant)
            here, there = (
                {case.id for case in chosen[e.name] if case.annotated([label])}
                for e in (entrant, other)
            )
            if here != there:
                raise InputError(
                    f"{other.name} and {entrant.name} have different {split} cases for {label} "
                    f"({len(there)} and {len(here)}, {len(here & there)} in common), so one "
                    "would be scored on cases that the other trained on; train both with one "
                    "--seed and --data, or score both on other data with --data M --split all"
                )


def seen_in_training(entrant: Entrant, chosen: Iterable[Case]) -> dict[str, str]:
    """Returns how a run knows cases from its training, by case id; unknown ones are left out.

    A case is known if training had its image, whatever it is called now, or another image
    of its patient.
    """
    if not isinstance(entrant, Run):
        return {}
    trainings = [_Training(run) for run in entrant.members or (entrant,)]
    known = {case.id: {one.knows(case) for one in trainings} for case in chosen}
    # An ensemble knows a case as the member does that knows it best.
    return {
        case_id: how
        for case_id, all_ways in known.items()
        if (how := next(way for way in _WORST_FIRST if way in all_ways))
    }


class _Training:
    """What a run has seen: its images by content, its patients by data set and id."""

    def __init__(self, run: Run) -> None:
        self._run = run
        manifest = training_manifest(run)
        self._cases = {c.id: c for c in manifest if c.id in run.splits}
        self._sizes = defaultdict(list)
        for case in self._cases.values():
            if known := remote.stamp(case.image):
                self._sizes[known.size_bytes].append(case)
        self._patients = {
            (c.dataset, c.patient_id)
            for c in self._cases.values()
            if c.patient_id and run.splits[c.id] != "test"
        }

    def knows(self, case: Case) -> str:
        how = self._by_image(case)
        if how or case.id in self._run.fold_of:
            return how
        if (case.dataset, case.patient_id) in self._patients:
            return PATIENT
        without_manifest = not self._cases and case.patient_id in self._run.patients
        return PATIENT if without_manifest else UNSEEN

    def _by_image(self, case: Case) -> str:
        parts = []
        if self._same_case(case):
            parts.append(self._run.splits[case.id])
        # With folds, who held a case out is answered by its own network.
        elif known := remote.stamp(case.image):
            twins = self._sizes.get(known.size_bytes, [])
            parts += [
                "train" if self._run.fold_of else self._run.splits[twin.id]
                for twin in twins
                if twin.id != case.id and _digest(twin.image) == _digest(case.image)
            ]
        if "train" in parts:
            return TRAINING
        return VALIDATION if "validation" in parts else UNSEEN

    def _same_case(self, case: Case) -> bool:
        if case.id not in self._run.splits:
            return False
        before = self._cases.get(case.id)
        if before is None or before.image == case.image or not remote.stamp(before.image):
            return True
        known = remote.stamp(case.image)
        return known is not None and _digest(before.image) == _digest(case.image)


def training_manifest(run: Run) -> list[Case]:
    """Returns the cases that a run was trained from; none if its manifest is gone."""
    try:
        return manifests.load(pathlib.Path(str(run.config.get("data") or manifests.SAMPLE)))
    except InputError:
        return []


def _digest(path: pathlib.Path) -> bytes:
    with remote.here(path) as local:
        return hashlib.sha256(local.read_bytes()).digest()
