"""Overlays for the dashboard: a small grey image a case, and outlines as SVG paths on it."""

import base64
import dataclasses
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd

from data_pipeline import cases, geometry
from data_pipeline.cases import Case
from evaluation import gallery, scoring
from evaluation.gallery import Pick

# About 20 kB each: 150 cases make a page of 3 MB, which still opens at once.
MOST_PICTURES = 150
_JPEG_QUALITY = 78


@dataclasses.dataclass(frozen=True)
class Picture:
    """One case and label with the outlines of all models."""

    case_id: str
    label: str
    diagnosis: str
    image: str  # data: URL
    width: int
    height: int
    truth: str  # SVG path
    outlines: dict[str, str]  # SVG path, by model


def choose(scores: pd.DataFrame, picks: Sequence[Pick]) -> list[tuple[str, str]]:
    """Returns (case, label) to show: the picks, then all in order until the page is full."""
    wanted = [(pick.case_id, pick.label) for pick in picks]
    everything = zip(scores["case_id"], scores["label"], strict=True)
    chosen = list(dict.fromkeys([*wanted, *everything]))[:MOST_PICTURES]
    order = {key: i for i, key in enumerate(zip(scores["case_id"], scores["label"], strict=True))}
    return sorted(chosen, key=lambda key: order[key])


def draw(case: Case, label: str, models: Sequence[str], masks: pathlib.Path) -> Picture:
    """Draws a case with its true mask and what scoring saved of each model.

    Args:
      case: the case.
      label: which outline.
      models: names of the models, each a folder of `masks`.
      masks: what scoring saved.
    """
    scan = cases.read_scan(case)
    truth = cases.read_mask(case, [label], scan.shape).plane(label)
    found = {model: scoring.load_mask(masks / model, case.id, label) for model in models}
    planes = [plane for plane in (truth, *found.values()) if plane is not None]
    index = gallery.fullest(planes) if scan.voxels.ndim == 3 else ...
    image = gallery.grey(scan.voxels[index])
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    rows, cols = image.shape[:2]
    return Picture(
        case.id,
        label,
        case.diagnosis,
        "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode(),
        cols,
        rows,
        "" if truth is None else path_of(truth[index], (rows, cols)),
        {m: path_of(p[index], (rows, cols)) for m, p in found.items() if p is not None},
    )


def path_of(mask: np.ndarray, shape: tuple[int, int]) -> str:
    """Returns the outlines of a bool (rows, cols) mask as an SVG path on a grid of `shape`."""
    large = (geometry.resample(mask, shape) > 0.5).astype(np.uint8)
    outlines, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    parts = []
    for outline in outlines:
        corners = cv2.approxPolyDP(outline, 0.6, True)[:, 0] + 0.5
        parts.append("M" + "L".join(f"{x:g} {y:g}" for x, y in corners) + "Z")
    return "".join(parts)
