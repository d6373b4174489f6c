"""Folders of DICOM files as a hospital exports them: CT series and X-ray films, by their headers.

No pixels are read. Of what headers say of a patient, only a pseudonym gets into the manifest;
names of files and folders get there as they are.
"""

import hmac
import os
import pathlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from data_pipeline import dicom, location, series
from data_pipeline.cases import Case
from data_pipeline.dicom import Heading
from data_pipeline.errors import InputError
from data_pipeline.labels import LABELS
from data_pipeline.layouts import plain
from data_pipeline.layouts.found import Found
from data_pipeline.scan import MODALITIES

# Of SHA-256, in hexadecimal digits: among 100,000 patients two share them once in 50,000 times.
_PSEUDONYM_DIGITS = 12
_VIEWS = ("AP", "PA", "LL", "RL")

_Headings = Mapping[pathlib.Path, Heading]
_Masks = Mapping[pathlib.Path, Mapping[str, dict[str, pathlib.Path]]]  # by folder, label and stem


def series_and_films(root: pathlib.Path, modality: str, label: str, salt: str) -> Found:
    """Each CT series and each X-ray film of the DICOM files at and below a folder.

    A mask has the name of its film, of its series' folder, or FOLDER-NUMBER where that holds
    several series, and lies in a folder of masks beside that or further up.

    Args:
      root: holds the files, in any folders.
      modality: "XR" or "CT" for these only; "" for both.
      label: what masks/ outlines; "" if there is no such folder.
      salt: who does not know it cannot find out by trying which PatientID a pseudonym is of.

    Raises:
      InputError: if every file is damaged; if masks/ needs a label; if there are masks and none
        has the name of a scan.
    """
    root = pathlib.Path(os.path.abspath(root))
    headings, damaged = _headings(root)
    if not headings:
        if damaged:
            raise damaged[0]
        return Found(())
    kinds = {path: _kind(path, heading, root) for path, heading in headings.items()}
    wanted = (modality,) if modality else MODALITIES
    scans = _series(headings, [p for p, kind in kinds.items() if kind == "CT"], root)
    scans |= {path: headings[path] for path, kind in kinds.items() if kind == "XR"}
    others = sorted(path for path in root.rglob("*") if path.name[0] != ".")
    masks = _masks(others, label)
    cases = tuple(
        _case(root, path, heading, masks, salt)
        for path, heading in sorted(scans.items())
        if _modality(heading) in wanted
    )
    left_out = Counter(kind for kind in kinds.values() if kind not in wanted)
    notes = [f"left out ({kind}): {count}" for kind, count in left_out.most_common()]
    pictures = [
        path
        for path in others
        if location.suffix(path) in plain.OTHER_THAN_DICOM and not _is_mask(path, root)
    ]
    if pictures:
        notes.append(f"left out (not DICOM): {len(pictures)}, such as {pictures[0]}")
    if damaged:
        # The series that it belongs to is refused when it is read: a slice may be missing.
        notes.append(f"left out (damaged): {len(damaged)}; {damaged[0]}")
    notes += [*_about_masks(masks, cases), *_about_patients(cases, salt)]
    return Found(cases, tuple(notes))


def _headings(root: pathlib.Path) -> tuple[_Headings, list[InputError]]:
    """Returns the headings of all files that can be read, and why the others cannot."""
    headings, damaged = {}, []
    for file in series.folder_members(root):
        try:
            if series.is_image_file(file):
                headings[pathlib.Path(file.name)] = dicom.heading(file)
        except InputError as error:
            damaged.append(error)
    return headings, damaged


def _modality(heading: Heading) -> str:
    return "XR" if heading.is_film else heading.modality


def _kind(path: pathlib.Path, heading: Heading, root: pathlib.Path) -> str:
    """Returns "CT" for a slice, "XR" for a film, and else in words what a file is."""
    if _is_mask(path, root):
        return "in a folder of masks"
    if heading.is_film:
        return "XR"
    if heading.is_screenshot:
        return "secondary capture"
    if not heading.has_image:
        return "without image"
    if heading.is_localizer:
        return "localizer"
    return heading.modality[:16] or "of unknown modality"


