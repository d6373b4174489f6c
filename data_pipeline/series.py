"""Makes one CT volume of the DICOM files of a folder, a ZIP archive or a list.

Slices are ordered by their position along the normal, never by file name or InstanceNumber:
scanners number either way, and a reversed stack is an upside-down patient. What does not make
a gapless upright stack is refused with the reason.
"""

import io
import logging
import pathlib
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipeline import dicom, untrusted
from data_pipeline.dicom import Frame, Heading, Member
from data_pipeline.errors import InputError
from data_pipeline.orientation import Stored

_LOG = logging.getLogger(__name__)

# A slice may lie this share of the spacing beside where an even grid puts it: positions are
# rounded to 0.1 mm by some scanners, and a missing slice is far beyond.
_MAX_OFF_GRID = 0.1
# Of a component of a direction; six digits are usual.
_SAME_DIRECTION = 1e-3
# Between the normal and the way from the first to the last slice: a tilted gantry. 0.5 degree.
_MAX_TILT_SINE = 0.0087
# Members of ZIP archives are unpacked in memory.
_LARGEST_MEMBER_BYTES = 2**30


def members(path: pathlib.Path) -> list[Member]:
    """Returns the DICOM files of a folder (and those below it) or of a ZIP archive.

    Other files that lie there, and directories of media (DICOMDIR), are left out.

    Raises:
      InputError: if it cannot be opened, or a file named .dcm is not DICOM.
    """
    found = _zip_members(path) if path.is_file() else folder_members(path)
    return [file for file in found if is_image_file(file)]


def is_image_file(file: Member) -> bool:
    """Returns whether a file is DICOM, and no directory of media (DICOMDIR).

    Raises:
      InputError: if it cannot be opened, or is named .dcm and is not DICOM.
    """
    with untrusted.damaged(file.name, "DICOM file"):
        marked = dicom.is_dicom(file)
    if not marked and file.name.lower().endswith(".dcm"):
        raise InputError(f"{file.name} is damaged, cut short, or no DICOM file at all")
    return marked and pathlib.PurePath(file.name).name.upper() != "DICOMDIR"


