"""The work that every loader of tiles is given, ours and the rivals'."""

import dataclasses
import pathlib

from data_pipeline.cases import Case

SIDE, BATCH = 256, 8
LABEL = "lung"


@dataclasses.dataclass(frozen=True)
class Job:
    """What a loader is made for; it yields batches for ever."""

    cases: list[Case]
    folder: pathlib.Path  # empty at first, for what it keeps between epochs
    workers: int
    cores: int
