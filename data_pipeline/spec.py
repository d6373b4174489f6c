"""The contract that travels with the weights, from training to the served model."""

import dataclasses
import json
import pathlib
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.scan import MODALITIES, UNITS

# Test-time augmentation: beyond these a network sees what it was never trained on.
SMALLEST_SCALE, LARGEST_SCALE = 0.5, 2.0

THRESHOLD = 0.5  # a pixel belongs to the mask where its probability is above this


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """What is done to one label's mask; see data_pipeline.cleaning."""

    inside: str = ""  # nothing outside this label's mask; "": anywhere
    fill_holes: bool = False
    smallest: float = 0.0  # components of fewer pixels go, as a share of one slice's pixels
    largest: int = 0  # so many largest components stay; 0: all


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What a network takes and gives; saved as spec.json in a run and in an export.

    A scan is first brought onto a frame: letterboxed into `frame`, or resampled to
    `spacing_mm`. The frame is cut into tiles of `shape`, which is what the network sees;
    a frame as large as the tile is the common case of one tile a scan.
    """

    modality: str  # "XR" or "CT"
    labels: tuple[str, ...]
    shape: tuple[int, ...]  # of a tile: (rows, cols), or (slices, rows, cols)
    units: str = "stored"  # "HU" or "stored"
    frame: tuple[int, ...] | None = None  # letterbox target; None: the tile's shape
    spacing_mm: tuple[float, ...] | None = None  # resample to this instead of letterboxing
    neighbours: int = 0  # slices on either side, as further channels (2.5D)
    window: tuple[float, float] | None = None  # in `units`; None: each image's own percentiles
    percentiles: tuple[float, float] = (0.5, 99.5)  # used where window is None
    denoise: str = "none"  # "none", "median" (3 x 3) or "gaussian" (sigma 1 pixel)
    clahe: bool = False  # contrast-limited adaptive histogram equalisation, after the window
    flips: tuple[tuple[int, ...], ...] = ()  # axes mirrored for further answers, averaged in
    scales: tuple[float, ...] = ()  # sizes of the tile shown for further answers, averaged in
    temperatures: tuple[tuple[float, ...], ...] = ()  # a network and label; (): none fitted
    thresholds: tuple[float, ...] = ()  # of each label, instead of THRESHOLD; (): none learnt
    cleaning: tuple[Cleaning, ...] = ()  # of each label's mask; (): none
    conventions: tuple[str, ...] = ()  # what each label covers, in words

    def __post_init__(self) -> None:
        """Raises InputError on a setting that no model could follow."""
        if self.modality not in MODALITIES:
            raise InputError(f"unknown modality {self.modality}; known: {', '.join(MODALITIES)}")
        if self.units not in UNITS:
            raise InputError(f"unknown units {self.units}; known: {', '.join(UNITS)}")
        if len(self.shape) not in (2, 3) or min(self.shape) < 1:
            raise InputError(f"a tile is (rows, cols) or (slices, rows, cols); got {self.shape}")
        self._check_tiles()
        self._check_answers()

    def _check_tiles(self) -> None:
        for name in ("frame", "spacing_mm"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.shape):
                raise InputError(f"{name} {value} does not fit tiles of {self.shape}")
        if self.spacing_mm is not None and (self.frame or min(self.spacing_mm) <= 0):
            raise InputError(
                f"a scan is brought to a spacing above 0 or into a frame; got {self.spacing_mm} "
                f"mm and {self.frame}"
            )
        if self.frame and any(f < s for f, s in zip(self.frame, self.shape, strict=True)):
            raise InputError(f"a tile of {self.shape} does not fit into a frame of {self.frame}")
        if self.neighbours < 0 or (self.neighbours and len(self.shape) == 3):
            raise InputError(
                "neighbours are slices on either side of the one that a 2D network outlines; "
                f"got {self.neighbours} for tiles of {self.shape}"
            )
        if self.window is None and (self.is_cut or self.neighbours or len(self.shape) == 3):
            raise InputError(
                "percentiles are taken over a whole image, so an image cut into tiles needs "
                "a fixed window (low, high), and so does a volume"
            )
        if self.is_cut and (self.clahe or self.denoise != "none"):
            raise InputError(
                "denoise and CLAHE look at what lies around a pixel, so an image cut into tiles "
                "would be changed at each tile's border; do without them or without tiles"
            )

    @property
    def is_cut(self) -> bool:
        """Whether a frame may be larger than a tile."""
        return self.spacing_mm is not None or self.frame not in (None, self.shape)

    def _check_answers(self) -> None:
        """Raises InputError on what cannot be done to a network's answer."""
        if not all(SMALLEST_SCALE <= scale <= LARGEST_SCALE for scale in self.scales):
            raise InputError(
                f"a scale is from {SMALLEST_SCALE} to {LARGEST_SCALE}; got {self.scales}"
            )
        for row in self.temperatures:
            if len(row) != len(self.labels) or not all(value > 0 for value in row):
                raise InputError(
                    f"a network has one temperature above 0 for each of {self.labels}; got {row}"
                )
        if self.thresholds and not (
            len(self.thresholds) == len(self.labels) and all(0 < t < 1 for t in self.thresholds)
        ):
            raise InputError(
                f"a threshold between 0 and 1 for each of {self.labels}; got {self.thresholds}"
            )
        if self.cleaning and len(self.cleaning) != len(self.labels):
            raise InputError(
                f"cleaning is one rule for each of {self.labels}; got {len(self.cleaning)}"
            )
        for rule in self.cleaning:
            if rule.inside and rule.inside not in self.labels:
                raise InputError(f"nothing can lie inside {rule.inside}: it is not outlined")

    @property
    def above(self) -> tuple[float, ...]:
        """What the probability of each label must exceed for a pixel to be in its mask."""
        return self.thresholds or (THRESHOLD,) * len(self.labels)

    @property
    def channels(self) -> int:
        """How many slices the network sees at once: 1, or more for 2.5D."""
        return 1 + 2 * self.neighbours

    def save(self, path: pathlib.Path) -> None:
        """Writes the spec as JSON."""
        path.write_text(self.to_json() + "\n", encoding="utf-8")

    def to_json(self) -> str:
        """Returns the spec as JSON, which `parse` reads."""
        return json.dumps(dataclasses.asdict(self), indent=2)


def load(path: pathlib.Path) -> InputSpec:
    """Reads a spec.json.

    Raises:
      InputError: if the file is missing or is not a spec.
    """
    try:
        return parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: this is not a run or an export") from None


def parse(text: str | bytes, source: str) -> InputSpec:
    """Reads the JSON of a spec; `source` says in an error where it came from.

    Raises:
      InputError: if it is not a spec.
    """
    try:
        fields = {name: _tuples(value) for name, value in json.loads(text).items()}
        rules = tuple(Cleaning(**rule) for rule in fields.pop("cleaning", ()))
        return InputSpec(**fields, cleaning=rules)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{source} is not a spec of this version: {error}") from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
