"""Cuts a frame into overlapping tiles and stitches what a model says of them.

Weights are whole numbers and probabilities multiples of 2**-16, so sums in float64 are exact
and stitching the tiles of an image gives that image back, bit for bit.
"""

import itertools

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


def gaussian(tile: tuple[int, ...]) -> np.ndarray:
    """Returns whole-number weights, float64 of the tile's shape, highest in its middle."""
    weights = np.ones(())
    for side in tile:
        x = (np.arange(side) - (side - 1) / 2) / (GAUSSIAN_SIGMA * side)
        weights = np.multiply.outer(weights, np.exp(-0.5 * x**2))
    return np.maximum(1.0, np.rint(_WEIGHT_STEPS * weights))


class Stitcher:
    """Adds up weighted tiles of probabilities on a frame, one at a time."""

    def __init__(self, frame: tuple[int, ...], tile: tuple[int, ...], channels: int) -> None:
        self._tile = tile
        self._tile_weights = gaussian(tile)
        self._sums = np.zeros((*frame, channels))
        self._weights = np.zeros(frame)

    def add(self, origin: tuple[int, ...], values: np.ndarray) -> None:
        """Adds one tile of values, (*tile, channels), with its first corner at `origin`."""
        cut(self._sums, origin, self._tile)[...] += self._tile_weights[..., None] * values
        cut(self._weights, origin, self._tile)[...] += self._tile_weights

    def result(self) -> np.ndarray:
        """Returns the weighted mean, float64 (*frame, channels)."""
        return self._sums / self._weights[..., None]
