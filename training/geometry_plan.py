"""How much of a scan a network is shown at once, and at which resolution.

Asked for by --size, --tile, --spacing and --neighbours. A tile of two sides makes a 2D network,
with neighbours a 2.5D one, three sides a 3D one; what is not asked for comes from the data.
"""

import dataclasses

from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec

DERIVED = "3d"  # as --tile: of three sides, that derive.volume_tile fills in


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The fields of an InputSpec that say how a scan is shown."""

    shape: tuple[int, ...]
    frame: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    neighbours: int = 0


def asked(modality: str, size: int, tile: str, spacing: str, neighbours: int) -> Geometry:
    """Returns what the flags ask for.

    Raises:
      InputError: if they cannot be read, or contradict each other.
    """
    if tile == DERIVED:
        shape: tuple[int, ...] = (0, 0, 0)
    else:
        shape = _whole(tile) if tile else (size, size)
    if len(shape) not in (2, 3):
        raise InputError(f"--tile is rows,cols or slices,rows,cols, or {DERIVED}; got {tile}")
    spacing_mm = _numbers(spacing, "--spacing") if spacing else None
    if spacing_mm and len(spacing_mm) != len(shape):
        raise InputError(
            f"--spacing needs a number for each of the {len(shape)} sides of a tile; got {spacing}"
        )
    if modality == "XR" and (neighbours or len(shape) == 3):
        raise InputError("an X-ray is one image: --neighbours and tiles of three sides are for CT")
    if neighbours < 0 or (neighbours and len(shape) == 3):
        raise InputError(
            f"--neighbours is 0 or more, and for tiles of two sides; got {neighbours} and {tile}"
        )
    if spacing_mm or len(shape) == 3:
        return Geometry(shape, None, spacing_mm, neighbours)
    frame = tuple(max(size, side) for side in shape)
    return Geometry(shape, None if frame == shape else frame, None, neighbours)


def _whole(text: str) -> tuple[int, ...]:
    numbers = _numbers(text, "--tile")
    if any(number != int(number) for number in numbers):
        raise InputError(f"--tile is in whole pixels; got {text}")
    return tuple(int(number) for number in numbers)


def _numbers(text: str, flag: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise InputError(f"{flag} takes numbers above 0 with commas between them; got {text}")
    return numbers


def derive(wanted: Geometry, median_mm: tuple[float, ...] | None) -> Geometry:
    """Returns the geometry with what the data decide: volumes are brought to a median spacing.

    Args:
      wanted: by the user.
      median_mm: of the cases to learn from; None if not all say theirs.

    Raises:
      InputError: if it is needed and not known.
    """
    if len(wanted.shape) == 2 or wanted.spacing_mm:
        return wanted
    if median_mm is None or len(median_mm) != len(wanted.shape):
        raise InputError("a tile of three sides needs --spacing, since not every case says its own")
    spacing_mm = tuple(round(axis, 3) for axis in median_mm)
    return dataclasses.replace(wanted, spacing_mm=spacing_mm)


def describe(spec: InputSpec, foreground_share: float) -> str:
    """Returns what a network is shown, in words."""
    told = f"{' x '.join(map(str, spec.shape))} pixels"
    if spec.neighbours:
        told += f" of {spec.channels} slices"
    if spec.spacing_mm:
        told += f" at {' x '.join(f'{mm:g}' for mm in spec.spacing_mm)} mm"
    elif spec.frame:
        told += f" of a frame of {' x '.join(map(str, spec.frame))}"
    if spec.is_cut:
        told += f", {foreground_share:.0%} of tiles centred on foreground"
    return told
