"""What an evaluation has scored so far, on disk, so that an interrupted one can go on.

One JSON line a trial. The first line is a fingerprint of everything that could change a score;
with another fingerprint the journal starts anew.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

import data_pipeline
import evaluation
import models
from evaluation.score import CaseScore, LabelScore
from evaluation.selection import Trial
from models import calibration


@dataclasses.dataclass(frozen=True)
class Scored:
    """All that is kept of one trial; masks lie beside the journal."""

    rows: tuple[LabelScore, ...]
    case: CaseScore
    reliability: dict[str, calibration.Reliability]  # by label


class Journal:
    """An append-only file of scored trials."""

    def __init__(self, folder: pathlib.Path, trials: Sequence[Trial]) -> None:
        """Opens the journal of a folder, or starts one if it is about something else."""
        self._path = folder / "journal.jsonl"
        self.masks = folder / "masks"
        self.done: dict[tuple[str, str], Scored] = {}
        mark = fingerprint(trials)
        if not self._read(mark):
            folder.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps({"fingerprint": mark}) + "\n", encoding="utf-8")

    def add(self, scored: Scored) -> None:
        """Writes one trial down before it counts as done."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_to_json(scored)) + "\n")
        self.done[scored.case.model, scored.case.case_id] = scored

    def _read(self, mark: str) -> bool:
        try:
            first, *rest = self._path.read_text(encoding="utf-8").split("\n")
            if json.loads(first).get("fingerprint") != mark:
                return False
        except (OSError, ValueError):
            return False
        # What follows the last line break is a line that was being written at the interruption.
        for line in rest[:-1]:
            scored = _from_json(json.loads(line))
            self.done[scored.case.model, scored.case.case_id] = scored
        whole = "\n".join([first, *rest[:-1]]) + "\n"
        self._path.write_text(whole, encoding="utf-8")
        return True


def fingerprint(trials: Sequence[Trial]) -> str:
    """Returns a digest of entrants, cases and the code that scores them."""
    digest = hashlib.sha256()
    for folder in (evaluation, models, data_pipeline):  # all that a score comes from
        for source in sorted(pathlib.Path(folder.__path__[0]).glob("*.py")):
            digest.update(source.read_bytes())
    entrants = {t.entrant.name: t.entrant for t in trials}
    for name, entrant in entrants.items():
        digest.update(f"{name} {json.dumps(entrant.describe(), default=str)}\n".encode())
    for trial in trials:
        digest.update(f"{trial.entrant.name} {trial.case} {trial.seen}\n".encode())
    return digest.hexdigest()


def _to_json(scored: Scored) -> dict[str, Any]:
    return {
        "rows": [_fields(row) for row in scored.rows],
        "case": _fields(scored.case),
        "reliability": {
            label: [part.pixels.tolist(), part.said.tolist(), part.true.tolist()]
            for label, part in scored.reliability.items()
        },
    }


def _fields(row: LabelScore | CaseScore) -> dict[str, Any]:
    """Returns the fields with NaN as null: JSON knows no NaN."""
    fields = dataclasses.asdict(row)
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in fields.items()}


def _from_json(stored: dict[str, Any]) -> Scored:
    rows = [LabelScore(**_filled(row)) for row in stored["rows"]]
    reliability = {
        label: calibration.Reliability(*(np.array(part) for part in parts))
        for label, parts in stored["reliability"].items()
    }
    return Scored(tuple(rows), CaseScore(**_filled(stored["case"])), reliability)


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in fields.items()}
