"""From a scan to its mask, given anything that predicts tiles.

Evaluation passes a network in this process, the client passes a call to a server. All else,
which is everything that could differ, is this one function: the mask that is served is the
mask that was evaluated.
"""

import collections
import dataclasses
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

THRESHOLD = 0.5  # a pixel belongs to the mask where its probability is above this


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
            "give rescale_slope and rescale_intercept if the file stores a known multiple of HU"
        )
    elif len(spec.shape) > len(scan.shape):
        problem = f"it is one slice, the model needs volumes of at least {spec.shape}"
    elif spec.spacing_mm is not None and scan.spacing_mm is None:
        problem = f"its spacing is unknown, and the model works at {spec.spacing_mm} mm"
    if problem:
        raise InputError(f"{scan.source}: {problem}")


def frames(scan: Scan, spec: InputSpec) -> Iterator[tuple[geometry.Placement, np.ndarray]]:
    """Yields a scan as the network sees it: one frame, or one a slice for a 2D network.

    A frame is float32 (*frame, channels) in the scan's units, with its placement.
    """
    if len(spec.shape) == len(scan.shape):
        placement = geometry.place(scan.shape, scan.spacing_mm, spec)
        yield placement, placement.forward(scan.voxels)[..., None]
        return
    spacing_mm = scan.spacing_mm[1:] if scan.spacing_mm else None
    placement = geometry.place(scan.shape[1:], spacing_mm, spec)
    for index in range(len(scan.voxels)):
        around = np.arange(index - spec.neighbours, index + spec.neighbours + 1)
        # The first and last slice stand in for neighbours beyond the volume.
        stack = scan.voxels[np.clip(around, 0, len(scan.voxels) - 1)]
        yield placement, np.stack([placement.forward(s) for s in stack], axis=-1)


def probabilities(
    scan: Scan,
    spec: InputSpec,
    predict: Predict,
    *,
    batch_size: int = 1,
    overlap: float = 0.5,
    each: Each = map,
) -> np.ndarray:
    """Returns the probability of each label at each voxel: float32 (labels, *scan.shape).

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
    on_their_way: collections.deque[_Part] = collections.deque()

    def batches() -> Iterator[np.ndarray]:
        for part, batch in _batches(scan, spec, batch_size, overlap):
            on_their_way.append(part)
            yield batch

    answers = ((on_their_way.popleft(), answer) for answer in each(predict, batches()))
    slices = [placement.backward(frame) for placement, frame in _stitched(answers, spec)]
    return slices[0] if len(spec.shape) == len(scan.shape) else np.stack(slices, axis=1)


@dataclasses.dataclass(frozen=True)
class _Part:
    """Where a batch of tiles belongs."""

    placement: geometry.Placement
    frame: tuple[int, ...]  # shape of the frame that they are cut from
    corners: list[tuple[int, ...]]
    is_last: bool  # of its frame


def _batches(
    scan: Scan, spec: InputSpec, batch_size: int, overlap: float
) -> Iterator[tuple[_Part, np.ndarray]]:
    for placement, frame in frames(scan, spec):
        shape = frame.shape[:-1]
        corners = tiles.origins(shape, spec.shape, overlap)
        for start in range(0, len(corners), batch_size):
            end = start + batch_size
            part = _Part(placement, shape, corners[start:end], end >= len(corners))
            yield part, np.stack([tiles.cut(frame, c, spec.shape) for c in part.corners])


def _stitched(
    answers: Iterable[tuple[_Part, np.ndarray]], spec: InputSpec
) -> Iterator[tuple[geometry.Placement, np.ndarray]]:
    """Yields the probabilities of each frame, (*frame, labels), once its last tile is there."""
    stitcher = None
    for part, answer in answers:
        if part.frame == spec.shape:
            yield part.placement, answer[0]
            continue
        stitcher = stitcher or tiles.Stitcher(part.frame, spec.shape, len(spec.labels))
        for corner, values in zip(part.corners, answer, strict=True):
            stitcher.add(corner, np.rint(values * geometry.PROBABILITY_ONE))
        if part.is_last:
            yield part.placement, stitcher.result() / geometry.PROBABILITY_ONE
            stitcher = None


def mask(values: np.ndarray, spec: InputSpec) -> Mask:
    """Returns the mask of probabilities (labels, *grid): where they are above one half.

    What the spec says of cleaning is done to it.
    """
    return Mask(cleaning.clean(values > THRESHOLD, spec), spec.labels)
