"""From one model's answer for one case to its rows of scores.

A label that nobody annotated in a case has no row: not annotated is not "nothing there".
"""

import dataclasses
import math
from typing import Any

import numpy as np

from data_pipeline.cases import Case
from data_pipeline.scan import Mask
from evaluation import boundary, metrics, stretch
from models import calibration

MM3_PER_ML = 1000.0


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model says of one case; on the scan's own grid."""

    mask: Mask
    probabilities: np.ndarray | None  # float32 (labels, *grid); None: it gives masks alone
    spacing_mm: tuple[float, ...] | None = None
    seconds: float = math.nan  # from scan to mask, without reading the file


@dataclasses.dataclass(frozen=True)
class LabelScore:
    """One row of scores.csv; the fields are its columns, NaN is an empty cell.

    The columns up to hd95_px keep their names and order: others read them.
    """

    model: str
    case_id: str
    patient_id: str
    dataset: str
    modality: str
    diagnosis: str
    label: str
    n_pixels: int
    dice: float
    iou: float
    accuracy: float
    loss: float
    sensitivity: float
    specificity: float
    precision: float
    hd95_px: float
    view: str
    seen: str  # "" or how the model knows this case from training: "case" or "patient"
    balanced_accuracy: float
    f2: float
    hd95_mm: float
    assd_mm: float
    surface_dice: float  # at boundary.TOLERANCE_MM
    size_unit: str  # of the next four: px, mm2, or ml for a volume
    true_size: float
    predicted_size: float
    size_error: float  # predicted - true
    false_positive_size: float  # of cases whose true mask is empty
    stretch: float  # how much wider the true mask is, for its height
    ece: float
    brier: float
    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


@dataclasses.dataclass(frozen=True)
class CaseScore:
    """One row of cases.csv: what a model says of a case as a whole."""

    model: str
    case_id: str
    patient_id: str
    dataset: str
    modality: str
    diagnosis: str
    view: str
    seen: str
    true_infection: str  # "yes", "no", or "" where infection was not annotated
    infection_share: float  # percent of the grid outlined as infection: the ranking score
    true_share_of_lung: float  # percent of the lung that is infected; NaN if not annotated
    share_of_lung: float  # likewise, as the model says; NaN if it outlines no lung
    share_error: float  # percentage points, predicted - true
    seconds: float


def label_scores(
    model: str, case: Case, truth: Mask, answer: Answer, seen: str = ""
) -> list[tuple[LabelScore, calibration.Reliability | None]]:
    """Scores each label that the model outlines and somebody annotated."""
    rows = []
    for index, label in enumerate(answer.mask.labels):
        plane = truth.plane(label)
        if plane is None:
            continue
        said = None if answer.probabilities is None else answer.probabilities[index]
        bins = None if said is None else calibration.reliability(plane, said)
        counts = metrics.count(plane, answer.mask.planes[index])
        values: dict[str, Any] = {
            **_overlap(counts),
            **_certainty(plane, said, bins),
            **_edges(plane, answer.mask.planes[index], answer.spacing_mm),
            **_sizes(counts, answer.spacing_mm),
            "stretch": stretch.of(plane, answer.mask.planes[index]),
        }
        rows.append(
            (LabelScore(model=model, label=label, seen=seen, **_identity(case), **values), bins)
        )
    return rows


def case_score(model: str, case: Case, truth: Mask, answer: Answer, seen: str = "") -> CaseScore:
    """Says how much of a case is infected, by the truth and by the model."""
    infection = truth.plane("infection")
    predicted = answer.mask.plane("infection")
    true_share, share = share_of_lung(truth), share_of_lung(answer.mask)
    return CaseScore(
        model=model,
        **_identity(case),
        seen=seen,
        true_infection="" if infection is None else ("yes" if infection.any() else "no"),
        infection_share=metrics.NAN if predicted is None else 100.0 * float(predicted.mean()),
        true_share_of_lung=true_share,
        share_of_lung=share,
        share_error=share - true_share,
        seconds=answer.seconds,
    )


def share_of_lung(mask: Mask) -> float:
    """Returns the percent of the lung that is infected; NaN without both, or without lung."""
    lung, infection = mask.plane("lung"), mask.plane("infection")
    if lung is None or infection is None:
        return metrics.NAN
    return 100.0 * metrics.ratio(int((lung & infection).sum()), int(lung.sum()))


def _identity(case: Case) -> dict[str, Any]:
    return {
        "case_id": case.id,
        "patient_id": case.patient_id,
        "dataset": case.dataset,
        "modality": case.modality,
        "diagnosis": case.diagnosis,
        "view": case.view,
    }


def _overlap(counts: metrics.Counts) -> dict[str, float]:
    return {
        "n_pixels": counts.pixels,
        "dice": metrics.dice(counts),
        "iou": metrics.iou(counts),
        "accuracy": metrics.accuracy(counts),
        "sensitivity": metrics.sensitivity(counts),
        "specificity": metrics.specificity(counts),
        "precision": metrics.precision(counts),
        "balanced_accuracy": metrics.balanced_accuracy(counts),
        "f2": metrics.f_beta(counts),
        **dataclasses.asdict(counts),
    }


def _certainty(
    truth: np.ndarray, said: np.ndarray | None, bins: calibration.Reliability | None
) -> dict[str, float]:
    if said is None or bins is None:
        return dict.fromkeys(("loss", "ece", "brier"), metrics.NAN)
    return {
        "loss": metrics.loss(truth, said),
        "ece": bins.expected_error,
        "brier": calibration.brier(truth, said),
    }


def _edges(
    truth: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, ...] | None
) -> dict[str, float]:
    edges = {"hd95_px": boundary.hd95(boundary.distances(truth, prediction))}
    if spacing_mm is None:
        return edges | dict.fromkeys(("hd95_mm", "assd_mm", "surface_dice"), metrics.NAN)
    between = boundary.distances(truth, prediction, spacing_mm)
    return edges | {
        "hd95_mm": boundary.hd95(between),
        "assd_mm": boundary.average_surface_distance(between),
        "surface_dice": boundary.surface_dice(between),
    }


def _sizes(counts: metrics.Counts, spacing_mm: tuple[float, ...] | None) -> dict[str, float | str]:
    unit, one = "px", 1.0
    if spacing_mm is not None and len(spacing_mm) == 2:
        unit, one = "mm2", math.prod(spacing_mm)
    elif spacing_mm is not None:
        unit, one = "ml", math.prod(spacing_mm) / MM3_PER_ML
    return {
        "size_unit": unit,
        "true_size": counts.truth * one,
        "predicted_size": counts.prediction * one,
        "size_error": (counts.prediction - counts.truth) * one,
        "false_positive_size": metrics.NAN if counts.truth else counts.prediction * one,
    }
