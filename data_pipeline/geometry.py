"""Geometry, written once: from a scan's grid to the network's frame, and back for its answer.

Resampling is in fixed point. Weights are multiples of 2**-12, voxels are whole numbers of at
most 16 bits and probabilities multiples of 2**-16, so every product and sum is exact in
float64 whatever the order of summation. That is why NumPy (training, evaluation, client) and
TensorFlow (the `encoded` signature inside an export) give the same bits, not nearly the same.
Weights are a triangle filter that widens when an image shrinks, as in tf.image.resize with
antialias and in Pillow's BILINEAR.
"""

import dataclasses
from types import ModuleType
from typing import Any

import numpy as np

from data_pipeline.spec import InputSpec

_WEIGHT_ONE = 2.0**12
_TRIANGLE_ONE = 2.0**20
PROBABILITY_ONE = 2.0**16


def axis_weights(pixels_in: Any, pixels_out: Any, xp: ModuleType = np) -> Any:
    """Returns the matrix that resamples one axis: float64 (pixels out, pixels in).

    Each row sums to exactly 1. Pixel centres lie at half integers and both ends of the axis
    stay where they are, so resampling never shifts an image.

    Args:
      pixels_in: 0, 1, 2, ... as float64: the pixels that the axis has.
      pixels_out: likewise, those it shall have.
      xp: numpy, or tensorflow.experimental.numpy inside a graph.
    """
    step = (pixels_in[-1] + 1.0) / (pixels_out[-1] + 1.0)
    centres = (pixels_out + 0.5) * step - 0.5
    distance = xp.abs(pixels_in[None, :] - centres[:, None]) / xp.maximum(step, 1.0)
    triangle = _round(xp.maximum(1.0 - distance, 0.0) * _TRIANGLE_ONE, xp)
    weights = _round(triangle * _WEIGHT_ONE / xp.sum(triangle, axis=1, keepdims=True), xp)
    # What rounding took or gave goes to the heaviest pixel, so that a row sums to one.
    missing = _WEIGHT_ONE - xp.sum(weights, axis=1, keepdims=True)
    heaviest = pixels_in[None, :] == xp.multiply(xp.argmax(weights, axis=1), 1.0)[:, None]
    return xp.where(heaviest, weights + missing, weights) / _WEIGHT_ONE


def _round(values: Any, xp: ModuleType) -> Any:
    return xp.floor(values + 0.5)


def resample(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resamples the leading axes of an array to `shape`; float64, further axes kept."""
    result = np.asarray(array, np.float64)
    for axis, length in enumerate(shape):
        if result.shape[axis] != length:
            weights = axis_weights(
                np.arange(result.shape[axis], dtype=np.float64),
                np.arange(length, dtype=np.float64),
            )
            result = np.moveaxis(np.tensordot(weights, result, axes=(1, axis)), 0, axis)
    return result


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a scan's grid lies on the frame that a network is shown."""

    grid: tuple[int, ...]  # of the scan: (rows, cols) or (slices, rows, cols)
    extent: tuple[int, ...]  # the scan's size on the frame
    offset: tuple[int, ...]  # of its first corner on the frame
    frame: tuple[int, ...]

    def forward(self, voxels: np.ndarray) -> np.ndarray:
        """Brings voxels from the grid onto the frame; float32, margins at the lowest voxel."""
        lowest = voxels.min()
        frame = np.full(self.frame, lowest, np.float32)
        frame[self._inside()] = resample(voxels, self.extent)
        return frame

    def backward(self, probabilities: np.ndarray) -> np.ndarray:
        """Brings probabilities (*frame, labels) onto the grid; float32 (labels, *grid)."""
        quantised = np.rint(probabilities[self._inside()].astype(np.float64) * PROBABILITY_ONE)
        on_grid = resample(quantised, self.grid) / PROBABILITY_ONE
        return np.moveaxis(on_grid, -1, 0).astype(np.float32)

    def forward_mask(self, planes: np.ndarray) -> np.ndarray:
        """Brings bool planes (labels, *grid) onto the frame; share of foreground, float32.

        The share is kept rather than a threshold of it: it is the honest training target for
        a pixel that covers several of the mask's.
        """
        frame = np.zeros((len(planes), *self.frame), np.float32)
        for target, plane in zip(frame, planes, strict=True):
            target[self._inside()] = resample(plane, self.extent)
        return frame

    def _inside(self) -> tuple[slice, ...]:
        return tuple(slice(o, o + e) for o, e in zip(self.offset, self.extent, strict=True))


def letterbox(grid: tuple[int, ...], frame: tuple[int, ...]) -> Placement:
    """Fits a grid into a frame with its aspect ratio kept and equal margins."""
    scale = min(f / g for f, g in zip(frame, grid, strict=True))
    # The integer arithmetic of `encoded` in serving.signatures; floor(x + 1/2), not banker's.
    extent = tuple(max(1, min(f, int(g * scale + 0.5))) for f, g in zip(frame, grid, strict=True))
    offset = tuple((f - e) // 2 for f, e in zip(frame, extent, strict=True))
    return Placement(grid, extent, offset, frame)


def respace(
    grid: tuple[int, ...],
    spacing_mm: tuple[float, ...],
    target_mm: tuple[float, ...],
    tile: tuple[int, ...],
) -> Placement:
    """Resamples a grid to another spacing, with margins up to one tile where it is smaller."""
    extent = tuple(
        max(1, int(g * s / t + 0.5)) for g, s, t in zip(grid, spacing_mm, target_mm, strict=True)
    )
    frame = tuple(max(e, side) for e, side in zip(extent, tile, strict=True))
    offset = tuple((f - e) // 2 for f, e in zip(frame, extent, strict=True))
    return Placement(grid, extent, offset, frame)


def place(
    grid: tuple[int, ...], spacing_mm: tuple[float, ...] | None, spec: InputSpec
) -> Placement:
    """Returns how a grid of the network's rank lands on the frame that `spec` asks for.

    Raises:
      ValueError: if the spec resamples to a spacing and the scan has none.
    """
    if spec.spacing_mm is None:
        return letterbox(grid, spec.frame or spec.shape)
    if spacing_mm is None:
        raise ValueError(f"no spacing known, and the model works at {spec.spacing_mm} mm")
    return respace(grid, spacing_mm, spec.spacing_mm, spec.shape)