def _is_mask(path: pathlib.Path, root: pathlib.Path) -> bool:
    return any(part.lower() in plain.MASK_FOLDERS for part in path.relative_to(root).parts[:-1])


def _series(
    headings: _Headings, slices: Iterable[pathlib.Path], root: pathlib.Path
) -> dict[pathlib.Path, Heading]:
    """Returns a heading for each series of slices, by what to write in a manifest for it.

    That is the file, if there is one only; else the folder that holds all, with #NUMBER behind
    it if it holds other images too.
    """
    # An anonymiser without care gives one UID to the series of several patients.
    files: dict[tuple[str, str], list[pathlib.Path]] = defaultdict(list)
    for path in slices:
        files[headings[path].series, headings[path].patient].append(path)
    below: dict[pathlib.Path, list[Heading]] = defaultdict(list)
    for path, heading in headings.items():
        for folder in path.parents:
            if folder.is_relative_to(root):
                below[folder].append(heading)
    names: dict[pathlib.Path, dict[str, str]] = {}
    found = {}
    for (uid, _), paths in files.items():
        place = paths[0]
        if len(paths) > 1:
            place = pathlib.Path(os.path.commonpath([path.parent for path in paths]))
            if place not in names:
                names[place] = series.names_of(below[place])
            if uid in names[place]:
                place = place.with_name(f"{place.name}#{names[place][uid]}")
        if place in found:
            raise InputError(f"{place} holds slices of two patients in one SeriesInstanceUID")
        found[place] = headings[paths[0]]
    return found


def _case(
    root: pathlib.Path, image: pathlib.Path, heading: Heading, masks: _Masks, salt: str
) -> Case:
    name = _name(image)
    folder, _ = location.split_series(image)
    near = [masks[place] for place in (folder, *folder.parents) if place in masks]

    def mask(label: str) -> pathlib.Path | None:
        return next((m for of in near if (m := plain.of_name(of[label], name))), None)

    return Case(
        id="-".join(image.with_name(name).relative_to(root.parent).parts),
        dataset=root.name,
        modality=_modality(heading),
        patient_id=_pseudonym(heading.patient, salt),
        view=heading.view.lower() if heading.view in _VIEWS else "",
        image=image,
        lung_mask=mask("lung"),
        infection_mask=mask("infection"),
    )


def _name(image: pathlib.Path) -> str:
    """Returns what the mask of a scan is called, and its results (see serving.collect)."""
    # Names that are UIDs have dots in them.
    is_named = image.suffix.lower() in (".dcm", ".dicom") and image.is_file()
    return image.stem if is_named else image.name.replace("#", "-")


def _pseudonym(patient: str, salt: str) -> str:
    if not patient:
        return ""
    return hmac.digest(salt.encode(), patient.encode(), "sha256").hex()[:_PSEUDONYM_DIGITS]


def _masks(paths: Iterable[pathlib.Path], label: str) -> _Masks:
    """Returns the masks of each folder that has a folder of masks."""
    folders = {p.parent for p in paths if p.name.lower() in plain.MASK_FOLDERS and p.is_dir()}
    return {folder: plain.masks_in(folder, label) for folder in sorted(folders)}


def _about_masks(masks: _Masks, cases: Sequence[Case]) -> Iterator[str]:
    there = {file for of in masks.values() for files in of.values() for file in files.values()}
    used = {case.mask_path(label) for case in cases for label in LABELS}
    unused = sorted(there - used)
    if unused:
        text = (
            f"{len(unused)} masks have the name of no scan, such as {unused[0]}; a mask is called "
            "as its film, its series' folder, or FOLDER-NUMBER for FOLDER#NUMBER"
        )
        if len(unused) == len(there):
            raise InputError(text)
        yield text


def _about_patients(cases: Sequence[Case], salt: str) -> Iterator[str]:
    known = {case.patient_id for case in cases if case.patient_id}
    if known and not salt:
        yield (
            "patient_id is a pseudonym, SHA-256 of PatientID; with --salt SECRET nobody else can "
            "find out by trying whose it is"
        )
    if len(known) == 1 and len(cases) > 1:
        yield (
            "all cases have one PatientID, so no split divides them; if an anonymiser gave it to "
            "several patients, empty the column patient_id"
        )
