"""The layouts of published chest X-ray data sets."""

import pathlib

import cv2
import numpy as np

from data_pipeline import raster
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from data_pipeline.layouts.found import (
    Derived,
    Found,
    by_stem,
    folders,
    images,
    inside,
    patient,
    stem,
    view,
    with_suffix,
)

_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def covid_qu_ex(root: pathlib.Path, derived: pathlib.Path) -> Found:
    """COVID-QU-Ex: the images with infection masks, and those with lung masks only."""
    dataset = "covid_qu_ex"
    cases: dict[tuple[str, str], Case] = {}
    for part in ("Infection Segmentation Data", "Lung Segmentation Data"):
        for folder in folders(root, part):
            for split_name, split in _SPLITS.items():
                for group in ("COVID-19", "Non-COVID", "Normal"):
                    where = inside(folder, split_name, group)
                    if where is None:
                        continue
                    lungs = by_stem(images(inside(where, "lung masks")))
                    infections = by_stem(images(inside(where, "infection masks")))
                    if group == "Non-COVID":
                        infections = {}  # pneumonia too, but its masks are empty
                    for image in images(inside(where, "images")):
                        name = stem(image)
                        case = Case(
                            id=f"{dataset}-{group}-{name}",
                            dataset=dataset,
                            modality="XR",
                            diagnosis=group,
                            patient_id=patient(dataset, name),
                            view=view(name),
                            image=image,
                            lung_mask=lungs.get(name),
                            infection_mask=infections.get(name),
                            split=split,
                        )
                        cases.setdefault((group, name), case)
    note = (
        "COVID-QU-Ex: images of both parts are one case; the split of the infection part holds "
        "for it; the empty infection masks of non-COVID pneumonia are taken as not annotated"
    )
    return Found(tuple(cases.values()), (note,) if cases else ())


def qata(root: pathlib.Path, derived: pathlib.Path) -> Found:
    """QaTa-COV19, version 1 and 2: infection masks called mask_IMAGE."""
    dataset = "qata_cov19"
    cases = []
    for truths in folders(root, "Ground-truths"):
        masks = by_stem(images(truths))
        part = truths.parent.name.lower()
        split = "train" if part.startswith("train") else "test" if part.startswith("test") else ""
        for image in images(inside(truths.parent, "Images")):
            name = stem(image)
            if f"mask_{name}" in masks:
                cases.append(
                    Case(
                        id=f"{dataset}-{name}",
                        dataset=dataset,
                        modality="XR",
                        diagnosis="COVID-19",
                        patient_id=patient(dataset, name),
                        view=view(name),
                        image=image,
                        infection_mask=masks[f"mask_{name}"],
                        split=split,
                    )
                )
    return Found(tuple(cases))


def montgomery(root: pathlib.Path, derived: pathlib.Path) -> Found:
    """Montgomery County: left and right lung in two files, which are joined into one."""
    cases, jobs = [], []
    for folder in folders(root, "ManualMask"):
        left, right = (by_stem(images(inside(folder, f"{side}Mask"))) for side in ("left", "right"))
        for image in images(inside(folder.parent, "CXR_png")):
            name = stem(image)
            if name in left and name in right:
                mask = derived / "montgomery" / f"{name}.png"
                jobs.append(Derived(mask, _Union((left[name], right[name]), image)))
                cases.append(_tuberculosis("montgomery", image, mask))
    note = "Montgomery: left and right lung masks were joined into one file a case"
    return Found(tuple(cases), (note,) if cases else (), tuple(jobs))


def shenzhen(root: pathlib.Path, derived: pathlib.Path) -> Found:
    """Shenzhen Hospital, and the merge of it with Montgomery on Kaggle."""
    cases = []
    for name in ("mask", "masks"):
        for folder in folders(root, name):
            masks = by_stem(images(folder))
            for image in images(inside(folder.parent, "CXR_png")):
                mask = masks.get(f"{stem(image)}_mask", masks.get(stem(image)))
                if image.name.startswith("CHNCXR_"):
                    cases.append(_tuberculosis("shenzhen", image, mask))
                elif image.name.startswith("MCUCXR_"):
                    cases.append(_tuberculosis("montgomery", image, mask))
    return Found(tuple(cases))


def _tuberculosis(dataset: str, image: pathlib.Path, mask: pathlib.Path | None) -> Case:
    """Names are MCUCXR_0001_0: the patient's number, then 1 for tuberculosis."""
    return Case(
        id=f"{dataset}-{stem(image)}",
        dataset=dataset,
        modality="XR",
        diagnosis="tuberculosis" if stem(image).endswith("_1") else "normal",
        patient_id=f"{dataset}-{stem(image).rsplit('_', 1)[0]}",
        view="pa",
        image=image,
        lung_mask=mask,
    )


