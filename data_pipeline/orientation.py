"""Where an array lies in the patient, and the turn that brings it to canonical orientation.

Canonical: slices from inferior to superior, rows from anterior to posterior, columns from the
patient's right to left. Only axes are swapped and reversed, never resampled, so the way back
is exact; what is left of an oblique orientation stays in the affine.
"""

import dataclasses
import itertools

import numpy as np

from data_pipeline.errors import InputError

# Rows of an LPS affine (x to the left, y to posterior, z to superior) along slices, rows, cols.
_CANONICAL = (2, 1, 0)

# Cosine between two axes of a grid; 0.01 is half a degree. Scanners write six digits, so what
# exceeds it is a sheared volume, as from a tilted gantry, which no grid of boxes describes.
_MAX_COSINE = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """An array in the order of its file, with what the file says about it."""

    values: np.ndarray  # (rows, cols) or (slices, rows, cols), of the file's or a wider type
    units: str = "stored"  # "HU" or "stored"
    spacing_mm: tuple[float, ...] | None = None  # one an axis of values
    affine: np.ndarray | None = None  # (4, 4): (slice, row, col, 1) of values to LPS millimetres


@dataclasses.dataclass(frozen=True)
class Turn:
    """A swap of axes, then a reversal of some."""

    axes: tuple[int, int, int]  # which axis of the file becomes the slices, rows, columns
    reverse: tuple[bool, bool, bool]  # of the result

    @property
    def is_identity(self) -> bool:
        """Whether the file is in canonical orientation already."""
        return self.axes == (0, 1, 2) and not any(self.reverse)

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Returns a volume of the file in canonical orientation."""
        return np.flip(np.transpose(values, self.axes), self._reversed_axes())

    def backward(self, values: np.ndarray) -> np.ndarray:
        """Returns a volume in canonical orientation as the file has it: undoes `forward`."""
        return np.transpose(np.flip(values, self._reversed_axes()), np.argsort(self.axes))

    def affine(self, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the affine of `forward(values)`, given that of values and their shape."""
        turned = affine.copy()
        for new, (old, reverse) in enumerate(zip(self.axes, self.reverse, strict=True)):
            turned[:, new] = -affine[:, old] if reverse else affine[:, old]
            if reverse:
                turned[:, 3] += affine[:, old] * (shape[old] - 1)
        return turned

    def _reversed_axes(self) -> tuple[int, ...]:
        return tuple(axis for axis, reverse in enumerate(self.reverse) if reverse)


def turn(affine: np.ndarray) -> Turn:
    """Returns the turn to canonical orientation of an array with this affine.

    Raises:
      InputError: if the affine is no grid: not finite, of zero spacing, or sheared.
    """
    cosines = _directions(affine)
    axes = max(
        itertools.permutations(range(3)),
        key=lambda order: sum(
            abs(cosines[world, axis]) for world, axis in zip(_CANONICAL, order, strict=True)
        ),
    )
    reverse = tuple(
        bool(cosines[world, axis] < 0) for world, axis in zip(_CANONICAL, axes, strict=True)
    )
    return Turn(axes, reverse)  # type: ignore[arg-type]


def _directions(affine: np.ndarray) -> np.ndarray:
    """Returns the unit vectors along the array's axes, one a column: (3, 3)."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or spacing.min() <= 0:
        raise InputError("its orientation is no grid: the affine has a zero or unknown axis")
    cosines: np.ndarray = affine[:3, :3] / spacing
    between = np.abs(cosines.T @ cosines - np.eye(3)).max()
    if between > _MAX_COSINE:
        degrees = np.degrees(np.arcsin(min(between, 1.0)))
        raise InputError(
            f"its axes are {degrees:.1f} degrees off right angles (a tilted gantry?); "
            "resample it onto an upright grid first"
        )
    return cosines


def spacing(affine: np.ndarray) -> tuple[float, ...]:
    """Returns the distance between neighbours along each axis, in the affine's millimetres."""
    return tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))


def canonical(stored: Stored) -> Stored:
    """Returns a stored array in canonical orientation; as it is, where that is not known.

    A volume of a single axial slice becomes an image.

    Raises:
      InputError: if the affine is no grid, or a single slice is not axial.
    """
    if stored.affine is None:
        return stored
    volume = stored.values if stored.values.ndim == 3 else stored.values[None]
    how = turn(stored.affine)
    if len(volume) == 1 and how.axes[0] != 0:
        raise InputError("it is a single slice that is not axial; axial slices are read")
    affine = how.affine(stored.affine, volume.shape)
    values = how.forward(volume)
    values = values[0] if len(values) == 1 else values
    return Stored(values, stored.units, spacing(affine)[-values.ndim :], affine)


def same_place(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether two affines put every corner of a grid within half a voxel of each other."""
    shape = (1,) * (3 - len(shape)) + tuple(shape)
    corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in shape))], float)
    apart = np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1)
    return bool(apart.max() <= min(spacing(one)) / 2)
