"""Geometry, written once: from a scan's grid to the network's frame, and back for its answer.

Resampling is in fixed point. Weights are multiples of 2**-12, voxels are whole numbers of at
most 16 bits and probabilities multiples of 2**-16, so every product and sum is exact in
float64 whatever the order of summation. That is why NumPy (training, evaluation, client) and
TensorFlow (the `encoded` signature inside an export) give the same bits, not nearly the same.
Weights are a triangle filter that widens when an image shrinks, as in tf.image.resize with
antialias and in Pillow's BILINEAR.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator
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
    result = np.asarray(array)
    for axis, length in enumerate(shape):
        if result.shape[axis] != length:
            turned = np.moveaxis(result, axis, 0)
            result = np.moveaxis(_resample_first(turned, length), 0, axis)
    return np.asarray(result, np.float64)


def _resample_first(array: np.ndarray, length: int) -> np.ndarray:
    # Not a product with the whole matrix, nearly all of which is zero: that takes 3 to 10 times
    # as long, and hands small products to threads that wait for each other.
    pixels, weights = _taps(len(array), length)
    rows = np.ascontiguousarray(array, np.float64).reshape(len(array), -1)
    result = rows[pixels[0]] * weights[0]
    for which, weight in zip(pixels[1:], weights[1:], strict=True):
        tap = rows[which]
        tap *= weight
        result += tap
    return result.reshape(length, *array.shape[1:])


@functools.lru_cache(maxsize=64)
def _taps(length: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels that each pixel of a resampled axis is made of, and their weights.

    Returns:
      int64 (taps, wanted) and float64 (taps, wanted, 1).
    """
    matrix = axis_weights(np.arange(float(length)), np.arange(float(wanted)))
    used = matrix != 0  # not without gaps: what rounding adds up to may be taken from one between
    last = length - 1 - used[:, ::-1].argmax(axis=1)
    most = int((last - used.argmax(axis=1)).max()) + 1
    first = np.minimum(used.argmax(axis=1), length - most)
    pixels = first[:, None] + np.arange(most)
    return pixels.T, np.take_along_axis(matrix, pixels, axis=1).T[..., None]


def resample_slices(slices: Iterable[np.ndarray], length: int, wanted: int) -> Iterator[np.ndarray]:
    """Resamples the first axis of a volume that comes slice by slice, as `resample` would.

    Only the slices that one slice of the result is made of are held at a time.

    Args:
      slices: `length` arrays of one shape.
      length: how many there are.
      wanted: how many to yield.
    """
    if length == wanted:
        yield from slices
        return
    pixels_in, pixels_out = np.arange(float(length)), np.arange(float(wanted))
    source = iter(slices)
    held: collections.deque[np.ndarray] = collections.deque()
    first = 0  # which slice held[0] is
    for row in axis_weights(pixels_in, pixels_out):
        used = np.flatnonzero(row)
        missing = int(used[-1]) + 1 - first - len(held)
        held.extend(one.astype(np.float64) for one in itertools.islice(source, max(0, missing)))
        while first < used[0]:
            held.popleft()
            first += 1
        yield sum(row[index] * held[index - first] for index in used)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a scan's grid lies on the frame that a network is shown.

    Volumes are brought over slice by slice, so that one of any length takes little memory
    beyond itself and what is made of it.
    """

    grid: tuple[int, ...]  # of the scan: (rows, cols) or (slices, rows, cols)
    extent: tuple[int, ...]  # the scan's size on the frame
    offset: tuple[int, ...]  # of its first corner on the frame
    frame: tuple[int, ...]

    def forward(self, voxels: np.ndarray) -> np.ndarray:
        """Brings voxels from the grid onto the frame; float32, margins at the lowest voxel."""
        return self._brought(voxels, float(voxels.min()))

    def forward_mask(self, planes: np.ndarray) -> np.ndarray:
        """Brings bool planes (labels, *grid) onto the frame; share of foreground, float32.

        The share is kept rather than a threshold of it: it is the honest training target for
        a pixel that covers several of the mask's.
        """
        shares = np.empty((len(planes), *self.frame), np.float32)  # of no label, too
        for share, plane in zip(shares, planes, strict=True):
            share[...] = self._brought(plane, 0.0)
        return shares

    def backward(self, probabilities: np.ndarray) -> np.ndarray:
        """Brings probabilities (*frame, labels) onto the grid; float32 (labels, *grid)."""
        if len(self.grid) == 3:
            return np.stack(list(self.backward_slices(probabilities)), axis=1)
        quantised = np.rint(probabilities[self._inside()].astype(np.float64) * PROBABILITY_ONE)
        on_grid = resample(quantised, self.grid) / PROBABILITY_ONE
        return np.moveaxis(on_grid, -1, 0).astype(np.float32)

    def forward_slices(self, slices: Iterable[np.ndarray], margin: float) -> Iterator[np.ndarray]:
        """Yields the slices of a volume's frame, float32 (rows, cols).

        Args:
          slices: those of the grid.
          margin: the value around the volume.
        """
        plane, before = self._plane(), self.offset[0]
        inside = resample_slices(slices, self.grid[0], self.extent[0])
        blank = np.full(plane.frame, margin, np.float32)
        yield from itertools.repeat(blank, before)
        yield from (plane._brought(one, margin) for one in inside)
        yield from itertools.repeat(blank, self.frame[0] - before - self.extent[0])

    def backward_slices(self, slices: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields probabilities on a volume's grid, slice by slice: float32 (labels, rows, cols).

        Args:
          slices: those of the frame, (rows, cols, labels).
        """
        inside = itertools.islice(slices, self.offset[0], self.offset[0] + self.extent[0])
        quantised = (np.rint(one.astype(np.float64) * PROBABILITY_ONE) for one in inside)
        plane = self._plane()
        for one in resample_slices(quantised, self.extent[0], self.grid[0]):
            on_grid = resample(one[plane._inside()], plane.grid) / PROBABILITY_ONE
            yield np.moveaxis(on_grid, -1, 0).astype(np.float32)

    def _brought(self, values: np.ndarray, margin: float) -> np.ndarray:
        if len(self.grid) == 3:
            return np.stack(list(self.forward_slices(values, margin)))
        frame = np.full(self.frame, margin, np.float32)
        frame[self._inside()] = resample(values, self.extent)
        return frame

    def _plane(self) -> "Placement":
        """Returns where each slice lies in the plane of rows and columns."""
        return Placement(self.grid[1:], self.extent[1:], self.offset[1:], self.frame[1:])

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
