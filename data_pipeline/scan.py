"""The two values that travel from disk to result: a scan and the mask on its grid."""

import dataclasses

import numpy as np

MODALITIES = ("XR", "CT")

# HU: Hounsfield units. stored: numbers as a file holds them, comparable within one image only.
UNITS = ("HU", "stored")


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """One X-ray, one CT slice or one CT volume on its own grid.

    Volumes are in canonical orientation: slices from inferior to superior, rows from
    anterior to posterior, columns from the patient's right to left. An image without
    orientation in its file keeps the file's.
    """

    voxels: np.ndarray  # float32, (rows, cols) or (slices, rows, cols)
    modality: str  # "XR" or "CT"
    units: str  # "HU" or "stored"
    source: str  # the file or folder it was read from
    spacing_mm: tuple[float, ...] | None = None  # one an axis, in the order of voxels' axes
    affine: np.ndarray | None = None  # (4, 4): (slice, row, col, 1) to patient LPS millimetres

    def __post_init__(self) -> None:
        """Raises ValueError where a reader broke the contract."""
        if self.voxels.dtype != np.float32 or self.voxels.ndim not in (2, 3):
            raise ValueError(
                f"{self.source}: voxels must be float32 of rank 2 or 3; "
                f"got {self.voxels.dtype} of shape {self.voxels.shape}"
            )
        if self.modality not in MODALITIES or self.units not in UNITS:
            raise ValueError(f"{self.source}: got modality {self.modality}, units {self.units}")
        if self.spacing_mm is not None and len(self.spacing_mm) != self.voxels.ndim:
            raise ValueError(
                f"{self.source}: spacing_mm {self.spacing_mm} does not fit {self.voxels.shape}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """The grid: (rows, cols) or (slices, rows, cols)."""
        return self.voxels.shape


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """Outlined structures on a scan's grid, one bool plane a label.

    A label that nobody annotated is not among `labels`; one that was looked for and not
    found is, with an empty plane.
    """

    planes: np.ndarray  # bool, (labels, rows, cols) or (labels, slices, rows, cols)
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises ValueError where planes and labels do not belong together."""
        if self.planes.dtype != np.bool_ or len(self.planes) != len(self.labels):
            raise ValueError(
                f"planes must be bool, one a label {self.labels}; "
                f"got {self.planes.dtype} of shape {self.planes.shape}"
            )

    def plane(self, label: str) -> np.ndarray | None:
        """Returns the bool plane of a label on the scan's grid; None if not annotated."""
        return self.planes[self.labels.index(label)] if label in self.labels else None
