"""From a scan to its mask, given anything that predicts tiles.

Evaluation passes a network in this process, the client passes a call to a server. All else,
which is everything that could differ, is this one function: the mask that is served is the
mask that was evaluated.
"""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from data_pipeline import cleaning, geometry, tiles
from data_pipeline.errors import InputError
from data_pipeline.scan import Mask, Scan
from data_pipeline.spec import InputSpec

# (n, *spec.shape, spec.channels) float32 in spec.units -> (n, *spec.shape, labels) in [0, 1]
Predict = Callable[[np.ndarray], np.ndarray]

# Applies a model to one batch after the other, as `map` does. It may take batches ahead of the
# answers, to have several on their way at once; answers come in the order of batches.
Each = Callable[[Predict, Iterable[np.ndarray]], Iterator[np.ndarray]]

OVERLAP = 0.5  # share of a tile's side that it has in common with the next one

# What may help where a scan has other units than those that a model was trained on.
_UNITS_HINTS = {
    "HU": "give rescale_slope and rescale_intercept if the file stores a known multiple of HU",
    "stored": "a scan in HU needs a model that was trained on HU (--units HU)",
}


def check_suits(scan: Scan, spec: InputSpec) -> None:
    """Refuses a scan that the model was not made for.

    Raises:
      InputError: naming the scan, if modality, units, rank or spacing do not fit.
    """
    problem = None
    if scan.modality != spec.modality:
        problem = f"it is {scan.modality}, the model was trained on {spec.modality}"
    elif scan.units != spec.units:
        problem = (
            f"its intensities are {scan.units}, the model was trained on {spec.units}; "
            + _UNITS_HINTS[spec.units]
        )
    elif len(scan.shape) == 2 and len(spec.shape) == 3:
        problem = "it is one slice, the model needs volumes"
    elif len(scan.shape) == 2 and spec.neighbours:
        problem = f"it is one slice, the model looks at {spec.neighbours} on either side too"
    elif spec.spacing_mm is not None and scan.spacing_mm is None:
        problem = f"its spacing is unknown, and the model works at {spec.spacing_mm} mm"
    if problem:
        raise InputError(f"{scan.source}: {problem}")


def place(scan: Scan, spec: InputSpec) -> geometry.Placement:
    """Returns where a scan lies on the network's frame; where each slice does, if that is 2D."""
    rank = len(spec.shape)
    spacing_mm = scan.spacing_mm[-rank:] if scan.spacing_mm else None
    return geometry.place(scan.shape[-rank:], spacing_mm, spec)


def frame_shape(scan: Scan, spec: InputSpec) -> tuple[int, int, int]:
    """Returns (slices, rows, cols) of what `frame_slices` yields."""
    slices, rows, cols = (len(_slices(scan)), *place(scan, spec).frame)[-3:]
    return slices, rows, cols


def as_block(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns a tile's shape as (slices, rows, cols); a 2D network is asked slice by slice."""
    slices, rows, cols = (1, *shape)[-3:]
    return slices, rows, cols


def frame_slices(scan: Scan, spec: InputSpec) -> Iterator[np.ndarray]:
    """Yields the slices of a scan's frame in the scan's units, float32 (rows, cols)."""
    placement, slices = place(scan, spec), _slices(scan)
    if len(spec.shape) == 3:
        yield from placement.forward_slices(slices, float(slices.min()))
    else:
        yield from (placement.forward(one) for one in slices)


def _slices(scan: Scan) -> np.ndarray:
    return scan.voxels if scan.voxels.ndim == 3 else scan.voxels[None]


def cut(
    scan: Scan, spec: InputSpec, overlap: float = OVERLAP
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yields what a network is asked: tiles float32 (*shape, channels), with their first corners.

    The first and last slice stand in for neighbours beyond the volume.
    """
    frame, tile = frame_shape(scan, spec), as_block(spec.shape)
    source = enumerate(frame_slices(scan, spec))
    held: dict[int, np.ndarray] = {}
    for origin in tiles.origins(frame, tile, overlap):
        wanted = with_neighbours(origin[0], tile[0], spec.neighbours, frame[0])
        while wanted[-1] not in held:
            index, one = next(source)
            held[index] = one
        held = {index: one for index, one in held.items() if index >= wanted[0]}
        block = np.stack([tiles.cut(held[index], origin[1:], tile[1:]) for index in wanted])
        yield origin, as_channels(block, spec)


def with_neighbours(first: int, count: int, neighbours: int, slices: int) -> np.ndarray:
    """Returns which slices a tile shows; the ends stand in for those beyond the volume."""
    return np.clip(np.arange(first - neighbours, first + count + neighbours), 0, slices - 1)


def as_channels(block: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Returns a block (slices, rows, cols) as the network takes it: (*shape, channels)."""
    return block[..., None] if len(spec.shape) == 3 else np.moveaxis(block, 0, -1)


def probabilities(
    scan: Scan,
    spec: InputSpec,
    predict: Predict,
    *,
    batch_size: int = 1,
    overlap: float = OVERLAP,
    each: Each = map,
) -> np.ndarray:
    """Returns the probability of each label at each voxel: float32 (labels, *scan.shape).

    Beyond the scan and the answer, memory holds as many slices as a tile has and a few.

    Args:
      scan: an X-ray, a slice or a volume.
      spec: what the model takes.
      predict: the model, from a batch of tiles to a batch of probabilities.
      batch_size: tiles a call. One, for the same arithmetic wherever the model runs: kernels
        for larger batches may round differently.
      overlap: share of a tile's side that it has in common with the next one.
      each: how the model is applied to batches; the result is the same however it is.

    Raises:
      InputError: if the scan is not what the model was made for.
    """
    check_suits(scan, spec)
    placement, tile, labels = place(scan, spec), as_block(spec.shape), len(spec.labels)
    answers = (
        # Whole numbers, so that their weighted sums are exact.
        (origin, np.rint(values * geometry.PROBABILITY_ONE).reshape(*tile, labels))
        for origin, values in _answered(cut(scan, spec, overlap), predict, batch_size, each)
    )
    stitched = tiles.stitch(answers, frame_shape(scan, spec), tile, labels)
    on_frame = (one / geometry.PROBABILITY_ONE for one in stitched)
    on_grid = (
        placement.backward_slices(on_frame)
        if len(spec.shape) == 3
        else (placement.backward(one) for one in on_frame)
    )
    result = np.empty((labels, *_slices(scan).shape), np.float32)
    for index, one in enumerate(on_grid):
        result[:, index] = one
    return result.reshape(labels, *scan.shape)


def _answered(
    asked: Iterator[tuple[tuple[int, ...], np.ndarray]],
    predict: Predict,
    batch_size: int,
    each: Each,
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yields the first corner of each tile with what the model says of it: (*shape, labels)."""
    on_their_way: collections.deque[list[tuple[int, ...]]] = collections.deque()

    def batches() -> Iterator[np.ndarray]:
        while group := list(itertools.islice(asked, batch_size)):
            on_their_way.append([origin for origin, _ in group])
            yield np.stack([tile for _, tile in group])

    for answer in each(predict, batches()):
        yield from zip(on_their_way.popleft(), answer, strict=True)


def mask(values: np.ndarray, spec: InputSpec) -> Mask:
    """Returns the mask of probabilities (labels, *grid), cleaned as the spec says."""
    return Mask(cleaning.clean(outlined(values, spec), spec), spec.labels)


def outlined(values: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Returns where probabilities (labels, *grid) are above their label's threshold: bool."""
    above = zip(values, spec.above, strict=True)
    return np.stack([plane > np.float32(threshold) for plane, threshold in above])