def folder_members(folder: pathlib.Path) -> list[Member]:
    """Returns the files of a folder and those below it, DICOM or not; hidden ones are left out."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not _is_hidden(p.name))
    return [dicom.member(path) for path in paths]


def _zip_members(path: pathlib.Path) -> list[Member]:
    with untrusted.damaged(path, "ZIP archive"), zipfile.ZipFile(path) as archive:
        entries = [e for e in archive.infolist() if not e.is_dir() and not _is_hidden(e.filename)]
    size = untrusted.file_bytes(path)
    untrusted.check_claim(
        path, max(1, sum(e.file_size for e in entries)), size, untrusted.DEFLATE_RATIO
    )
    for entry in entries:
        if entry.file_size > _LARGEST_MEMBER_BYTES:
            raise InputError(f"{path}: {entry.filename} has {entry.file_size:,} bytes unpacked")
    return [_zip_member(path, entry) for entry in sorted(entries, key=lambda e: e.filename)]


def _is_hidden(name: str) -> bool:
    """Whether a name is of what macOS puts beside each file, __MACOSX/._1.dcm, or hidden."""
    path = pathlib.PurePosixPath(name)
    return "__MACOSX" in path.parts or path.name.startswith(".")


def _zip_member(path: pathlib.Path, entry: zipfile.ZipInfo) -> Member:
    def opened() -> io.BytesIO:
        with zipfile.ZipFile(path) as archive:
            return io.BytesIO(archive.read(entry))

    return Member(f"{path}/{entry.filename}", opened)


def frames(files: Sequence[Member], wanted: str = "") -> list[Frame]:
    """Returns the CT slices of DICOM files: of the wanted series, or of all if there is none such.

    Args:
      files: of any number of series; what holds no image is left out.
      wanted: SeriesNumber or SeriesInstanceUID; empty for all.

    Raises:
      InputError: naming the file, if it is damaged, or an image and no CT slice.
    """
    found = [frame for file in files for frame in dicom.frames(file, wanted)]
    return found if found or not wanted else frames(files)


def names(files: Iterable[Member]) -> list[str]:
    """Returns what to write behind FOLDER# for each CT series of a folder, sorted.

    Empty if the folder holds one series of images and needs no name for it.

    Raises:
      InputError: naming the file, if one is damaged.
    """
    return sorted(names_of(map(dicom.heading, files)).values())


def names_of(headings: Iterable[Heading]) -> dict[str, str]:
    """Returns `names` by SeriesInstanceUID, from the headings of all files of a folder."""
    images = [
        heading
        for heading in headings
        if heading.has_image and not (heading.is_localizer and heading.modality == "CT")
    ]
    numbers = {heading.series: heading.series_number for heading in images}
    if len(numbers) < 2:
        return {}
    slices = {heading.series for heading in images if heading.modality == "CT"}
    return {uid: _name(uid, numbers[uid], list(numbers.values())) for uid in slices}


def _name(uid: str, number: str, numbers: Sequence[str]) -> str:
    # Where a number stands twice or is missing, only the UID tells the series apart.
    return uid if numbers.count(number) > 1 or number == "?" else number


def choose(found: Iterable[Frame], source: str, wanted: str = "") -> list[Frame]:
    """Returns the slices of the one series that is wanted, without localizers.

    Args:
      found: slices of any number of series.
      source: where they were found, for messages.
      wanted: SeriesNumber or SeriesInstanceUID; empty where there is only one series.

    Raises:
      InputError: listing the series, if it is not clear which one is meant.
    """
    series: dict[str, list[Frame]] = defaultdict(list)
    for frame in found:
        if frame.is_localizer:
            _LOG.info("%s is a localizer, which is no part of a volume", frame.member.name)
        else:
            series[frame.series].append(frame)
    if wanted:
        series = {
            uid: slices
            for uid, slices in series.items()
            if wanted in (uid, slices[0].series_number)
        } or _none(source, wanted, series)
    if not series:
        raise InputError(f"{source} holds no CT slices; localizers and screenshots are none")
    if len(series) > 1:
        raise InputError(
            f"{source} holds {len(series)} series; write {source}#NUMBER for one of: "
            + "; ".join(_described(slices, series) for slices in series.values())
        )
    return next(iter(series.values()))


def _none(source: str, wanted: str, series: dict[str, list[Frame]]) -> dict[str, list[Frame]]:
    listed = "; ".join(_described(slices, series) for slices in series.values()) or "none"
    raise InputError(f"{source} holds no series {wanted}; it holds: {listed}")


def _described(slices: Sequence[Frame], series: dict[str, list[Frame]]) -> str:
    first = slices[0]
    numbers = [others[0].series_number for others in series.values()]
    name = _name(first.series, first.series_number, numbers)
    return f"#{name} ({len(slices)} slices of {first.shape}, kernel {first.kernel or 'unknown'})"


def volume(
    slices: Sequence[Frame], source: str, rescale: tuple[float, float] | None = None
) -> Stored:
    """Reads slices of one series as a volume in HU, ordered along their normal.

    Args:
      slices: what `choose` returned.
      source: where they come from, for messages.
      rescale: slope and intercept to HU, for files that do not say it themselves.

    Raises:
      InputError: if the slices do not make one upright stack with even spacing, or a file
        does not say how to come to HU and nobody else did.
    """
    ordered, affine = stack(slices, source)
    rescales = [_agreed(frame, rescale) for frame in ordered]
    rows, cols = ordered[0].shape
    untrusted.check_claim(source, 4 * len(ordered) * rows * cols, untrusted.LARGEST_SCAN_BYTES)
    by_member: dict[str, list[int]] = defaultdict(list)
    for place, frame in enumerate(ordered):
        by_member[frame.member.name].append(place)
    values = np.empty((len(ordered), rows, cols), np.float32)
    for places in by_member.values():
        of_file = [ordered[place] for place in places]
        decoded = dicom.hounsfield(of_file[0].member, of_file, [rescales[p] for p in places])
        for place, plane in zip(places, decoded, strict=True):
            values[place] = plane
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Stored(values, "HU", spacing, affine)


def _agreed(frame: Frame, given: tuple[float, float] | None) -> tuple[float, float]:
    if given is None and frame.rescale is None:
        raise InputError(
            f"{frame.member.name} does not say how to come to HU; give rescale_slope and "
            "rescale_intercept"
        )
    if given is not None and frame.rescale not in (None, given):
        slope, intercept = frame.rescale
        raise InputError(
            f"{frame.member.name} itself says HU = {slope:g} * stored {intercept:+g}; leave out "
            "rescale_slope and rescale_intercept"
        )
    return given or frame.rescale  # type: ignore[return-value]


def stack(slices: Sequence[Frame], source: str) -> tuple[list[Frame], np.ndarray]:
    """Orders slices along their normal.

    Returns:
      The slices, and the affine (4, 4) from (slice, row, col, 1) to LPS millimetres.

    Raises:
      InputError: if they do not make one upright stack with even spacing.
    """
    _check_alike(slices, source)
    first = slices[0]
    slices = _without_repeated_files(slices)
    ordered = sorted(slices, key=lambda frame: float(frame.corner_mm @ first.normal))
    affine = np.eye(4)
    affine[:3, 0] = _step(ordered, source)
    affine[:3, 1] = first.down * first.spacing_mm[0]
    affine[:3, 2] = first.right * first.spacing_mm[1]
    affine[:3, 3] = ordered[0].corner_mm
    return ordered, affine


def _check_alike(slices: Sequence[Frame], source: str) -> None:
    first = slices[0]
    vectors = np.stack([first.right, first.down])
    if not np.allclose(vectors @ vectors.T, np.eye(2), atol=_SAME_DIRECTION):
        raise InputError(
            f"{first.member.name}: ImageOrientationPatient is not two unit vectors at right angles"
        )
    if min(first.spacing_mm) <= 0 or not np.isfinite(first.spacing_mm).all():
        raise InputError(f"{first.member.name}: PixelSpacing is {first.spacing_mm}")
    for frame in slices:
        if frame.shape != first.shape:
            raise InputError(
                f"{source} mixes slices of {first.shape} and {frame.shape} in one series"
            )
        if not np.allclose([frame.right, frame.down], vectors, atol=_SAME_DIRECTION):
            raise InputError(f"{source} mixes orientations in one series: {frame.member.name}")
        if not np.allclose(frame.spacing_mm, first.spacing_mm, rtol=1e-3, atol=0):
            raise InputError(
                f"{source} mixes pixel spacings in one series: {first.spacing_mm} and "
                f"{frame.spacing_mm} mm"
            )
        if not np.isfinite(frame.corner_mm).all():
            raise InputError(f"{frame.member.name}: ImagePositionPatient is no position")


def _without_repeated_files(slices: Sequence[Frame]) -> list[Frame]:
    """Drops copies of a file, told by their SOPInstanceUID; a slice at the same place is none."""
    kept: dict[tuple[str, int], Frame] = {}
    for frame in slices:
        twin = kept.setdefault((frame.instance, frame.index), frame)
        if twin is not frame:
            _LOG.info("%s is a copy of %s", frame.member.name, twin.member.name)
            if not np.array_equal(twin.corner_mm, frame.corner_mm):
                raise InputError(
                    f"{frame.member.name} and {twin.member.name} share a SOPInstanceUID and "
                    "lie in different places"
                )
    return list(kept.values())


def _step(ordered: Sequence[Frame], source: str) -> np.ndarray:
    """Returns the vector from one slice to the next, after checking that it is always the same."""
    normal = ordered[0].normal
    if len(ordered) == 1:
        return normal  # of no length that is known: one slice has no distance to a next one
    corners = np.stack([frame.corner_mm for frame in ordered])
    along = corners @ normal
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    if gaps.min() < 0.01 * max(usual, 0.01):
        at = int(gaps.argmin())
        raise InputError(
            f"{source} has two slices in one place: {ordered[at].member.name} and "
            f"{ordered[at + 1].member.name}; keep one acquisition"
        )
    whole: np.ndarray = corners[-1] - corners[0]
    sine = float(np.linalg.norm(whole - normal * (whole @ normal)) / np.linalg.norm(whole))
    if sine > _MAX_TILT_SINE:
        raise InputError(
            f"{source} was taken with the gantry tilted by {np.degrees(np.arcsin(sine)):.1f} "
            "degrees; resample it onto an upright grid first"
        )
    step = whole / (len(ordered) - 1)
    off = np.abs(along - along[0] - np.arange(len(ordered)) * (step @ normal)).max()
    multiples = gaps / gaps.min()
    if multiples.max() > 1.5 and np.abs(multiples - np.rint(multiples)).max() < _MAX_OFF_GRID:
        at = int(gaps.argmax())
        raise InputError(
            f"{source} lacks slices: {gaps[at]:.4g} mm between {ordered[at].member.name} and "
            f"{ordered[at + 1].member.name}, {gaps.min():.4g} mm elsewhere"
        )
    if off > _MAX_OFF_GRID * usual:
        raise InputError(
            f"{source} has uneven spacing: {gaps.min():.4g} to {gaps.max():.4g} mm between "
            "slices; resample it first"
        )
    straight = corners[0] + np.arange(len(ordered))[:, None] * step
    beside = np.linalg.norm(corners - straight, axis=1).max()
    if beside > max(ordered[0].spacing_mm) and beside > _MAX_OFF_GRID * usual:
        raise InputError(f"{source} has slices that lie {beside:.3g} mm beside the others")
    return step
