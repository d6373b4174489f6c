"""The layouts of published chest CT data sets."""

import dataclasses
import pathlib

from data_pipeline.cases import Case
from data_pipeline.layouts.found import (
    Found,
    by_stem,
    folders,
    images,
    inside,
    patient,
    stem,
    with_suffix,
)

_NIFTI = (".nii.gz", ".nii")

# The radiopaedia volumes of Zenodo 3757476 were published as a window of -1250 to 250 HU in
# 0 to 255, beside the coronacases volumes in HU: half of the data set is not in HU.
_WINDOWED_SLOPE = 1500 / 255
_WINDOWED_INTERCEPT = -1250.0


def zenodo_20(root: pathlib.Path, derived: pathlib.Path) -> Found:
    """The 20 COVID-19 CT volumes of Zenodo 3757476, as published and as copied to Kaggle."""
    dataset = "zenodo20"
    cases = []
    for name in ("COVID-19-CT-Seg_20cases", "ct_scans"):
        for folder in folders(root, name):
            around = folder.parent
            lungs, infections, both = (
                _volumes(inside(around, mask))
                for mask in ("Lung_Mask", "Infection_Mask", "Lung_and_Infection_Mask")
            )
            for volume_name, volume in _volumes(folder).items():
                case = Case(
                    id=f"{dataset}-{volume_name}",
                    dataset=dataset,
                    modality="CT",
                    diagnosis="COVID-19",
                    patient_id=patient(dataset, volume_name) or f"{dataset}-{volume_name}",
                    image=volume,
                    lung_mask=lungs.get(volume_name, both.get(volume_name)),
                    infection_mask=infections.get(volume_name, both.get(volume_name)),
                    lung_values=() if volume_name in lungs else (1, 2, 3),
                    infection_values=() if volume_name in infections else (3,),
                )
                if volume_name.startswith("radiopaedia_"):
                    case = dataclasses.replace(
                        case, rescale_slope=_WINDOWED_SLOPE, rescale_intercept=_WINDOWED_INTERCEPT
                    )
                cases.append(case)
    note = (
        "Zenodo 3757476: its radiopaedia volumes are a window of -1250 to 250 HU, so they get a "
        "rescale; what lay outside the window is lost"
    )
    return Found(tuple(cases), (note,) if cases else ())


def _volumes(folder: pathlib.Path | None) -> dict[str, pathlib.Path]:
    """Returns volumes by name; Kaggle unpacks some as a folder x.nii that holds x.nii."""
    files = with_suffix(folder, _NIFTI)
    if folder is not None:
        for below in sorted(p for p in folder.iterdir() if p.is_dir() and p.suffix == ".nii"):
            files += with_suffix(below, _NIFTI)[:1]
    return by_stem(files)


def medseg_1(root: pathlib.Path, derived: pathlib.Path) -> Found:
    """MedSeg 1: 100 slices of more than 40 patients in one file."""
    cases = []
    for folder in folders(root):
        volume = _either(folder, "tr_im")
        if volume is not None:
            cases.append(
                Case(
                    id="medseg1-tr",
                    dataset="medseg1",
                    modality="CT",
                    diagnosis="COVID-19",
                    image=volume,
                    lung_mask=_either(folder, "tr_lungmasks_updated"),
                    infection_mask=_either(folder, "tr_mask"),
                    infection_values=(1, 2),
                )
            )
    note = (
        "MedSeg 1: one file holds slices of many patients, so it is one case; pleural effusion "
        "(3) does not count as infection"
    )
    return Found(tuple(cases), (note,) if cases else ())