def jsrt(root: pathlib.Path, derived: pathlib.Path) -> Found:
    """JSRT images (headerless .IMG) with the lung masks of SCR, which have half their size."""
    cases, jobs = [], []
    lefts = {stem(p): p for f in folders(root, "left lung") for p in _scr_masks(f)}
    rights = {stem(p): p for f in folders(root, "right lung") for p in _scr_masks(f)}
    for folder in folders(root, "All247images"):
        for raw in with_suffix(folder, (".img",)):
            name = stem(raw)
            image = derived / "jsrt" / "images" / f"{name}.png"
            mask = derived / "jsrt" / "lung_masks" / f"{name}.png"
            jobs.append(Derived(image, _JsrtImage(raw)))
            sides = (lefts[name], rights[name]) if name in lefts and name in rights else None
            if sides:
                jobs.append(Derived(mask, _Union(sides, image)))
            cases.append(
                Case(
                    id=f"jsrt-{name}",
                    dataset="jsrt",
                    modality="XR",
                    diagnosis="nodule" if name.startswith("JPCLN") else "normal",
                    patient_id=f"jsrt-{name}",
                    view="pa",
                    image=image,
                    lung_mask=mask if sides else None,
                )
            )
    note = (
        "JSRT: images were converted from their headerless 12-bit files to 16-bit PNG, more is "
        "brighter; SCR lung masks were joined and brought from 1024 x 1024 to 2048 x 2048"
    )
    return Found(tuple(cases), (note,) if cases else (), tuple(jobs))


def _scr_masks(folder: pathlib.Path) -> list[pathlib.Path]:
    return with_suffix(folder, (".gif", ".png"))


def radiography_database(root: pathlib.Path, derived: pathlib.Path) -> Found:
    """COVID-19 Radiography Database: lung masks that may be smaller than their images."""
    dataset = "covid19_radiography"
    diagnoses = {
        "COVID": "COVID-19",
        "Lung_Opacity": "lung opacity",
        "Normal": "normal",
        "Viral Pneumonia": "viral",
    }
    cases, jobs = [], []
    for folder in folders(root, "COVID-19_Radiography_Dataset"):
        for group, diagnosis in diagnoses.items():
            masks = by_stem(images(inside(folder, group, "masks")))
            for image in images(inside(folder, group, "images")):
                mask = masks.get(stem(image))
                if mask is not None and raster.size(mask) != raster.size(image):
                    made = derived / dataset / f"{stem(image)}.png"
                    jobs.append(Derived(made, _Union((mask,), image)))
                    mask = made
                cases.append(
                    Case(
                        id=f"{dataset}-{stem(image)}",
                        dataset=dataset,
                        modality="XR",
                        diagnosis=diagnosis,
                        image=image,
                        lung_mask=mask,
                    )
                )
    note = (
        f"COVID-19 Radiography Database: {len(jobs)} masks were brought to the size of their "
        "images; patients are not published, so leakage between splits cannot be excluded"
    )
    return Found(tuple(cases), (note,) if cases else (), tuple(jobs))


class _Union:
    """Joins masks and brings them to the size of their image, nearest pixel: uint8, 0 and 255."""

    def __init__(self, masks: tuple[pathlib.Path, ...], image: pathlib.Path) -> None:
        self._masks = masks
        self._image = image

    def __call__(self) -> np.ndarray:
        planes = [raster.read_classes(path) > 0 for path in self._masks]
        if len({plane.shape for plane in planes}) > 1:
            raise InputError(f"{self._masks[0]} and {self._masks[1]} differ in size")
        rows, cols = raster.size(self._image)
        mask_rows, mask_cols = planes[0].shape
        # One side tells the other to a pixel, since sides are rounded.
        if abs(rows * mask_cols - cols * mask_rows) > max(rows, cols, mask_rows, mask_cols):
            raise InputError(
                f"{self._masks[0]} is {mask_rows} x {mask_cols} pixels and its image {rows} x "
                f"{cols}: one of them is stretched or cut, and nothing says which; bring them to "
                "one shape"
            )
        joined = np.any(planes, axis=0).astype(np.uint8) * np.uint8(255)
        resized = cv2.resize(joined, (cols, rows), interpolation=cv2.INTER_NEAREST_EXACT)
        return np.asarray(resized)


class _JsrtImage:
    """Reads a JSRT file: 2048 x 2048 numbers of 12 bits, big endian, in which more is darker."""

    _SIDE = 2048
    _HIGHEST = 4095

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def __call__(self) -> np.ndarray:
        stored = np.fromfile(self._path, ">u2")
        if stored.size != self._SIDE**2 or stored.max() > self._HIGHEST:
            raise InputError(
                f"{self._path} is not a JSRT image: {self._SIDE} x {self._SIDE} numbers up to "
                f"{self._HIGHEST} are expected"
            )
        upright = stored.reshape(self._SIDE, self._SIDE).astype(np.uint16)
        return np.uint16(self._HIGHEST) - upright
