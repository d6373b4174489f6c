"""Overlap and classification metrics of one mask, from one count of its pixels.

Where a metric has no meaning for a case (no foreground to find, none predicted) it is NaN and
takes no part in a mean; docs/evaluation.md lists each case and its reason. Definitions as in
Taha & Hanbury, BMC Medical Imaging 15:29 (2015), and Metrics Reloaded (arXiv:2206.01653).
"""

import dataclasses
import math

import numpy as np

NAN = float("nan")

# F-beta weighs finding infection (sensitivity) beta times as much as not inventing it.
BETA = 2.0

# Probabilities are clipped to [CLIP, 1 - CLIP] before the logarithm, so that one certain and
# wrong pixel costs 16.1 nats and not infinity.
CLIP = 1e-7


@dataclasses.dataclass(frozen=True)
class Counts:
    """How many pixels of a case were outlined rightly and wrongly."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def truth(self) -> int:
        """Pixels of the true mask."""
        return self.true_positive + self.false_negative

    @property
    def prediction(self) -> int:
        """Pixels of the predicted mask."""
        return self.true_positive + self.false_positive

    @property
    def background(self) -> int:
        """Pixels outside the true mask."""
        return self.false_positive + self.true_negative

    @property
    def pixels(self) -> int:
        """All pixels of the grid."""
        return self.truth + self.background


def count(truth: np.ndarray, prediction: np.ndarray) -> Counts:
    """Counts the pixels of two bool masks of one shape, (rows, cols) or (slices, rows, cols).

    Raises:
      ValueError: if the shapes differ or an array is not bool.
    """
    check_masks(truth, prediction)
    both = int(np.count_nonzero(truth & prediction))
    in_truth, in_prediction = int(np.count_nonzero(truth)), int(np.count_nonzero(prediction))
    return Counts(
        true_positive=both,
        false_positive=in_prediction - both,
        false_negative=in_truth - both,
        true_negative=truth.size - in_truth - in_prediction + both,
    )


def check_masks(truth: np.ndarray, prediction: np.ndarray) -> None:
    """Raises ValueError unless both are bool arrays of one shape."""
    if truth.shape != prediction.shape:
        raise ValueError(
            f"masks differ in shape: truth {truth.shape}, prediction {prediction.shape}"
        )
    if truth.dtype != np.bool_ or prediction.dtype != np.bool_:
        raise ValueError(f"masks must be bool; got {truth.dtype} and {prediction.dtype}")


def ratio(part: float, whole: float) -> float:
    """Returns part / whole; NaN if whole is zero."""
    return part / whole if whole else NAN


def dice(counts: Counts) -> float:
    """Dice overlap 2|A & B| / (|A| + |B|), 0 to 1; NaN if both masks are empty.

    A scan without infection says nothing about how well infection is outlined, and counting
    it as 1.0 would flatter the mean; what is invented there is `false_positive` below.
    """
    return ratio(2 * counts.true_positive, counts.truth + counts.prediction)


def iou(counts: Counts) -> float:
    """Intersection over union, 0 to 1; NaN if both masks are empty."""
    return ratio(counts.true_positive, counts.pixels - counts.true_negative)


def accuracy(counts: Counts) -> float:
    """Share of all pixels of the original grid that are labelled rightly."""
    return ratio(counts.true_positive + counts.true_negative, counts.pixels)


def sensitivity(counts: Counts) -> float:
    """Share of the true mask that was found; NaN if the true mask is empty."""
    return ratio(counts.true_positive, counts.truth)


def specificity(counts: Counts) -> float:
    """Share of the background left alone; NaN if the true mask fills the grid."""
    return ratio(counts.true_negative, counts.background)


def precision(counts: Counts) -> float:
    """Share of the predicted mask that is right; NaN if nothing was predicted."""
    return ratio(counts.true_positive, counts.prediction)


def balanced_accuracy(counts: Counts) -> float:
    """Mean of sensitivity and specificity, or the one of them that is defined."""
    defined = [v for v in (sensitivity(counts), specificity(counts)) if not math.isnan(v)]
    return ratio(sum(defined), len(defined))


def f_beta(counts: Counts, beta: float = BETA) -> float:
    """F-beta score, 0 to 1; NaN if both masks are empty. F-1 is Dice."""
    weighted = (1 + beta**2) * counts.true_positive
    return ratio(weighted, weighted + beta**2 * counts.false_negative + counts.false_positive)


def loss(truth: np.ndarray, probability: np.ndarray) -> float:
    """Mean binary cross-entropy per pixel in nats, which is the negative log-likelihood.

    Args:
      truth: bool array.
      probability: float array of the same shape, in [0, 1]; clipped to [CLIP, 1 - CLIP].
    """
    said = np.where(truth, probability, 1.0 - np.asarray(probability, np.float64))
    return float(-np.log(np.clip(said, CLIP, 1.0 - CLIP)).mean())
