"""Overlays of truth and prediction, and the choice of cases to look at."""

import dataclasses
import pathlib

import cv2
import numpy as np
import pandas as pd

from data_pipeline import cases, geometry, raster
from data_pipeline.cases import Case
from data_pipeline.scan import Scan
from evaluation import appearance, scoring

SIDE = 384  # pixels of an overlay's longer side
_BLANK = (24, 24, 24)


@dataclasses.dataclass(frozen=True)
class Pick:
    """A case worth looking at."""

    model: str
    label: str
    case_id: str
    place: str  # "best", "median" or "worst"
    dice: float


def picks(scores: pd.DataFrame, each: int = 1) -> list[Pick]:
    """Returns the `each` best, median and worst cases by Dice of each model and label."""
    chosen = []
    for (model, label), rows in scores.groupby(["model", "label"], sort=False):
        ranked = rows[rows["dice"].notna()].sort_values(["dice", "case_id"], ascending=False)
        middle = max(0, (len(ranked) - each) // 2)
        parts = {
            "best": ranked.head(each),
            "median": ranked.iloc[middle : middle + each],
            "worst": ranked.tail(each).iloc[::-1],
        }
        for place, part in parts.items():
            for case_id, dice in zip(part["case_id"], part["dice"], strict=True):
                chosen.append(Pick(model, label, case_id, place, float(dice)))
    return chosen


def overlay(scan: Scan, truth: np.ndarray | None, prediction: np.ndarray | None) -> np.ndarray:
    """Draws outlines on a scan: RGB uint8, its longer side SIDE pixels.

    Truth is blue and broad, prediction orange and narrow on top, so that agreement shows as an
    orange line with a blue rim. Of a volume the slice with most mask is drawn.

    Args:
      scan: an X-ray, a slice or a volume.
      truth: bool on the scan's grid; None if not annotated.
      prediction: likewise; None if there is none.
    """
    planes = [p for p in (truth, prediction) if p is not None]
    index = fullest(planes) if scan.voxels.ndim == 3 else None
    voxels = scan.voxels if index is None else scan.voxels[index]
    image = grey(voxels)
    for plane, colour, width in (
        (truth, appearance.TRUTH_RGB, 2),
        (prediction, appearance.PREDICTION_RGB, 1),
    ):
        if plane is not None:
            flat = plane if index is None else plane[index]
            large = geometry.resample(flat, image.shape[:2]) > 0.5
            outlines, _ = cv2.findContours(
                large.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
            )
            cv2.drawContours(image, outlines, -1, colour, width, cv2.LINE_AA)
    return image


def fullest(planes: list[np.ndarray]) -> int:
    """Returns the slice of a volume's masks that holds most of them."""
    if not planes:
        return 0
    return int(sum(plane.sum(axis=(1, 2)) for plane in planes).argmax())


def grey(voxels: np.ndarray) -> np.ndarray:
    """Returns RGB uint8 for looking at, between the image's 1st and 99th percentile."""
    scale = SIDE / max(voxels.shape)
    shape = tuple(max(1, round(side * scale)) for side in voxels.shape)
    small = geometry.resample(voxels, shape)
    low, high = np.percentile(small, [1, 99])
    shades = np.clip((small - low) / max(high - low, 1e-6), 0, 1) * 255
    return np.repeat(shades.astype(np.uint8)[..., None], 3, axis=-1)


def draw(case: Case, label: str, masks: pathlib.Path) -> np.ndarray:
    """Draws a case with its true mask and one of the masks that scoring saved.

    Args:
      case: the case.
      label: which outline.
      masks: the folder of one model's masks.
    """
    scan = cases.read_scan(case)
    truth = cases.read_mask(case, [label], scan.shape).plane(label)
    return overlay(scan, truth, scoring.load_mask(masks, case.id, label))


def save_sheet(
    path: pathlib.Path, chosen: list[Pick], by_id: dict[str, Case], masks: pathlib.Path
) -> None:
    """Writes one picture of all picks: a row a model and label, best to worst."""
    rows: dict[tuple[str, str], list[np.ndarray]] = {}
    for pick in chosen:
        image = draw(by_id[pick.case_id], pick.label, masks / pick.model)
        title = f"{pick.model}, {pick.label}"
        rows.setdefault((pick.model, pick.label), []).append(
            _captioned(image, f"{title}: {pick.place}, Dice {pick.dice:.3f}")
        )
    if not rows:
        return
    sheet = np.concatenate([_row(images, max(map(len, rows.values()))) for images in rows.values()])
    raster.write(path, np.concatenate([sheet, _legend(sheet.shape[1])]))


def _captioned(image: np.ndarray, text: str) -> np.ndarray:
    square = np.full((SIDE + 28, SIDE + 8, 3), _BLANK, np.uint8)
    top, left = 28 + (SIDE - image.shape[0]) // 2, 4 + (SIDE - image.shape[1]) // 2
    square[top : top + image.shape[0], left : left + image.shape[1]] = image
    _write(square, text, (6, 19))
    return square


def _row(images: list[np.ndarray], columns: int) -> np.ndarray:
    blank = np.full_like(images[0], _BLANK)
    return np.concatenate([*images, *[blank] * (columns - len(images))], axis=1)


def _legend(width: int) -> np.ndarray:
    strip = np.full((30, width, 3), _BLANK, np.uint8)
    for left, colour, text in (
        (6, appearance.TRUTH_RGB, "true mask"),
        (150, appearance.PREDICTION_RGB, "predicted mask"),
    ):
        cv2.line(strip, (left, 15), (left + 24, 15), colour, 3)
        _write(strip, text, (left + 32, 19))
    return strip


def _write(image: np.ndarray, text: str, at: tuple[int, int]) -> None:
    size, _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    scale = 0.45 * min(1.0, (image.shape[1] - at[0] - 4) / size[0])
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (235, 235, 235), 1, cv2.LINE_AA)
