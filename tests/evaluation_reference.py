"""What MONAI and scikit-learn say of masks made here; writes tests/evaluation_reference.json.

    pip install torch monai scikit-learn
    python tests/evaluation_reference.py

The tests hold our numbers to the stored ones, so that every machine checks them without a
gigabyte of PyTorch; where MONAI is installed, they ask it anew.
"""

import json
import math
import pathlib

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
        one, full = np.zeros(shape, bool), np.ones(shape, bool)
        one[tuple(side // 3 for side in shape)] = True
        corner = np.zeros(shape, bool)
        corner[(0,) * len(shape)] = True
        found += [
            (f"one voxel against another on {shape}", one, corner, spacing),
            (f"full against one voxel on {shape}", full, one, spacing),
            (f"full against full on {shape}", full, full, spacing),
            (f"boxes against full on {shape}", _boxes(rng, shape), full, spacing),
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
    """Returns MONAI's HD95, average surface distance and surface Dice."""
    import torch
    from monai import metrics

    y, y_pred = (torch.from_numpy(mask[None, None]) for mask in (truth, prediction))
    common = {"include_background": True, "spacing": list(spacing)}
    hd95 = metrics.compute_hausdorff_distance(y_pred, y, percentile=95, **common)
    assd = metrics.compute_average_surface_distance(y_pred, y, symmetric=True, **common)
    nsd = metrics.compute_surface_dice(y_pred, y, [TOLERANCE_MM], **common)
    return {"hd95": float(hd95), "assd": float(assd), "surface_dice": float(nsd)}


def overlaps(truth, prediction):
    """Returns scikit-learn's pixel metrics."""
    from sklearn import metrics

    a, b = truth.ravel(), prediction.ravel()
    options = {"zero_division": math.nan}
    return {
        "dice": float(metrics.f1_score(a, b, **options)),
        "iou": float(metrics.jaccard_score(a, b)),
        "accuracy": float(metrics.accuracy_score(a, b)),
        "sensitivity": float(metrics.recall_score(a, b, **options)),
        "specificity": float(metrics.recall_score(~a, ~b, **options)),
        "precision": float(metrics.precision_score(a, b, **options)),
        "f2": float(metrics.fbeta_score(a, b, beta=2, **options)),
        "balanced_accuracy": float(metrics.balanced_accuracy_score(a, b)),
    }


def certainties(truth, said):
    """Returns scikit-learn's log loss, Brier score and areas under curves."""
    from sklearn import metrics

    a, p = truth.ravel(), said.astype(np.float64).ravel()
    return {
        "loss": float(metrics.log_loss(a, p)),
        "brier": float(metrics.brier_score_loss(a, p)),
        "roc_auc": float(metrics.roc_auc_score(a, p)),
        "average_precision": float(metrics.average_precision_score(a, p)),
    }


def compute():
    """Returns every reference value by the name of its masks."""
    reference = {
        name: overlaps(truth, prediction) | boundaries(truth, prediction, spacing)
        for name, truth, prediction, spacing in pairs()
    }
    return reference | {name: certainties(truth, said) for name, truth, said in probabilities()}


def main():
    """Writes the stored values."""
    finite = {
        name: {k: None if math.isnan(v) else v for k, v in values.items()}
        for name, values in compute().items()
    }
    STORED.write_text(json.dumps(finite, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
