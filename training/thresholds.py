"""Where a probability becomes mask: a threshold a label, where held-out cases gain by another one.

The mask of the highest expected Dice holds the pixels whose probability is above half of that
Dice (Lipton et al., arXiv:1402.1892). Where outlines are certain that is near one half; where
annotators differ it is lower, and it is never higher. It is kept, like any post-processing,
only if a paired test over patients says that the gain is no accident.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

from data_pipeline.spec import THRESHOLD
from training.cleanup import SIGNIFICANT, paired_p
from training.temperature import LOGITS, Counts

CHOICES = np.arange(4, 17) / 32  # tried: from 1/8 to the usual one half
_USUAL = int(np.flatnonzero(CHOICES == THRESHOLD)[0])

FEWEST_PATIENTS = 5  # of fewer no gain has a p below SIGNIFICANT

_EVERY = 8  # of the logits that are counted; 0, which is one half, is among them
_EDGES = LOGITS[::_EVERY]


@dataclasses.dataclass(frozen=True)
class Tally:
    """How large the mask of one label of one case is for each logit to be above, and how right."""

    patient: str
    found: np.ndarray  # pixels above each of _EDGES
    hit: np.ndarray  # of these, foreground
    truth: int  # pixels of foreground

    @classmethod
    def of(cls, patient: str, counts: Counts) -> "Tally":
        """Takes what was said of a case."""
        found, hit = (
            (one.sum() - np.cumsum(one))[::_EVERY] for one in (counts.every, counts.foreground)
        )
        return cls(patient, found, hit, int(counts.foreground.sum()))

    def dice(self, temperature: float) -> np.ndarray:
        """Returns the Dice for each of CHOICES; 1 where there is nothing and nothing is found."""
        logits = special.logit(CHOICES) * temperature  # of the answer before it is divided
        edges = np.clip(np.rint((logits - _EDGES[0]) / (_EDGES[1] - _EDGES[0])), 0, len(_EDGES) - 1)
        found, hit = self.found[edges.astype(int)], self.hit[edges.astype(int)]
        size = found + self.truth
        return np.where(size > 0, 2.0 * hit / np.maximum(size, 1), 1.0)


def dice(tallies: Sequence[Tally], temperature: float, threshold: float) -> np.ndarray:
    """Returns the Dice of each case at a temperature and one of CHOICES; see Tally.dice."""
    [chosen] = np.flatnonzero(CHOICES == threshold)
    return np.array([one.dice(temperature)[chosen] for one in tallies])


@dataclasses.dataclass(frozen=True)
class Choice:
    """The best threshold: mean Dice with one half and with it, and the test's p."""

    label: str
    threshold: float
    before: float
    after: float
    p: float
    kept: bool

    @property
    def used(self) -> float:
        """What becomes of it."""
        return self.threshold if self.kept else THRESHOLD


def learn(label: str, tallies: Sequence[Tally], temperature: float = 1.0) -> Choice:
    """Returns the threshold of the highest mean Dice, and whether it is to be used.

    It is the best of CHOICES, so its p is optimistic.

    Args:
      label: for the record.
      tallies: of cases that the network has not learnt from; at least one.
      temperature: that probabilities will have been divided by.
    """
    values = np.stack([one.dice(temperature) for one in tallies])
    mean = values.mean(axis=0)
    best = int(np.flatnonzero(mean == mean.max())[-1])  # of equals the nearest to one half
    p = paired_p(values[:, best] - values[:, _USUAL], [one.patient for one in tallies])
    kept = bool(mean[best] > mean[_USUAL]) and p < SIGNIFICANT
    return Choice(label, float(CHOICES[best]), float(mean[_USUAL]), float(mean[best]), p, kept)
