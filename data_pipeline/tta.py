"""Test-time augmentation: a network asked more than once, its answers averaged in the graph."""

import dataclasses
import itertools

from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec

CHOICES = ("none", "flips", "flips+scales")

SCALES = (0.8, 1.25)

# Axes of (rows, cols) that may be mirrored: an X-ray stands upright, a slice comes as it comes.
_MIRRORED = {"XR": (1,), "CT": (0, 1)}


def chosen(spec: InputSpec, choice: str) -> InputSpec:
    """Returns the spec with another choice of test-time augmentation.

    Raises:
      InputError: if the choice is unknown.
    """
    if choice not in CHOICES:
        raise InputError(f"unknown test-time augmentation {choice}; known: {', '.join(CHOICES)}")
    return dataclasses.replace(
        spec,
        flips=() if choice == "none" else _flips(spec),
        scales=SCALES if choice == "flips+scales" else (),
    )


def _flips(spec: InputSpec) -> tuple[tuple[int, ...], ...]:
    in_plane = len(spec.shape) - 2  # the axis of rows; slices are not mirrored
    axes = [in_plane + axis for axis in _MIRRORED[spec.modality]]
    return tuple(
        flip for count in range(1, len(axes) + 1) for flip in itertools.combinations(axes, count)
    )


def passes(spec: InputSpec) -> float:
    """Returns how many times a single answer's arithmetic one answer takes."""
    sizes = [1.0, *(scale ** len(spec.shape) for scale in spec.scales)]
    return (1 + len(spec.flips)) * sum(sizes)


def cost(spec: InputSpec, networks: int = 1) -> str:
    """Says what one answer costs; "" if no more than one pass of one network.

    Args:
      spec: with its views.
      networks: whose answers are averaged.
    """
    times = networks * passes(spec)
    if times == 1:
        return ""
    return (
        f"{times:.3g} times the arithmetic of one network an answer: {networks} network"
        f"{'s' * (networks > 1)}, mirrored views: {len(spec.flips)}, sizes: {(1.0, *spec.scales)}"
    )
