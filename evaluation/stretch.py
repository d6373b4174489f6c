"""Masks that are stretched along one axis: how a data set's wrong masks give themselves away.

An annotation that was made on a crop, or on an image of other proportions, and then brought to the
size of the image fits in one direction and not in the other. No single case proves it, and Dice
only drops a little; a data set whose masks are all too wide by a few per cent does.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy.stats

from evaluation import metrics

# Medians of data sets whose masks lie right were 0.975 to 1.010 for a U-Net (three of X-rays, 270
# cases), up to 1.06 for thresholding, and 1.05 to 1.09 where an ellipse for the heart was cut from
# one of the masks; of a data set whose masks were up to a quarter too wide, 1.13.
_NOTABLE = 0.1
_ALIKE_DICE = 0.7  # below, two masks are not of one shape, and their proportions say nothing
_BY_CHANCE = 0.001  # that so many of a data set's patients lie on one side of 1


def of(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Returns how much wider a true mask is, for its height, than the predicted one.

    Width and height are standard deviations of the coordinates of a mask's pixels, along columns
    and rows; of a volume, of all slices together.

    Args:
      truth: bool array, (rows, cols) or (slices, rows, cols).
      prediction: bool array of the same shape.

    Returns:
      1 where proportions agree; NaN if a mask is empty, or a single row or column.
    """
    (true_height, true_width), (height, width) = _extent(truth), _extent(prediction)
    return metrics.ratio(true_width * height, width * true_height) or metrics.NAN


def _extent(mask: np.ndarray) -> tuple[float, float]:
    plane = mask.reshape(-1, *mask.shape[-2:]).sum(axis=0)
    return _spread(plane.sum(axis=1)), _spread(plane.sum(axis=0))


def _spread(counts: np.ndarray) -> float:
    """Returns the standard deviation of coordinates, `counts` of them at each; 0 of none."""
    if not counts.any():
        return 0.0
    places = np.arange(len(counts))
    middle = np.average(places, weights=counts)
    return float(np.sqrt(np.average((places - middle) ** 2, weights=counts)))


def suspicions(scores: pd.DataFrame, patients: np.ndarray) -> Iterator[str]:
    """Yields a warning for each model, data set and label whose masks seem to be stretched.

    A model that has learnt from such masks outlines what they do, and says nothing of them.

    Args:
      scores: the columns of score.LabelScore.
      patients: the patient of each row, who counts once.
    """
    scores = scores.assign(patient=patients)
    alike = scores[(scores["dice"] >= _ALIKE_DICE) & scores["stretch"].notna()]
    for (model, dataset, label), rows in alike.groupby(["model", "dataset", "label"], sort=False):
        found = rows.groupby("patient")["stretch"].median()
        median, wider = float(found.median()), int((found > 1).sum())
        chance = scipy.stats.binomtest(wider, len(found)).pvalue
        if abs(median - 1) > _NOTABLE and chance < _BY_CHANCE:
            side, many = ("wider", wider) if median > 1 else ("narrower", len(found) - wider)
            yield (
                f"STRETCHED? {dataset or 'unknown data set'}: for their height, annotated {label} "
                f"masks are {side} than {model} outlines ({many} of {len(found)} patients; median "
                f"{median:.2f} times)"
            )
