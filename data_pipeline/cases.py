"""The manifest: one case a row, and the one way from a case to its scan and mask."""

import csv
import dataclasses
import pathlib
import posixpath
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipeline import labels as known_labels
from data_pipeline import location, masks, orientation, read, remote
from data_pipeline.errors import InputError
from data_pipeline.orientation import Stored
from data_pipeline.scan import MODALITIES, Mask, Scan

SAMPLE = pathlib.Path(__file__).parent / "sample" / "manifest.csv"
REQUIRED_COLUMNS = ("id", "modality", "image")
SPLITS = ("train", "validation", "test")
_PATH_COLUMNS = ("image", *(label.column for label in known_labels.LABELS.values()))

# In a mask whose class numbers nobody named; published class maps of lungs have up to 5.
_MOST_CLASSES = 16


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of a manifest. Paths are absolute; an empty string means unknown."""

    id: str
    modality: str  # "XR" or "CT"
    image: pathlib.Path  # a file, or a folder holding one DICOM series
    lung_mask: pathlib.Path | None = None  # None: not annotated, which is not "nothing there"
    infection_mask: pathlib.Path | None = None
    dataset: str = ""
    diagnosis: str = ""
    patient_id: str = ""
    view: str = ""
    licence_image: str = ""
    licence_mask: str = ""
    source: str = ""
    split: str = ""  # "train", "validation", "test", or "" for not said
    rescale_slope: float | None = None  # CT whose file does not say so itself:
    rescale_intercept: float | None = None  # HU = slope * stored + intercept
    lung_values: tuple[int, ...] = ()  # of lung_mask's class numbers, those that are lung;
    infection_values: tuple[int, ...] = ()  # (): all above 0

    @property
    def patient(self) -> str:
        """The group that splits keep together: the patient, or the case where unknown."""
        return self.patient_id or f"unknown patient of {self.id}"

    def mask_path(self, label: str) -> pathlib.Path | None:
        """Returns the mask file of a label; None if it was not annotated."""
        path: pathlib.Path | None = getattr(self, known_labels.LABELS[label].column)
        return path

    def files(self, labels: Iterable[str]) -> tuple[pathlib.Path | None, ...]:
        """Returns the image and the mask file of each label, None where there is none."""
        return (self.image, *map(self.mask_path, labels))

    def mask_values(self, label: str) -> tuple[int, ...]:
        """Returns which class numbers of the mask file make up a label; (): all above 0."""
        values: tuple[int, ...] = getattr(self, f"{label}_values")
        return values

    def annotated(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Returns those of `labels` that somebody annotated in this case."""
        return tuple(label for label in labels if self.mask_path(label) is not None)


def load(where: pathlib.Path | str = SAMPLE) -> list[Case]:
    """Reads a manifest, or the manifest.csv of a folder; also one in object storage.

    Raises:
      InputError: if there is none, or naming the row and column that cannot be used.
    """
    path = manifest_file(pathlib.Path(where))
    with remote.here(path) as file:
        cases = _rows(file, path)
    _check_unique(cases, path)
    return cases


def manifest_file(path: pathlib.Path) -> pathlib.Path:
    """Returns the manifest that a path names: itself, or the manifest.csv of a folder."""
    # A store has no folders that could be asked for, so there the name decides.
    is_folder = path.suffix != ".csv" if location.is_remote(path) else path.is_dir()
    return path / "manifest.csv" if is_folder else path


def _rows(file: pathlib.Path, path: pathlib.Path) -> list[Case]:
    """Reads the rows of a manifest that lies at `path`, from a file here."""
    told = location.name(path)
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened)
            missing = [c for c in REQUIRED_COLUMNS if c not in (reader.fieldnames or ())]
            if missing:
                raise InputError(
                    f"{told} lacks the column {', '.join(missing)}; it needs "
                    f"{', '.join(REQUIRED_COLUMNS)} and may have "
                    f"{', '.join(f.name for f in dataclasses.fields(Case)[3:])}"
                )
            return [_case(row, path, line) for line, row in enumerate(reader, start=2)]
    except FileNotFoundError:
        raise InputError(f"{told} does not exist; `data_pipeline.index` writes one") from None
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise InputError(f"{told} is not a CSV file in UTF-8: {error}") from error


