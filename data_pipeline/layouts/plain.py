"""The layout that people make themselves: a folder of images and folders of masks."""

import pathlib

from data_pipeline import raster, read
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from data_pipeline.labels import LABELS
from data_pipeline.layouts.found import Found, by_stem, folders, inside, patient, stem, with_suffix

_IMAGES = ("images", "imgs", "scans")
OTHER_THAN_DICOM = (*raster.SUFFIXES, *read.VOLUMES, ".zip")
_FILES = (*OTHER_THAN_DICOM, ".dcm")
MASK_FOLDERS = ("masks", *(f"{label}{gap}masks" for label in LABELS for gap in "_ "))


def images_and_masks(root: pathlib.Path, modality: str, label: str) -> Found:
    """images/ beside lung_masks/ and infection_masks/, or beside masks/ of one label.

    A mask has its image's name, or that with _mask behind it or mask_ before it. A folder
    within images/ is one DICOM series.

    Args:
      root: holds those folders, perhaps some levels down.
      modality: "XR" or "CT"; names do not tell.
      label: what masks/ outlines; "" if there is no such folder.

    Raises:
      InputError: if modality or label is needed and was not given, or no mask fits an image.
    """
    found: list[Case] = []
    for name in _IMAGES:
        for folder in folders(root, name):
            masks = masks_in(folder.parent, label)
            scans = [p for p in sorted(folder.iterdir()) if p.is_dir()]
            scans += with_suffix(folder, _FILES)
            if not modality and scans:
                raise InputError(f"{folder} may hold X-rays or CT; say --modality XR or CT")
            found += [_case(folder, scan, modality, masks) for scan in scans]
    if found and not any(case.annotated(LABELS) for case in found):
        raise InputError(
            f"{root} has images and no mask with the name of one; masks belong into lung_masks, "
            "infection_masks or masks, beside images"
        )
    return Found(tuple(found))


def has_other_than_dicom(root: pathlib.Path) -> bool:
    """Whether pictures, volumes or archives lie in images/, perhaps some levels down."""
    found = (folder for name in _IMAGES for folder in folders(root, name))
    return any(with_suffix(folder, OTHER_THAN_DICOM) for folder in found)


def masks_in(folder: pathlib.Path, label: str) -> dict[str, dict[str, pathlib.Path]]:
    """Returns for each label the masks in the mask folders of a folder, by stem.

    Raises:
      InputError: if there is a folder masks/, and no label that it outlines.
    """
    found = {}
    for name in LABELS:
        where = inside(folder, f"{name}_masks") or inside(folder, f"{name} masks")
        found[name] = by_stem(with_suffix(where, _FILES))
    unnamed = inside(folder, "masks")
    if unnamed is not None and unnamed.is_dir():
        if not label:
            raise InputError(f"{unnamed} may outline anything; say --label {' or '.join(LABELS)}")
        found[label] |= by_stem(with_suffix(unnamed, _FILES))
    return found


def of_name(masks: dict[str, pathlib.Path], name: str) -> pathlib.Path | None:
    """Returns the mask of the image with this name."""
    return next((masks[n] for n in (name, f"{name}_mask", f"mask_{name}") if n in masks), None)


def _case(
    folder: pathlib.Path,
    scan: pathlib.Path,
    modality: str,
    masks: dict[str, dict[str, pathlib.Path]],
) -> Case:
    name = scan.name if scan.is_dir() else stem(scan)
    dataset = folder.resolve().parent.name
    return Case(
        id=f"{dataset}-{name}",
        dataset=dataset,
        modality=modality,
        diagnosis="",
        patient_id=patient(dataset, name),
        image=scan,
        lung_mask=of_name(masks["lung"], name),
        infection_mask=of_name(masks["infection"], name),
    )
