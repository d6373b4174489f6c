"""The structures this project outlines, with what each needs downstream.

A label is a binary plane: the lung plane keeps its pixels where infection lies inside it.
"""

import dataclasses
from collections.abc import Iterable

from data_pipeline.errors import InputError


@dataclasses.dataclass(frozen=True)
class Label:
    """One structure that a mask outlines."""

    name: str
    column: str  # of the manifest
    colour_rgb: tuple[int, int, int]  # Okabe-Ito: told apart by the colour-blind
    snomed_ct: str  # concept id, for DICOM SEG
    meaning: str  # of that concept


LABELS = {
    label.name: label
    for label in (
        Label("lung", "lung_mask", (86, 180, 233), "39607008", "Lung structure"),
        Label("infection", "infection_mask", (213, 94, 0), "233604007", "Pneumonia"),
    )
}


def parse(names: str | Iterable[str]) -> tuple[str, ...]:
    """Returns label names in the project's order from "lung,infection" or a sequence.

    Raises:
      InputError: if a name is unknown or none is given.
    """
    given = names.split(",") if isinstance(names, str) else list(names)
    given = [name.strip() for name in given if name.strip()]
    unknown = [name for name in given if name not in LABELS]
    if unknown or not given:
        raise InputError(
            f"unknown label {', '.join(unknown) or '(none given)'}; known: {', '.join(LABELS)}"
        )
    return tuple(name for name in LABELS if name in given)
