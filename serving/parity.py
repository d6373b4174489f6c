"""Proves that a model gives the same masks however it is run, and says so in parity.json.

The trained model sets the standard. The SavedModel in a fresh process, the server over gRPC
and the server over REST are each asked for the same scans through the client's own code; one
pixel of difference in a mask ends the export.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline import inference
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan
from data_pipeline.spec import InputSpec
from serving import client, encoded

PROBABILITY_TOLERANCE = 1e-5  # of what runs in TensorFlow in float32; masks are equal there
LARGEST_BATCH = 8  # tiles in the batch that is compared with single requests


class NotProven(InputError):
    """Two ways of running one model disagree."""


@dataclasses.dataclass(frozen=True)
class Closeness:
    """How far masks may be from the trained model's where they cannot be equal to it."""

    smallest_dice: float = 0.999  # of each label in each case
    largest_share: float = 0.001  # of each case's pixels that differ


CLOSE = Closeness()  # for other runtimes and for less than float32


@dataclasses.dataclass(frozen=True)
class Golden:
    """A scan on which all ways must agree. Numbered, not named: an export may travel."""

    number: int
    scan: Scan
    image_bytes: bytes | None = None  # the PNG or JPEG it came from, if the model takes files


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one way of running the model says of one scan."""

    probabilities: np.ndarray  # float32 (labels, *grid)
    planes: np.ndarray  # bool, likewise
    planes_of_file: dict[str, np.ndarray]  # signature -> the same from image_bytes


def answers(served: client.Served, golden: Sequence[Golden]) -> list[Answer]:
    """Asks a served model for each scan, as voxels and as a file where there is one."""
    found = []
    for case in golden:
        probabilities = served.probabilities(case.scan)
        planes = inference.mask(probabilities, served.spec).planes
        of_file = {}
        if case.image_bytes is not None:
            for signature in encoded.SIGNATURES:
                of_file[signature] = served.mask_of_file(case.image_bytes, signature).planes
        found.append(Answer(probabilities, planes, of_file))
    return found


def compare(
    way: str, expected: Sequence[Answer], found: Sequence[Answer], golden: Sequence[Golden]
) -> float:
    """Returns the largest difference of two probabilities.

    Raises:
      NotProven: if a mask differs in a pixel, or a probability by more than the tolerance.
    """
    largest = 0.0
    for case, standard, answer in zip(golden, expected, found, strict=True):
        _check_planes(way, case, standard.planes, answer.planes)
        for signature, planes in answer.planes_of_file.items():
            _check_planes(f"{way} ({signature})", case, standard.planes, planes)
        difference = np.abs(standard.probabilities - answer.probabilities).max()
        # Written so that NaN does not pass.
        if not difference <= PROBABILITY_TOLERANCE:
            raise NotProven(
                f"not exported: in golden case {case.number} a probability of {way} is off by "
                f"{difference:.2g}, more than {PROBABILITY_TOLERANCE:.0e}"
            )
        largest = max(largest, float(difference))
    return largest


def compare_closely(
    way: str,
    expected: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    golden: Sequence[Golden],
    spec: InputSpec,
) -> dict[str, Any]:
    """Returns how far the masks of probabilities are off before cleaning, for parity.json.

    Args:
      way: of running the model, in words.
      expected: probabilities (labels, *grid) of each case.
      found: likewise.
      golden: the cases.
      spec: of the model.

    Raises:
      NotProven: if a mask is further off than CLOSE allows.
    """
    wrong, dices, differences = [], [], []
    for case, standard, answer in zip(golden, expected, found, strict=True):
        truth, mask = (inference.outlined(one, spec) for one in (standard, answer))
        wrong.append(int((truth != mask).sum()))
        dice = min(map(_dice, truth, mask))
        dices.append(dice)
        differences.append(float(np.abs(standard - answer).max()))
        # Written so that NaN does not pass.
        near = dice >= CLOSE.smallest_dice and wrong[-1] <= CLOSE.largest_share * truth.size
        if not (near and differences[-1] <= 1):
            raise NotProven(
                f"not exported: the mask of {way} differs in {wrong[-1]} of {truth.size} pixels "
                f"from the trained model's, Dice {dice:.4f}, golden case {case.number}; allowed "
                f"are {CLOSE.largest_share:.1%} and {CLOSE.smallest_dice}"
            )
    return {
        "masks_equal": not any(wrong),
        "pixels_that_differ": wrong,
        "smallest_dice": min(dices),
        "largest_probability_difference": max(differences),
        "allowed": dataclasses.asdict(CLOSE),
    }


def _dice(truth: np.ndarray, mask: np.ndarray) -> float:
    """Dice of two planes; 1 where both are empty, which is where they agree."""
    size = int(truth.sum()) + int(mask.sum())
    return 2.0 * int((truth & mask).sum()) / size if size else 1.0


def _check_planes(way: str, case: Golden, expected: np.ndarray, found: np.ndarray) -> None:
    if found.shape != expected.shape:
        problem = f"has shape {found.shape} instead of {expected.shape}"
    elif wrong := int((found != expected).sum()):
        problem = f"differs in {wrong} of {expected.size} pixels"
    else:
        return
    raise NotProven(
        f"not exported: the mask of {way} {problem} from the trained model's, "
        f"golden case {case.number}"
    )


def check_batches(served: client.Served, golden: Sequence[Golden]) -> None:
    """Checks that a server which batches requests gives the bits of single requests.

    Raises:
      NotProven: if a row of a batch depends on how many there are.
    """
    asked = (tile for case in golden for _, tile in inference.cut(case.scan, served.spec))
    rows = list(itertools.islice(asked, LARGEST_BATCH))
    singles = np.concatenate([served.predict(row[None]) for row in rows])
    if not np.array_equal(singles, served.predict(np.stack(rows))):
        raise NotProven(f"not exported: a batch of {len(rows)} differs from single requests")


def describe(
    golden: Sequence[Golden], expected: Sequence[Answer], spec: InputSpec
) -> list[dict[str, Any]]:
    """Returns what parity.json says of each golden case: its grid and its masks' fingerprints."""
    told = []
    for case, answer in zip(golden, expected, strict=True):
        masks = {
            label: {
                "pixels": int(plane.sum()),
                "sha256": hashlib.sha256(np.packbits(plane).tobytes()).hexdigest(),
            }
            for label, plane in zip(spec.labels, answer.planes, strict=True)
        }
        told.append(
            {
                "case": case.number,
                "grid": list(case.scan.shape),
                "as_file": case.image_bytes is not None,
                "masks": masks,
            }
        )
    return told
