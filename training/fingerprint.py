"""What the data is like: sizes, spacing, grey values and shares of what is to be outlined.

Settings that a user does not give are derived from it (training.derive), after the dataset
fingerprint of nnU-Net (arXiv:1904.08128).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipeline import cases as case_files
from data_pipeline import split
from data_pipeline.cases import Case

# Cases that are read; more do not move a median. Volumes take seconds each.
MOST_CASES = 40

_VOXELS_A_CASE = 10_000  # of the foreground, for percentiles
PERCENTILES = (0.5, 99.5)


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Medians over cases that were looked at; saved in config.json."""

    cases: int
    shape: tuple[int, ...]  # (rows, cols) or (slices, rows, cols); the median of each
    spacing_mm: tuple[float, ...] | None  # likewise; None if any case has none
    foreground_window: tuple[float, float] | None  # PERCENTILES of voxels inside any label
    foreground_share: dict[str, float]  # label to its mean share of a scan where annotated


def take(cases: Sequence[Case], labels: Sequence[str], seed: int) -> Fingerprint:
    """Reads up to MOST_CASES cases, chosen by `seed`, and describes them.

    Args:
      cases: those to learn from, all of one modality and one kind of intensities.
      labels: what is to be outlined.
      seed: decides which cases are read where there are more.

    Raises:
      InputError: naming the case that cannot be read.
    """
    looked_at = split.sample(cases, MOST_CASES, seed)
    shapes, spacings, voxels = [], [], []
    shares: dict[str, list[float]] = {label: [] for label in labels}
    rng = np.random.default_rng(seed)
    for case in looked_at:
        scan = case_files.read_scan(case)
        mask = case_files.read_mask(case, labels, scan.shape)
        shapes.append(scan.shape)
        spacings.append(scan.spacing_mm)
        inside = scan.voxels[mask.planes.any(axis=0)]
        voxels.append(rng.choice(inside, min(len(inside), _VOXELS_A_CASE), replace=False))
        for label, plane in zip(mask.labels, mask.planes, strict=True):
            shares[label].append(float(plane.mean()))
    return Fingerprint(
        len(looked_at),
        _median_shape(shapes),
        _median_spacing(spacings),
        _window(np.concatenate(voxels)),
        {label: float(np.mean(found)) for label, found in shares.items() if found},
    )


def _median_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Medians of the leading ranks that all have: slices among volumes count in the plane only."""
    rank = min(map(len, shapes))
    return tuple(int(side) for side in np.median([s[-rank:] for s in shapes], axis=0))


def _median_spacing(spacings: Sequence[tuple[float, ...] | None]) -> tuple[float, ...] | None:
    known = [spacing for spacing in spacings if spacing is not None]
    if len(known) < len(spacings):
        return None
    rank = min(map(len, known))
    return tuple(float(step) for step in np.median([s[-rank:] for s in known], axis=0))


def _window(voxels: np.ndarray) -> tuple[float, float] | None:
    if not len(voxels):
        return None
    low, high = np.percentile(voxels, PERCENTILES)
    return (float(low), float(high)) if high > low else None
