"""Our metrics against independent implementations: MONAI, scikit-learn, scikit-image.

The values of MONAI and scikit-learn are stored (evaluation_reference.py wrote them); where
MONAI is installed, it is asked as well.
"""

import json
import math

import evaluation_reference as reference
import numpy as np
import pytest
import skimage.metrics

from evaluation import boundary, calibration, case_level, metrics

STORED = json.loads(reference.STORED.read_text(encoding="utf-8"))
PAIRS = {name: rest for name, *rest in reference.pairs()}
PROBABILITIES = {name: rest for name, *rest in reference.probabilities()}

OVERLAPS = {
    "dice": metrics.dice,
    "iou": metrics.iou,
    "accuracy": metrics.accuracy,
    "sensitivity": metrics.sensitivity,
    "specificity": metrics.specificity,
    "precision": metrics.precision,
    "f2": metrics.f_beta,
    "balanced_accuracy": metrics.balanced_accuracy,
}


def agrees(ours, theirs):
    if theirs is None:
        return math.isnan(ours)
    # Relative as well, since MONAI counts in single precision.
    return ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)


def ours(truth, prediction, spacing):
    between = boundary.distances(truth, prediction, spacing)
    return {
        "hd95": boundary.hd95(between),
        "assd": boundary.average_surface_distance(between),
        "surface_dice": boundary.surface_dice(between, reference.TOLERANCE_MM),
    }


def test_the_stored_values_are_of_the_masks_that_are_made_here():
    assert set(STORED) == {*PAIRS, *PROBABILITIES}


@pytest.mark.parametrize("name", PAIRS)
def test_overlap_agrees_with_scikit_learn(name):
    truth, prediction, _ = PAIRS[name]
    counts = metrics.count(truth, prediction)
    for metric, function in OVERLAPS.items():
        assert agrees(function(counts), STORED[name][metric]), metric


@pytest.mark.parametrize("name", PAIRS)
def test_boundary_distances_agree_with_monai(name):
    for metric, value in ours(*PAIRS[name]).items():
        assert agrees(value, STORED[name][metric]), metric


@pytest.mark.parametrize("name", PAIRS)
def test_the_largest_distance_is_scikit_images_hausdorff_distance(name):
    truth, prediction, _ = PAIRS[name]
    between = boundary.distances(truth, prediction)
    outlines = []
    for mask in (truth, prediction):
        image = np.zeros(mask.shape, bool)
        image[tuple(boundary.outline(mask).T)] = True
        outlines.append(image)
    largest = max(between.from_truth.max(), between.from_prediction.max())
    assert largest == pytest.approx(skimage.metrics.hausdorff_distance(*outlines), abs=1e-9)


@pytest.mark.parametrize("name", PROBABILITIES)
def test_probabilities_are_judged_as_scikit_learn_does(name):
    truth, said = PROBABILITIES[name]
    flat, scores = truth.ravel(), said.astype(np.float64).ravel()
    found = {
        "loss": metrics.loss(truth, said),
        "brier": calibration.brier(truth, said),
        "roc_auc": case_level.roc_auc(flat, scores),
        "average_precision": case_level.average_precision(flat, scores),
    }
    for metric, value in found.items():
        assert agrees(value, STORED[name][metric]), metric


@pytest.mark.parametrize("name", PROBABILITIES)
def test_calibration_error_is_that_of_a_loop_over_the_bins(name):
    truth, said = (array.ravel() for array in PROBABILITIES[name])
    error = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = (said >= low) & ((said < high) | (number == 14))
        if inside.any():
            gap = abs(truth[inside].mean() - said[inside].mean(dtype=np.float64))
            error += inside.mean() * gap
    found = calibration.reliability(truth, said).expected_error
    assert found == pytest.approx(error, abs=1e-6)


def test_monai_says_today_what_is_stored():
    pytest.importorskip("monai", reason="needs: pip install torch monai")
    for name, (truth, prediction, spacing) in PAIRS.items():
        asked = reference.boundaries(truth, prediction, spacing)
        assert all(agrees(asked[metric], STORED[name][metric]) for metric in asked), name
