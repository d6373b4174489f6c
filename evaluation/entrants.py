"""What can be scored: a classical method or a folder of masks; trained runs are in runs.py.

Nothing here imports TensorFlow, so that processes which only score masks start at once.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from data_pipeline import cases, inference
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from data_pipeline.labels import LABELS
from data_pipeline.scan import Scan
from data_pipeline.spec import InputSpec
from evaluation.score import Answer

# What a tool's mask of a case may be called, in this order: CASE_LABEL, or CASE if it
# outlines one label; CASE is the id or the image's name without its ending.
MASK_SUFFIXES = (".png", ".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".jpg", ".jpeg")


class Entrant(Protocol):
    """Anything that outlines labels and is to be scored."""

    @property
    def name(self) -> str:
        """As it stands in scores.csv."""
        ...

    @property
    def modality(self) -> str:
        """XR or CT."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """What it outlines."""
        ...

    @property
    def needs_network(self) -> bool:
        """TensorFlow: it runs in the main process only."""
        ...

    def answer(self, case: Case, scan: Scan) -> Answer:
        """Outlines one case.

        Raises:
          InputError: if the case cannot be outlined.
        """
        ...

    def split_of(self, case: Case) -> str:
        """Returns "train", "validation" or "test"; "" where nothing says so."""
        ...

    def describe(self) -> Mapping[str, object]:
        """Returns what a reader must know to repeat the result, for summary.json."""
        ...


class Segments(Protocol):
    """The part of models.segmenter.Segmenter that is needed here."""

    spec: InputSpec

    def probabilities(self, scan: Scan) -> np.ndarray:
        """Returns float32 (labels, *scan.shape) in [0, 1]."""
        ...


def answer_of(model: Segments, scan: Scan) -> Answer:
    """Runs a model the one way that serving does too."""
    start = time.perf_counter()
    probabilities = model.probabilities(scan)
    mask = inference.mask(probabilities, model.spec)
    return Answer(mask, probabilities, scan.spacing_mm, time.perf_counter() - start)


@dataclasses.dataclass(frozen=True)
class Classical:
    """A method without training; it is scored on the cases of `like`, the first run, if any."""

    name: str
    model: Segments
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    needs_network: bool = False

    @property
    def modality(self) -> str:
        """XR or CT."""
        return self.model.spec.modality

    @property
    def labels(self) -> tuple[str, ...]:
        """What it outlines."""
        return self.model.spec.labels

    def answer(self, case: Case, scan: Scan) -> Answer:
        """See Entrant."""
        return answer_of(self.model, scan)

    def split_of(self, case: Case) -> str:
        """See Entrant."""
        return self.splits.get(case.id, case.split)

    def describe(self) -> dict[str, object]:
        """See Entrant."""
        return {"kind": "classical", "labels": list(self.labels)}


@dataclasses.dataclass(frozen=True)
class MaskFolder:
    """Masks that some tool wrote: one file a case and label, on the image's own grid."""

    name: str
    folder: pathlib.Path
    modality: str
    labels: tuple[str, ...]
    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    needs_network: bool = False

    def answer(self, case: Case, scan: Scan) -> Answer:
        """Reads the mask of each label that the case has annotated."""
        wanted = case.annotated(self.labels)
        files = {label: self._file(case, label, must=label in wanted) for label in self.labels}
        columns: dict[str, Any] = {LABELS[label].column: path for label, path in files.items()}
        # Read as a manifest's own masks are, so that they pass the same checks.
        theirs = Case(case.id, case.modality, case.image, **columns)
        return Answer(cases.read_mask(theirs, self.labels, scan.shape), None, scan.spacing_mm)

    def _file(self, case: Case, label: str, *, must: bool) -> pathlib.Path | None:
        stem = cases_stem(case.image)
        names = [f"{safe_name(case.id)}_{label}", f"{stem}_{label}"]
        if len(self.labels) == 1:
            names += [safe_name(case.id), stem]
        for name in names:
            for suffix in MASK_SUFFIXES:
                if (path := self.folder / f"{name}{suffix}").is_file():
                    return path
        if must:
            raise InputError(
                f"{self.folder} has no mask of case {case.id}; looked for "
                f"{', '.join(dict.fromkeys(names))} with {', '.join(MASK_SUFFIXES)}"
            )
        return None

    def split_of(self, case: Case) -> str:
        """See Entrant."""
        return self.splits.get(case.id, case.split)

    def describe(self) -> dict[str, object]:
        """See Entrant."""
        return {"kind": "masks", "folder": str(self.folder), "labels": list(self.labels)}


def cases_stem(image: pathlib.Path) -> str:
    """Returns an image's name without its ending; .nii.gz counts as one."""
    return image.name[: -len(".nii.gz")] if image.name.endswith(".nii.gz") else image.stem


def safe_name(case_id: str) -> str:
    """Returns a case id that can be a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in case_id)


def first_units(manifest: list[Case], modality: str) -> str:
    """Returns the units of a modality's first readable scan, for a method that has no run."""
    problem = InputError(f"the manifest has no case of modality {modality}")
    for case in manifest:
        if case.modality == modality:
            try:
                return cases.read_scan(case).units
            except InputError as error:
                problem = error
    raise problem
