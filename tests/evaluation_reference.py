"""What MONAI says of masks made here; writes tests/evaluation_reference.json.

    pip install --editable '.[rivals]'
    python tests/evaluation_reference.py

The tests hold our distances to the stored ones, so that every machine checks them without a
gigabyte of PyTorch; where MONAI is installed, they ask it anew.
"""

import json
import math
import pathlib
import warnings

import numpy as np

STORED = pathlib.Path(__file__).with_suffix(".json")
TOLERANCE_MM = 2.0


def pairs():
    """Returns name, truth, prediction and spacing of random masks and of edge cases."""
    found = []
    rng = np.random.default_rng(2024)
    grids = [((17, 23), (0.7, 1.9)), ((40, 31), (1.0, 1.0)), ((6, 14, 11), (5.0, 0.8, 1.3))]
    for shape, spacing in grids:
        for number in range(6):
            truth, prediction = _boxes(rng, shape), _boxes(rng, shape)
            found.append((f"boxes {number} on {shape}", truth, prediction, spacing))
        speckles = [rng.random(shape) < 0.2 for _ in range(2)]
        found.append((f"speckles on {shape}", *speckles, spacing))
        empty, one, full = np.zeros(shape, bool), np.zeros(shape, bool), np.ones(shape, bool)
        one[tuple(side // 3 for side in shape)] = True
        corner = np.zeros(shape, bool)
        corner[(0,) * len(shape)] = True
        found += [
            (f"one voxel against another on {shape}", one, corner, spacing),
            (f"full against one voxel on {shape}", full, one, spacing),
            (f"full against full on {shape}", full, full, spacing),
            (f"boxes against full on {shape}", _boxes(rng, shape), full, spacing),
            (f"empty against empty on {shape}", empty, empty, spacing),
            (f"empty against one voxel on {shape}", empty, one, spacing),
            (f"full against empty on {shape}", full, empty, spacing),
        ]
    return found


def probabilities():
    """Returns name, truth and probability of a few pixel sets."""
    rng = np.random.default_rng(7)
    found = []
    for number, share in enumerate((0.05, 0.3, 0.9)):
        truth = rng.random((20, 30)) < share
        said = np.clip(0.6 * truth + 0.3 * rng.random(truth.shape) + 0.05, 0, 1)
        found.append((f"probabilities {number}", truth, said.astype(np.float32)))
    return found


def _boxes(rng, shape):
    """Returns a union of three random boxes, some of which touch the border."""
    mask = np.zeros(shape, bool)
    for _ in range(3):
        low = [rng.integers(0, side) for side in shape]
        size = [rng.integers(2, max(3, side // 2)) for side in shape]
        mask[tuple(slice(a, a + b) for a, b in zip(low, size, strict=True))] = True
    return mask


def boundaries(truth, prediction, spacing):
    """Returns MONAI's HD95, average surface distance and surface Dice; None where not finite."""
    import torch
    from monai import metrics

    y, y_pred = (torch.from_numpy(mask[None, None]) for mask in (truth, prediction))
    common = {"include_background": True, "spacing": list(spacing)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of empty masks, which are asked on purpose
        hd95 = metrics.compute_hausdorff_distance(y_pred, y, percentile=95, **common)
        assd = metrics.compute_average_surface_distance(y_pred, y, symmetric=True, **common)
        nsd = metrics.compute_surface_dice(y_pred, y, [TOLERANCE_MM], **common)
    found = {"hd95": float(hd95), "assd": float(assd), "surface_dice": float(nsd)}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def main():
    """Writes the stored values."""
    said = {name: boundaries(*masks) for name, *masks in pairs()}
    STORED.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
