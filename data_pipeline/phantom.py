"""A chest drawn from ellipses: known masks, no patient; for tests and for trying a set-up."""

import csv
import pathlib

import numpy as np

from data_pipeline import raster
from data_pipeline.scan import Mask, Scan

# HU of what is drawn; infection is ground glass.
_AIR, _SOFT_TISSUE, _LUNG, _INFECTION = -1000.0, 40.0, -850.0, -350.0


def xray(seed: int, shape: tuple[int, int] = (96, 80)) -> tuple[Scan, Mask]:
    """Returns an X-ray like picture in stored values 0-255, with lung and infection masks."""
    rng = np.random.default_rng(seed)
    planes = _planes(rng, shape)
    body = _ellipse(shape, (0.55, 0.5), (0.5, 0.46))
    image = np.where(body, 200.0, 10.0) - 120.0 * planes[0] + 70.0 * planes[1]
    image = np.clip(image + rng.normal(0, 6, shape), 0, 255).round().astype(np.float32)
    return Scan(image, "XR", "stored", f"phantom {seed}"), Mask(planes, ("lung", "infection"))


def ct(
    seed: int,
    shape: tuple[int, ...] = (12, 64, 72),
    spacing_mm: tuple[float, ...] = (5.0, 1.5, 1.25),
) -> tuple[Scan, Mask]:
    """Returns a CT slice or volume in HU, with lung and infection masks."""
    rng = np.random.default_rng(seed)
    planes = _planes(rng, shape)
    body = _ellipse(shape, (0.5,) * len(shape), (2.0, 0.46, 0.48)[-len(shape) :])
    hu = np.where(body, _SOFT_TISSUE, _AIR)
    hu[planes[0]] = _LUNG
    hu[planes[1]] = _INFECTION
    hu = (hu + rng.normal(0, 20, shape)).round().astype(np.float32)
    scan = Scan(hu, "CT", "HU", f"phantom {seed}", spacing_mm[-len(shape) :])
    return scan, Mask(planes, ("lung", "infection"))


def write_manifest(
    folder: pathlib.Path, count: int = 12, shape: tuple[int, int] = (96, 80)
) -> pathlib.Path:
    """Writes `count` X-ray phantoms, one a patient, as PNG files with a manifest; returns it.

    Every third case has no infection mask: not annotated.
    """
    rows = []
    for number in range(count):
        scan, mask = xray(number, shape)
        raster.write(folder / f"images/{number}.png", scan.voxels.astype(np.uint8))
        names = {}
        for label in mask.labels if number % 3 else mask.labels[:1]:
            names[f"{label}_mask"] = f"{label}_masks/{number}.png"
            plane = mask.plane(label)
            raster.write(folder / names[f"{label}_mask"], np.uint8(255) * np.asarray(plane, "u1"))
        diagnosis = "COVID-19" if number % 2 else "normal"
        rows.append(
            {"id": f"phantom-{number}", "dataset": "phantom", "modality": "XR"}
            | {"diagnosis": diagnosis, "patient_id": f"p{number}"}
            | {"image": f"images/{number}.png", "lung_mask": "", "infection_mask": ""}
            | names
        )
    path = folder / "manifest.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _planes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    jitter = rng.uniform(-0.03, 0.03, 4)
    sizes = (0.45, 0.32, 0.16)[-len(shape) :]
    middle = (0.5,) * (len(shape) - 2)
    lung = _ellipse(shape, (*middle, 0.5 + jitter[0], 0.28 + jitter[1]), sizes)
    lung |= _ellipse(shape, (*middle, 0.5 + jitter[0], 0.72 + jitter[1]), sizes)
    spot = (*middle, 0.6 + jitter[2], 0.28 + jitter[3])
    infection = _ellipse(shape, spot, tuple(s / 2 for s in sizes)) & lung
    return np.stack([lung, infection])


def _ellipse(
    shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]
) -> np.ndarray:
    """Returns a bool ellipse; centre and radii in shares of the sides."""
    distance = np.zeros(shape)
    for axis, (c, r) in enumerate(zip(centre, radii, strict=True)):
        x = (np.arange(shape[axis]) + 0.5) / shape[axis]
        line = ((x - c) / r) ** 2
        distance += line.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return distance <= 1
