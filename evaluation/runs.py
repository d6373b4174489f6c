"""Trained runs as entrants: one network, or the networks of a cross-validation as one model."""

import csv
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping

from data_pipeline import location, split
from data_pipeline import spec as specs
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan
from data_pipeline.spec import InputSpec
from evaluation import entrants
from evaluation.entrants import Segments
from evaluation.score import Answer
from models import members

_PLACES = frozenset({"runs", "cache", "mlflow"})  # settings of a run that say where, not what


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory that training.run left.

    With folds, a case is answered by the network that held it out, and a case that no
    network knows by the mean of all of them.
    """

    name: str
    path: pathlib.Path
    spec: InputSpec
    config: Mapping[str, object]
    splits: Mapping[str, str]  # by case id; with folds, "test" for each held-out case
    fold_of: Mapping[str, pathlib.Path]  # by case id; empty without folds
    folds: tuple[pathlib.Path, ...]  # directories of networks; the run itself without folds
    patients: frozenset[str]  # ids of the patients trained or validated on
    members: tuple["Run", ...] = ()  # of an ensemble
    tta: str | None = None  # test-time augmentation other than the run's own
    needs_network: bool = True

    @property
    def modality(self) -> str:
        """XR or CT."""
        return self.spec.modality

    @property
    def labels(self) -> tuple[str, ...]:
        """What it outlines."""
        return self.spec.labels

    def answer(self, case: Case, scan: Scan) -> Answer:
        """See Entrant."""
        if case.id in self.fold_of and self.splits.get(case.id) == "test":
            return entrants.answer_of(_network((self.fold_of[case.id],), self.tta), scan)
        return entrants.answer_of(_network(self.folds, self.tta), scan)

    def split_of(self, case: Case) -> str:
        """See Entrant."""
        return self.splits.get(case.id, case.split)

    def describe(self) -> dict[str, object]:
        """See Entrant."""
        return {
            "kind": "run",
            "path": str(self.path),
            "labels": list(self.labels),
            "folds": len(self.folds) if self.fold_of else 0,
            "network_sha256": [_sha256(fold / members.WEIGHTS) for fold in self.folds],
            "spec": dataclasses.asdict(self.spec),
            "fold_thresholds": [specs.load(fold / "spec.json").above for fold in self.folds],
            "config": _shared(self.config),
            "members": [str(member.path) for member in self.members],
        }


def _shared(config: Mapping[str, object]) -> dict[str, object]:
    """Returns a run's settings without those that only say where its maker keeps files."""
    kept = {name: value for name, value in config.items() if name not in _PLACES}
    if "data" in kept:
        kept["data"] = str(location.within_here(pathlib.Path(str(kept["data"]))))
    return kept


def load(path: pathlib.Path, tta: str | None = None) -> Run:
    """Reads what a run directory says of itself; the network is read when it is needed.

    Args:
      path: the run directory.
      tta: test-time augmentation other than the run's own, one of tta.CHOICES.

    Raises:
      InputError: if it is not a run, or not a finished one.
    """
    config = read_config(path)
    networks = members.directories([path])
    spec = members.common_spec(networks, tta)
    if not config.get("folds"):
        splits = split.load(path / "splits.csv")
        known = {case for case, part in splits.items() if part != "test"}
        patients = _patients(path / "splits.csv", known)
        return Run(path.name, path, spec, config, splits, {}, networks, patients, tta=tta)
    held_out: dict[str, pathlib.Path] = {}
    known = set()
    for fold in networks:
        splits = split.load(fold / "splits.csv")
        held_out |= {case: fold for case, part in splits.items() if part == "test"}
        known |= set(splits)
    splits = {case: "test" if case in held_out else "train" for case in known}
    patients = _patients(networks[0] / "splits.csv", known)
    return Run(path.name, path, spec, config, splits, held_out, networks, patients, tta=tta)


def read_config(path: pathlib.Path) -> dict[str, object]:
    """Reads a run's config.json.

    Raises:
      InputError: if the directory is no run.
    """
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} is not a run: no config.json there; `training.run` writes one"
        ) from error
    except ValueError as error:
        raise InputError(f"{path / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path / 'config.json'} is not a run's settings")
    return config


@functools.lru_cache(maxsize=8)
def _network(directories: tuple[pathlib.Path, ...], tta: str | None) -> Segments:
    # TensorFlow takes seconds to import, and most of this folder works without it.
    from data_pipeline import quiet_tensorflow  # noqa: F401, I001 - first: it silences the import

    from models import segmenter

    return segmenter.load(*directories, tta=tta)


def _patients(path: pathlib.Path, known: set[str]) -> frozenset[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return frozenset(r["patient_id"] for r in rows if r["case_id"] in known and r.get("patient_id"))


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