def _either(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    return next((p for end in _NIFTI if (p := folder / f"{name}{end}").is_file()), None)


def medseg_2(root: pathlib.Path, derived: pathlib.Path) -> Found:
    """MedSeg 2: nine volumes from Radiopaedia."""
    cases = []
    for folder in folders(root, "rp_im"):
        lungs = _volumes(inside(folder.parent, "rp_lung_msk"))
        infections = _volumes(inside(folder.parent, "rp_msk"))
        for name, volume in _volumes(folder).items():
            cases.append(
                Case(
                    id=f"medseg2-{name}",
                    dataset="medseg2",
                    modality="CT",
                    diagnosis="COVID-19",
                    patient_id=f"medseg2-{name}",
                    image=volume,
                    lung_mask=lungs.get(name),
                    infection_mask=infections.get(name),
                    infection_values=(1, 2),
                )
            )
    note = "MedSeg 2: pleural effusion (3) does not count as infection"
    return Found(tuple(cases), (note,) if cases else ())


def mosmed(root: pathlib.Path, derived: pathlib.Path) -> Found:
    """MosMedData: 1110 studies by severity, 50 of them with infection masks."""
    cases = []
    for folder in folders(root, "studies"):
        masks = _volumes(inside(folder.parent, "masks"))
        for severity in range(5):
            for name, volume in _volumes(inside(folder, f"CT-{severity}")).items():
                cases.append(
                    Case(
                        id=f"mosmed-{name}",
                        dataset="mosmed",
                        modality="CT",
                        diagnosis="COVID-19" if severity else "normal",
                        patient_id=f"mosmed-{name}",
                        image=volume,
                        infection_mask=masks.get(f"{name}_mask"),
                    )
                )
    return Found(tuple(cases))


def covid_19_20(root: pathlib.Path, derived: pathlib.Path) -> Found:
    """The COVID-19-20 challenge; its validation part has no masks."""
    cases = []
    for part in ("Train", "Validation"):
        for folder in folders(root, part):
            volumes = _volumes(folder)
            for name, volume in volumes.items():
                number = name.removesuffix("_ct")
                if name.startswith("volume-covid19-") and name != number:
                    cases.append(
                        Case(
                            id=f"covid1920-{number.removeprefix('volume-covid19-')}",
                            dataset="covid1920",
                            modality="CT",
                            diagnosis="COVID-19",
                            patient_id=f"covid1920-{number.removeprefix('volume-covid19-')}",
                            image=volume,
                            infection_mask=volumes.get(f"{number}_seg"),
                        )
                    )
    return Found(tuple(cases))


def luna16(root: pathlib.Path, derived: pathlib.Path) -> Found:
    """LUNA16: volumes in ten subsets, with lung masks that a program made."""
    masks = by_stem(p for f in folders(root, "seg-lungs-LUNA16") for p in _metaimages(f))
    volumes = [p for n in range(10) for f in folders(root, f"subset{n}") for p in _metaimages(f)]
    cases = [
        Case(
            id=f"luna16-{stem(volume)}",
            dataset="luna16",
            modality="CT",
            diagnosis="unknown",
            image=volume,
            lung_mask=masks.get(stem(volume)),
            lung_values=(3, 4),
        )
        for volume in volumes
    ]
    note = (
        "LUNA16: lung masks were made by a program, not by radiologists; class numbers 3 and 4 "
        "are taken as lung, 5 (trachea) is not; --lung-values says otherwise"
    )
    return Found(tuple(cases), (note,) if cases else ())


def _metaimages(folder: pathlib.Path) -> list[pathlib.Path]:
    return with_suffix(folder, (".mhd", ".mha"))


def finding_lungs(root: pathlib.Path, derived: pathlib.Path) -> Found:
    """Finding and Measuring Lungs in CT (Kaggle): TIFF slices that store HU."""
    cases = []
    for folder in folders(root, "2d_images"):
        masks = by_stem(images(inside(folder.parent, "2d_masks")))
        for image in images(folder):
            cases.append(
                Case(
                    id=f"finding_lungs-{stem(image)}",
                    dataset="finding_lungs",
                    modality="CT",
                    diagnosis="unknown",
                    patient_id=patient("finding_lungs", stem(image)),
                    image=image,
                    lung_mask=masks.get(stem(image)),
                    rescale_slope=1.0,
                    rescale_intercept=0.0,
                )
            )
    return Found(tuple(cases))


def inf_net(root: pathlib.Path, derived: pathlib.Path) -> Found:
    """Inf-Net: 8-bit slices with infection masks, split as in its paper."""
    parts = {
        ("LungInfection-Train", "Doctor-label"): "train",
        ("TestingSet", "LungInfection-Test"): "test",
    }
    cases = []
    for path, split in parts.items():
        for folder in folders(root, *path):
            masks = by_stem(images(inside(folder, "GT")))
            for image in images(inside(folder, "Imgs")):
                cases.append(
                    Case(
                        id=f"inf_net-{split}-{stem(image)}",
                        dataset="inf_net",
                        modality="CT",
                        diagnosis="COVID-19",
                        image=image,
                        infection_mask=masks.get(stem(image)),
                        split=split,
                    )
                )
    note = "Inf-Net: slices of unknown patients, so leakage between splits cannot be excluded"
    return Found(tuple(cases), (note,) if cases else ())
