"""What is done to a mask after the threshold: components, holes, infection inside the lung.

Pixels that share a side belong together; in a volume, voxels that share a face. All of it is
whole-number arithmetic on the scan's own grid, the same for evaluation and for a client.
"""

from collections.abc import Sequence

import numpy as np

from data_pipeline.spec import Cleaning, InputSpec


def clean(planes: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Returns planes (labels, *grid) after each label's rule; as they are without rules.

    Args:
      planes: bool, (labels, rows, cols) or (labels, slices, rows, cols).
      spec: its labels and rules.
    """
    if not spec.cleaning:
        return planes
    cleaned: dict[str, np.ndarray] = dict(zip(spec.labels, planes, strict=True))
    for label in _containers_first(spec):
        rule = spec.cleaning[spec.labels.index(label)]
        within = cleaned[rule.inside] if rule.inside else None
        cleaned[label] = _one(cleaned[label], rule, within)
    return np.stack([cleaned[label] for label in spec.labels])


def _containers_first(spec: InputSpec) -> Sequence[str]:
    """Returns the labels so that what lies inside another comes after it."""
    inner = [label for label, rule in zip(spec.labels, spec.cleaning, strict=True) if rule.inside]
    return [label for label in spec.labels if label not in inner] + inner


def _one(plane: np.ndarray, rule: Cleaning, within: np.ndarray | None) -> np.ndarray:
    if within is not None:
        plane = plane & within
    if rule.fill_holes:
        plane = _filled(plane)
    if rule.smallest or rule.largest:
        plane = _components(plane, rule.smallest * plane.shape[-2] * plane.shape[-1], rule.largest)
    return plane


def _filled(plane: np.ndarray) -> np.ndarray:
    """Fills what cannot be left without crossing the mask; in a volume, slice by slice."""
    # Deferred, here and below: it is half of what a client would load.
    from scipy import ndimage

    if plane.ndim == 2:
        return np.asarray(ndimage.binary_fill_holes(plane))
    return np.stack([ndimage.binary_fill_holes(one) for one in plane])


def _components(plane: np.ndarray, smallest: float, largest: int) -> np.ndarray:
    """Keeps components of at least `smallest` pixels, and of these the `largest` first ones.

    Of two equally large ones the one that begins earlier in the array is kept.
    """
    from scipy import ndimage

    numbers, count = ndimage.label(plane)
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] >= smallest]
    if largest:
        order = order[:largest]
    kept = np.zeros(count + 1, np.bool_)
    kept[order + 1] = True
    return np.asarray(kept[numbers])
