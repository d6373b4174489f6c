"""Writes the manifest of data as they lie on disk, by recognising the layout they come in.

    python -m data_pipeline.index DIR --out manifest.csv

Published data sets need nothing else, nor does a folder of DICOM files. A folder of one's own,
images/ beside lung_masks/, infection_masks/ or masks/, needs --modality; masks/ needs --label.
"""

import argparse
import csv
import dataclasses
import io
import os
import pathlib
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from rich.console import Console

from data_pipeline import raster
from data_pipeline.cases import Case
from data_pipeline.errors import InputError, one_line_for_bad_input
from data_pipeline.labels import LABELS
from data_pipeline.layouts import ct, plain, plain_dicom, xray
from data_pipeline.layouts.found import Found, Layout
from data_pipeline.scan import MODALITIES

LAYOUTS = (
    Layout(
        "COVID-QU-Ex",
        "Infection Segmentation Data/ or Lung Segmentation Data/ with Train, Val, Test",
        xray.covid_qu_ex,
    ),
    Layout("QaTa-COV19", "Images/ beside Ground-truths/mask_*.png", xray.qata),
    Layout("Montgomery", "CXR_png/ beside ManualMask/{leftMask,rightMask}/", xray.montgomery),
    Layout("Shenzhen", "CXR_png/CHNCXR_*.png beside mask/ or masks/", xray.shenzhen),
    Layout("JSRT", "All247images/*.IMG and {left lung,right lung}/*.gif", xray.jsrt),
    Layout(
        "COVID-19 Radiography Database",
        "COVID-19_Radiography_Dataset/CLASS/{images,masks}/",
        xray.radiography_database,
    ),
    Layout(
        "Zenodo 3757476",
        "COVID-19-CT-Seg_20cases/ or ct_scans/ beside Lung_Mask/ and Infection_Mask/",
        ct.zenodo_20,
    ),
    Layout("MedSeg 1", "tr_im.nii.gz beside tr_mask.nii.gz", ct.medseg_1),
    Layout("MedSeg 2", "rp_im/ beside rp_lung_msk/ and rp_msk/", ct.medseg_2),
    Layout("MosMedData", "studies/CT-0 to CT-4/ beside masks/", ct.mosmed),
    Layout("COVID-19-20", "Train/volume-covid19-*_ct.nii.gz and *_seg.nii.gz", ct.covid_19_20),
    Layout("LUNA16", "subset0 to subset9/*.mhd beside seg-lungs-LUNA16/", ct.luna16),
    Layout("Finding lungs", "2d_images/ beside 2d_masks/", ct.finding_lungs),
    Layout("Inf-Net", "LungInfection-Train/Doctor-label/ and LungInfection-Test/", ct.inf_net),
)
SOME_REFUSED_EXIT_CODE = 1
PLAIN = "images/ beside lung_masks/, infection_masks/ or masks/"
PLAIN_DICOM = "files of CT series (CT) or X-ray films (CR, DX), in any folders"


def find(
    folder: pathlib.Path,
    derived: pathlib.Path,
    modality: str = "",
    label: str = "",
    salt: str = "",
) -> tuple[list[str], Found]:
    """Returns the layouts recognised in a folder, by name, and their cases together.

    Args:
      folder: where data lie, perhaps some levels down.
      derived: where masks that have to be made will lie.
      modality: of a plain folder: "XR" or "CT".
      label: of the masks/ of a plain folder.
      salt: that pseudonyms of patients are made with, where DICOM files name them.

    Raises:
      InputError: if no layout is recognised, listing what was looked for.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    finds = {layout.name: layout.find(folder, derived) for layout in LAYOUTS}
    finds = {name: found for name, found in finds.items() if found.cases}
    if not finds:
        finds = _own(folder, modality, label, salt)
    together = Found(
        tuple(case for found in finds.values() for case in found.cases),
        tuple(note for found in finds.values() for note in found.notes),
        tuple(job for found in finds.values() for job in found.derived),
    )
    return list(finds), _without_leaking_splits(_with_unique_ids(together))


def _own(folder: pathlib.Path, modality: str, label: str, salt: str) -> dict[str, Found]:
    """Returns what is found in a folder of somebody's own: DICOM, or else images and masks."""
    told = ""
    if not plain.has_other_than_dicom(folder):
        found = plain_dicom.series_and_films(folder, modality, label, salt)
        if found.cases:
            return {"plain DICOM": found}
        told = "".join(f"; {note}" for note in found.notes)
    found = plain.images_and_masks(folder, modality, label)
    if found.cases:
        return {"images and masks": found}
    tried = "; ".join(f"{layout.name}: {layout.looks_for}" for layout in LAYOUTS)
    raise InputError(
        f"{folder} has no layout that is known. Tried: {tried}; plain: {PLAIN}; "
        f"plain DICOM: {PLAIN_DICOM}{told}"
    )


def _with_unique_ids(found: Found) -> Found:
    """Numbers ids that two files of one name share, from the second on."""
    seen: Counter[str] = Counter()
    cases = []
    for case in found.cases:
        seen[case.id] += 1
        number = seen[case.id]
        cases.append(case if number == 1 else dataclasses.replace(case, id=f"{case.id}-{number}"))
    return dataclasses.replace(found, cases=tuple(cases))


