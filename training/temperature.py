"""One temperature a label, so that a probability of 0.8 is right in 8 of 10 pixels.

Fitted by the negative log-likelihood of cases that the network has not learnt from (Guo et al.,
arXiv:1706.04599), each case counting the same. What counts of a case is how often each logit was
said of foreground and of background, so memory does not grow with the cases.
"""

import dataclasses

import numpy as np
from scipy import optimize, special

from models.answers import FLOOR
from models.calibration import BINS, Reliability

# Logits are counted in steps of 0.001, over all that probabilities held to FLOOR can give.
_STEP = 0.001
_HALF = int(np.ceil(special.logit(1 - FLOOR) / _STEP))
LOGITS = _STEP * np.arange(-_HALF, _HALF + 1)

# Beyond these a network is not badly calibrated but broken.
_LOWEST, _HIGHEST = 0.1, 10.0


@dataclasses.dataclass(frozen=True)
class Counts:
    """How often each of LOGITS was said in one case, and how often of foreground."""

    every: np.ndarray
    foreground: np.ndarray

    @classmethod
    def of(cls, probability: np.ndarray, truth: np.ndarray) -> "Counts":
        """Takes probabilities and a bool mask of one shape."""
        held = np.clip(np.asarray(probability, np.float64).ravel(), FLOOR, 1 - FLOOR)
        steps = np.rint(special.logit(held) / _STEP).astype(np.int64) + _HALF
        every, foreground = (
            np.bincount(some, minlength=len(LOGITS)) for some in (steps, steps[truth.ravel()])
        )
        return cls(every, foreground)


class Evidence:
    """What was said of one label, and what was true; adds up over cases."""

    def __init__(self) -> None:
        self._false, self._true = np.zeros(len(LOGITS)), np.zeros(len(LOGITS))
        self.cases = 0

    def add(self, case: Counts) -> None:
        """Takes a case."""
        pixels = case.every.sum()
        self._false += (case.every - case.foreground) / pixels
        self._true += case.foreground / pixels
        self.cases += 1

    def __add__(self, other: "Evidence") -> "Evidence":
        """Pools the cases of two."""
        both = Evidence()
        both._false, both._true = self._false + other._false, self._true + other._true
        both.cases = self.cases + other.cases
        return both

    def nll(self, temperature: float = 1.0) -> float:
        """Returns the mean negative log-likelihood of a pixel, in nats."""
        logits = LOGITS / temperature
        nats = self._true @ np.logaddexp(0, -logits) + self._false @ np.logaddexp(0, logits)
        return float(nats / self.cases)

    def expected_error(self, temperature: float = 1.0) -> float:
        """Returns the expected calibration error of all pixels."""
        said = special.expit(LOGITS / temperature)
        bins = np.minimum((said * BINS).astype(np.int64), BINS - 1)
        every = self._false + self._true
        return Reliability(
            np.bincount(bins, every, BINS),
            np.bincount(bins, every * said, BINS),
            np.bincount(bins, self._true, BINS),
        ).expected_error


def fit(evidence: Evidence) -> float:
    """Returns the temperature of the lowest negative log-likelihood, from 0.1 to 10.

    It has one minimum only: the likelihood is log-concave in one over the temperature.
    """
    bounds = np.log([_LOWEST, _HIGHEST])
    found = optimize.minimize_scalar(
        lambda log: evidence.nll(float(np.exp(log))), bounds=tuple(bounds), method="bounded"
    )
    return round(float(np.exp(found.x)), 4)
