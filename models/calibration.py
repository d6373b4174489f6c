"""Whether a probability of 0.8 means right in 8 of 10 pixels."""

import dataclasses
import math

import numpy as np

BINS = 15  # of equal width, as in Guo et al., arXiv:1706.04599


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Pixels sorted into bins by the probability that was said of them; adds up over cases."""

    pixels: np.ndarray  # float64 (BINS,)
    said: np.ndarray  # float64 (BINS,), sum of the probabilities
    true: np.ndarray  # float64 (BINS,), pixels of the true mask

    def __add__(self, other: "Reliability") -> "Reliability":
        """Pools two sets of pixels."""
        return Reliability(
            self.pixels + other.pixels, self.said + other.said, self.true + other.true
        )

    @property
    def expected_error(self) -> float:
        """Expected calibration error (ECE): mean gap between said and true, by pixels."""
        pixels = float(self.pixels.sum())
        return float(np.abs(self.said - self.true).sum()) / pixels if pixels else math.nan


def reliability(truth: np.ndarray, probability: np.ndarray) -> Reliability:
    """Sorts the pixels of a bool truth and a float probability of one shape into bins."""
    said = np.asarray(probability, np.float64).ravel()
    bins = np.minimum((said * BINS).astype(np.int64), BINS - 1)
    return Reliability(
        np.bincount(bins, minlength=BINS).astype(np.float64),
        np.bincount(bins, said, BINS),
        np.bincount(bins, truth.ravel(), BINS),
    )


def brier(truth: np.ndarray, probability: np.ndarray) -> float:
    """Mean squared distance of probability and truth (Brier score), 0 to 1."""
    return float(np.square(np.asarray(probability, np.float64) - truth).mean())