def _without_leaking_splits(found: Found) -> Found:
    """Drops the published split of a data set that puts one patient on both sides of it."""
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for case in found.cases:
        splits[case.dataset, case.patient].add(case.split)
    leaking = Counter(dataset for (dataset, _), names in splits.items() if len(names) > 1)
    cases = tuple(
        dataclasses.replace(case, split="") if case.dataset in leaking else case
        for case in found.cases
    )
    notes = tuple(
        f"{dataset}: its published split has {count} patients in more than one part, so it is "
        "left out of the manifest"
        for dataset, count in sorted(leaking.items())
    )
    return dataclasses.replace(found, cases=cases, notes=found.notes + notes)


def derive(found: Found) -> tuple[Found, list[InputError]]:
    """Makes the masks and images that a layout could not take as they are published.

    Returns:
      what was found, without the cases of which a file cannot be made, and why it cannot.

    Raises:
      InputError: if no case is left.
    """
    refused: dict[pathlib.Path | None, InputError] = {}
    for job in found.derived:
        try:
            raster.write(job.path, job.make())
        except InputError as error:
            refused[job.path] = error
    cases = tuple(
        case
        for case in found.cases
        if not refused.keys() & {case.image, case.lung_mask, case.infection_mask}
    )
    if not cases:
        raise next(iter(refused.values()))
    return dataclasses.replace(found, cases=cases), list(refused.values())


def write(path: pathlib.Path, cases: Sequence[Case]) -> None:
    """Writes cases as a manifest with paths relative to it; the file appears whole.

    Columns that are empty in every row are left out, except those that every manifest has.
    """
    always: tuple[str, ...] = (
        "id",
        "dataset",
        "modality",
        "diagnosis",
        "patient_id",
        "view",
        "image",
    )
    always += tuple(label.column for label in LABELS.values())
    rows = [_row(case, path.parent) for case in cases]
    others = [field.name for field in dataclasses.fields(Case) if field.name not in always]
    columns = [*always, *(name for name in others if any(row[name] for row in rows))]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text.getvalue(), encoding="utf-8")
    unfinished.replace(path)


def _row(case: Case, folder: pathlib.Path) -> dict[str, str]:
    def told(value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, pathlib.Path):
            return pathlib.Path(os.path.relpath(value, folder)).as_posix()
        if isinstance(value, tuple):
            return " ".join(map(str, value))
        return str(value)

    return {f.name: told(getattr(case, f.name)) for f in dataclasses.fields(Case)}


def main(argv: list[str] | None = None) -> None:
    """Parses flags, writes the manifest and tells what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.index", description="Write the manifest of a folder of data."
    )
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("manifest.csv"))
    parser.add_argument("--modality", choices=MODALITIES, default="", help="of a plain folder")
    parser.add_argument("--label", choices=LABELS, default="", help="that masks/ outlines")
    parser.add_argument(
        "--lung-values", default="", help='class numbers of lung in its masks, such as "3 4"'
    )
    parser.add_argument(
        "--salt", default="", help="secret text for pseudonyms of the patients of DICOM files"
    )
    flags = parser.parse_args(argv)
    with one_line_for_bad_input():
        derived = flags.out.with_name(f"{flags.out.stem}_derived")
        names, found = find(flags.folder, derived, flags.modality, flags.label, flags.salt)
        labelled = tuple(_with_lung_values(case, flags.lung_values) for case in found.cases)
        found = dataclasses.replace(found, cases=labelled)
        console = Console(highlight=False, soft_wrap=True)
        if found.derived:
            console.print(f"making {len(found.derived)} files in {derived}")
        found, refused = derive(found)
        write(flags.out, found.cases)
        _tell(console, names, found, flags.out)
    for error in refused:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"left out: {error}")
    if refused:
        sys.exit(SOME_REFUSED_EXIT_CODE)


def _with_lung_values(case: Case, values: str) -> Case:
    if not values:
        return case
    if not all(value.isdecimal() and int(value) for value in values.split()):
        raise InputError(f"--lung-values is {values!r}; class numbers above 0 are needed")
    return dataclasses.replace(case, lung_values=tuple(map(int, values.split())))


def _tell(console: Console, names: Sequence[str], found: Found, out: pathlib.Path) -> None:
    cases = found.cases
    console.print(f"recognised: {', '.join(names)}")
    console.print(f"cases: {len(cases)}, {_counts(case.modality for case in cases)}")
    for label in LABELS:
        count = sum(case.mask_path(label) is not None for case in cases)
        console.print(f"with {label} mask: {count}")
    known = len({case.patient_id for case in cases if case.patient_id})
    unknown = sum(not case.patient_id for case in cases)
    console.print(f"patients: {known} known; unknown for {unknown} cases, each its own group")
    if any(case.split for case in cases):
        console.print(f"published split: {_counts(case.split or 'none' for case in cases)}")
    for note in found.notes:
        console.print(f"note: {note}")
    console.print(f"wrote {out}; next: python -m data_pipeline.check {out} --out report")


def _counts(values: Iterable[str]) -> str:
    return ", ".join(f"{value} {count}" for value, count in Counter(values).most_common())


if __name__ == "__main__":
    main()