def _case(row: dict[str, str | None], manifest: pathlib.Path, line: int) -> Case:
    text = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
    where = f"{location.name(manifest)}, line {line}"
    if not text["id"] or not text["image"]:
        raise InputError(f"{where}: id and image must not be empty")
    if text["modality"] not in MODALITIES:
        raise InputError(f"{where}: modality is {text['modality']!r}; known: {MODALITIES}")
    if text.get("split", "") not in ("", *SPLITS):
        raise InputError(f"{where}: split is {text['split']!r}; known: {SPLITS} or empty")
    values: dict[str, object] = {}
    for field in dataclasses.fields(Case):
        value = text.get(field.name, "")
        if field.name in _PATH_COLUMNS:
            values[field.name] = _beside(manifest, value) if value else None
        elif field.name.startswith("rescale_"):
            values[field.name] = _number(value, f"{where}: {field.name}") if value else None
        elif field.name.endswith("_values"):
            values[field.name] = _class_numbers(value, f"{where}: {field.name}")
        else:
            values[field.name] = value
    return Case(**values)  # type: ignore[arg-type]


def _beside(manifest: pathlib.Path, value: str) -> pathlib.Path:
    """Returns what a path in a manifest leads to: relative to it, unless it is whole."""
    path = pathlib.Path(value)
    if location.is_remote(path):
        return path
    if location.is_remote(manifest):  # where no file system resolves ".."
        return pathlib.Path(posixpath.normpath(manifest.parent / path))
    return manifest.parent.resolve() / path


def _number(value: str, what: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(f"{what} is {value!r}, which is no number") from None


def _class_numbers(value: str, what: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in value.split() if part.isdecimal())
    if len(numbers) != len(value.split()) or 0 in numbers:
        raise InputError(f"{what} is {value!r}; class numbers above 0 are needed, as in '1 2'")
    return numbers


def _check_unique(cases: Sequence[Case], manifest: pathlib.Path) -> None:
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise InputError(
                f"{location.name(manifest)}: id {case.id!r} stands twice; each case needs its own"
            )
        seen.add(case.id)


def select(cases: Iterable[Case], modality: str, labels: Sequence[str]) -> list[Case]:
    """Returns the cases of a modality that have at least one of the labels annotated."""
    return [c for c in cases if c.modality == modality and c.annotated(labels)]


def read_scan(case: Case) -> Scan:
    """Reads the scan of a case.

    Raises:
      InputError: naming the file, if it cannot be read.
    """
    return read.scan(case.image, case.modality, case.rescale_slope, case.rescale_intercept)


def read_mask(case: Case, labels: Sequence[str], grid: tuple[int, ...]) -> Mask:
    """Reads the annotated ones of `labels`; foreground is where a mask file is above 0.

    Where the manifest has lung_values or infection_values, only those class numbers count.

    Args:
      case: the case.
      labels: what is wanted; labels that nobody annotated are left out of the result.
      grid: the scan's shape, which the mask must have too.

    Raises:
      InputError: naming the file, if it cannot be read, lies on another grid, or is no mask.
    """
    present = case.annotated(labels)
    planes = np.zeros((len(present), *grid), np.bool_)
    for plane, label in zip(planes, present, strict=True):
        path = case.mask_path(label)
        assert path is not None  # noqa: S101 - annotated() says so; this tells the type checker
        stored = read.placed_classes(path)
        if stored.values.shape != grid:
            raise InputError(
                f"{location.name(path)} is {stored.values.shape}, its image "
                f"{location.name(case.image)} is {grid}"
            )
        _check_place(case, path, stored)
        plane[...] = _foreground(stored.values, case.mask_values(label), path)
    return Mask(planes, present)


def _foreground(values: np.ndarray, wanted: tuple[int, ...], path: pathlib.Path) -> np.ndarray:
    if wanted:
        return np.isin(values, wanted)
    found = masks.distinct(values)
    if found[0] < 0 or len(found) > _MOST_CLASSES:
        raise InputError(
            f"{location.name(path)} holds {len(found)} different values from {found[0]} to "
            f"{found[-1]}: that is an image, or a mask blurred by JPEG or resizing; store 0 and "
            "255, or class numbers"
        )
    return values > 0


def _check_place(case: Case, path: pathlib.Path, mask: Stored) -> None:
    """Refuses a mask that lies elsewhere in the patient than its image, or may."""
    if case.modality == "XR":
        return  # stays as stored, and so does its mask
    affine, turn = read.place(case.image)
    if affine is not None and turn is not None and mask.affine is not None:
        stored_shape = np.empty(3, int)
        stored_shape[list(turn.axes)] = (1,) * (3 - mask.values.ndim) + mask.values.shape
        canonical = turn.affine(affine, tuple(stored_shape))
        same = orientation.same_place(canonical, mask.affine, mask.values.shape)
    else:  # only one of them, or none, was turned
        turn = turn or read.place(path)[1]
        same = turn is None or turn.is_identity
    if not same:
        raise InputError(
            f"{location.name(path)} lies elsewhere than its image {location.name(case.image)}: "
            "orientation, spacing or origin differ in their headers"
        )
