"""Cuts a frame into overlapping tiles and stitches what a model says of them.

Weights are whole numbers and probabilities multiples of 2**-16, so sums in float64 are exact
and stitching the tiles of an image gives that image back, bit for bit.
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

GAUSSIAN_SIGMA = 0.125  # of a tile's side, as in nnU-Net (arXiv:1904.08128)
_WEIGHT_STEPS = 1024


def origins(
    frame: tuple[int, ...], tile: tuple[int, ...], overlap: float = 0.5
) -> list[tuple[int, ...]]:
    """Returns the first corner of each tile of a grid that covers the frame.

    The frame must be at least as large as the tile on every axis. Tiles share at least
    `overlap` of their side with the next one.
    """
    axes = []
    for length, side in zip(frame, tile, strict=True):
        step = max(1, int(side * (1 - overlap)))
        count = 1 + -(-(length - side) // step)
        axes.append([round(i * (length - side) / max(1, count - 1)) for i in range(count)])
    return list(itertools.product(*axes))


def cut(frame: np.ndarray, origin: tuple[int, ...], tile: tuple[int, ...]) -> np.ndarray:
    """Returns the tile of the leading axes of `frame` that starts at `origin`."""
    return frame[tuple(slice(o, o + t) for o, t in zip(origin, tile, strict=True))]


def cut_padded(frame: np.ndarray, corner: tuple[int, ...], tile: tuple[int, ...]) -> np.ndarray:
    """Returns a tile that may reach beyond the leading axes of `frame`, where it is 0.

    Args:
      frame: what to cut from.
      corner: of the tile; part of the tile must lie inside.
      tile: its sides.
    """
    ends = [c + t for c, t in zip(corner, tile, strict=True)]
    inside = tuple(slice(max(0, c), e) for c, e in zip(corner, ends, strict=True))
    part = frame[inside]
    if part.shape[: len(tile)] == tile:
        return part
    padded = np.zeros((*tile, *frame.shape[len(tile) :]), frame.dtype)
    offsets = [max(0, -c) for c in corner]
    place = tuple(slice(o, o + n) for o, n in zip(offsets, part.shape, strict=False))
    padded[place] = part
    return padded


def gaussian(tile: tuple[int, ...]) -> np.ndarray:
    """Returns whole-number weights, float64 of the tile's shape, highest in its middle."""
    weights = np.ones(())
    for side in tile:
        x = (np.arange(side) - (side - 1) / 2) / (GAUSSIAN_SIGMA * side)
        weights = np.multiply.outer(weights, np.exp(-0.5 * x**2))
    return np.maximum(1.0, np.rint(_WEIGHT_STEPS * weights))


def stitch(
    answers: Iterable[tuple[tuple[int, ...], np.ndarray]],
    frame: tuple[int, ...],
    tile: tuple[int, ...],
    channels: int,
) -> Iterator[np.ndarray]:
    """Yields the weighted mean of overlapping tiles, slice by slice along the first axis.

    A slice is yielded as soon as no further tile touches it, so that memory holds as many
    slices as a tile has, however many there are.

    Args:
      answers: pairs of a first corner and values (*tile, channels), in the order of `origins`.
      frame: what the tiles cover.
      tile: its sides.
      channels: values a pixel.

    Yields:
      float64 (*frame[1:], channels), frame[0] times.
    """
    depth = tile[0]
    tile_weights = gaussian(tile)[..., None]
    sums = np.zeros((depth, *frame[1:], channels))  # slice s of the frame lies at s % depth
    weights = np.zeros((depth, *frame[1:], 1), np.float32)  # whole numbers, far below 2**24
    top = 0  # the first slice that is not finished
    for origin, values in answers:
        for done in range(top, origin[0]):
            yield _taken(sums[done % depth], weights[done % depth])
        top = origin[0]
        for below, weight in enumerate(tile_weights):
            place = (top + below) % depth
            cut(sums[place], origin[1:], tile[1:])[...] += weight * values[below]
            cut(weights[place], origin[1:], tile[1:])[...] += weight
    for done in range(top, frame[0]):
        yield _taken(sums[done % depth], weights[done % depth])


def _taken(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the mean of a finished slice, and clears the place for another one."""
    mean: np.ndarray = sums / weights
    sums[...] = 0.0
    weights[...] = 0.0
    return mean
