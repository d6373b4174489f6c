"""Makes masks from what annotators store: class maps and polygons."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from data_pipeline import labels as known_labels
from data_pipeline.errors import InputError
from data_pipeline.scan import Mask


def from_class_map(
    values: np.ndarray, classes: Mapping[str, Sequence[int]], ignore: Iterable[int] = ()
) -> Mask:
    """Returns one plane a label from an image of class numbers, of which 0 is background.

    Args:
      values: whole numbers, (rows, cols) or (slices, rows, cols).
      classes: which numbers make up a label; one number may belong to several, as infection
        that lies inside the lung: {"lung": (1, 2, 3), "infection": (3,)}.
      ignore: numbers known to mean something else, such as pleural effusion.

    Raises:
      InputError: if a number occurs that is neither in a label nor to be ignored.
    """
    names = known_labels.parse(classes)
    known = {0, *ignore, *(number for name in names for number in classes[name])}
    unknown = sorted(set(distinct(values)) - known)
    if unknown:
        raise InputError(
            f"the class map holds {', '.join(map(str, unknown[:5]))}, which no label claims; "
            f"known: {', '.join(map(str, sorted(known)))}"
        )
    return Mask(np.stack([np.isin(values, classes[name]) for name in names]), names)


def distinct(values: np.ndarray) -> list[int]:
    """Returns the different numbers of a class map, ascending; a plane at a time, which is fast."""
    planes = values if values.ndim == 3 else values[None]
    found: set[int] = set()
    for plane in planes:
        found.update(np.unique(plane).tolist())
    return sorted(found)


def from_polygons(
    shape: tuple[int, int], polygons: Mapping[str, Sequence[Sequence[Sequence[float]]]]
) -> Mask:
    """Returns one plane a label: the pixels whose centre lies in one of the label's polygons.

    The origin is the upper left corner of the upper left pixel, so that the centre of pixel
    (row, col) is x = col + 0.5, y = row + 0.5. That is how LabelMe, COCO and V7 count. A
    centre on a left or top edge is inside, on a right or bottom edge outside: polygons that
    share an edge share no pixel. A polygon that crosses itself is filled by the even-odd rule.

    Args:
      shape: (rows, cols) of the image.
      polygons: label to polygons, each a list of corners (x, y) in pixels; they may reach
        beyond the image. A label with no polygon gets an empty plane: looked for, not found.

    Raises:
      InputError: if a polygon has fewer than 3 corners or a corner is not two finite numbers.
    """
    names = known_labels.parse(polygons)
    planes = np.zeros((len(names), *shape), np.bool_)
    for plane, name in zip(planes, names, strict=True):
        for polygon in polygons[name]:
            plane |= fill(shape, [polygon])
    return Mask(planes, names)


def fill(shape: tuple[int, int], rings: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
    """Returns the pixels that an odd number of rings encloses: bool (rows, cols).

    A ring inside another one is therefore a hole. Centres and edges as in `from_polygons`.
    """
    rows, cols = shape
    # Crossing an edge from left to right turns inside into outside and back.
    crossings = np.zeros((rows, cols + 1), np.int64)
    for ring in rings:
        corners = _corners(ring)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if y0 > y1:
                x0, y0, x1, y1 = x1, y1, x0, y0
            first, last = (int(np.clip(np.ceil(y - 0.5), 0, rows)) for y in (y0, y1))
            row = np.arange(first, last)
            x = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0 or 1.0)
            crossings[row, np.clip(np.ceil(x - 0.5), 0, cols).astype(np.int64)] += 1
    inside: np.ndarray = np.cumsum(crossings[:, :cols], axis=1) % 2 == 1
    return inside


def _corners(ring: Sequence[Sequence[float]]) -> np.ndarray:
    try:
        corners = np.asarray(ring, np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise InputError(f"a polygon needs three or more corners (x, y); got {str(ring)[:80]}")
    if not np.isfinite(corners).all():
        raise InputError(f"a corner of a polygon is not a finite number: {str(ring)[:80]}")
    return corners
