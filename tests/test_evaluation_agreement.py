"""Our metrics against independent implementations, each asked here and now.

Pixel metrics, loss and areas under curves: scikit-learn. Outlines and distances: SimpleITK (its
contours and distance maps) and scikit-image. All boundary metrics: MONAI, whose answers are
stored (evaluation_reference.py wrote them); where the extra `rivals` is installed, it is asked.
"""

import json
import math

import evaluation_reference as reference
import numpy as np
import pytest
import SimpleITK as sitk
import skimage.metrics
from sklearn import metrics as judge

from evaluation import areas, boundary, metrics
from models import calibration

STORED = json.loads(reference.STORED.read_text(encoding="utf-8"))
PAIRS = {name: rest for name, *rest in reference.pairs()}
OUTLINED = {name: rest for name, rest in PAIRS.items() if rest[0].any() and rest[1].any()}
PROBABILITIES = {name: rest for name, *rest in reference.probabilities()}


def agrees(ours, theirs):
    if theirs is None or math.isnan(theirs):
        return math.isnan(ours)
    # Relative as well, since MONAI and ITK count in single precision.
    return ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)


def boundaries(between):
    return {
        "hd95": boundary.hd95(between),
        "assd": boundary.average_surface_distance(between),
        "surface_dice": boundary.surface_dice(between, reference.TOLERANCE_MM),
    }


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize("name", PAIRS)
def test_overlap_agrees_with_scikit_learn(name):
    truth, prediction, _ = PAIRS[name]
    a, b = truth.ravel(), prediction.ravel()
    nan = {"zero_division": math.nan}
    # Its Jaccard score of nothing can only be called 0 or 1.
    iou = judge.jaccard_score(a, b) if (a | b).any() else math.nan
    counts = metrics.count(truth, prediction)
    assert agrees(metrics.dice(counts), judge.f1_score(a, b, **nan))
    assert agrees(metrics.iou(counts), iou)
    assert agrees(metrics.accuracy(counts), judge.accuracy_score(a, b))
    assert agrees(metrics.sensitivity(counts), judge.recall_score(a, b, **nan))
    assert agrees(metrics.specificity(counts), judge.recall_score(~a, ~b, **nan))
    assert agrees(metrics.precision(counts), judge.precision_score(a, b, **nan))
    assert agrees(metrics.f_beta(counts), judge.fbeta_score(a, b, beta=2, **nan))
    assert agrees(metrics.f_beta(counts, 0.5), judge.fbeta_score(a, b, beta=0.5, **nan))
    assert agrees(metrics.balanced_accuracy(counts), judge.balanced_accuracy_score(a, b))


def test_the_stored_values_are_of_the_masks_that_are_made_here():
    assert set(STORED) == set(PAIRS)


@pytest.mark.parametrize("name", OUTLINED)
def test_boundary_metrics_agree_with_monai(name):
    for metric, value in boundaries(boundary.distances(*PAIRS[name])).items():
        assert agrees(value, STORED[name][metric]), metric


@pytest.mark.parametrize("name", [name for name in PAIRS if name not in OUTLINED])
def test_where_a_mask_is_empty_monai_has_no_distance_and_we_take_the_grids_diagonal(name):
    truth, prediction, spacing = PAIRS[name]
    found = boundaries(boundary.distances(truth, prediction, spacing))
    assert (STORED[name]["hd95"], STORED[name]["assd"]) == (None, None)
    assert agrees(found["surface_dice"], STORED[name]["surface_dice"])
    diagonal = math.hypot(
        *((side - 1) * step for side, step in zip(truth.shape, spacing, strict=True))
    )
    far = diagonal if truth.any() or prediction.any() else math.nan
    assert agrees(found["hd95"], far)
    assert agrees(found["assd"], far)


@pytest.mark.parametrize("name", OUTLINED)
def test_boundary_metrics_agree_with_itks_contours_and_distance_maps(name):
    truth, prediction, spacing = PAIRS[name]
    # Padded, since ITK counts what lies beyond the grid as more of the same.
    outlines = [
        sitk.BinaryContour(sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8)), False)
        for mask in (truth, prediction)
    ]
    for outline in outlines:
        outline.SetSpacing(spacing[::-1])
    there = [sitk.GetArrayFromImage(outline).astype(bool) for outline in outlines]
    squared = [
        sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(outline, False, True, True))
        for outline in outlines
    ]
    # Rounded, since its squares of nothing are up to 1e-12.
    ways = [np.sqrt(np.abs(squared[1 - i][there[i]].astype(np.float64)).round(9)) for i in (0, 1)]
    both = np.concatenate(ways)
    theirs = {
        "hd95": max(np.percentile(way, 95) for way in ways),
        "assd": both.mean(),
        "surface_dice": (both <= reference.TOLERANCE_MM).mean(),
    }
    for metric, value in boundaries(boundary.distances(truth, prediction, spacing)).items():
        assert agrees(value, theirs[metric]), metric


@pytest.mark.parametrize("name", OUTLINED)
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
    assert agrees(metrics.loss(truth, said), judge.log_loss(flat, scores))
    assert agrees(calibration.brier(truth, said), judge.brier_score_loss(flat, scores))


@pytest.mark.parametrize("name", PROBABILITIES)
def test_areas_under_curves_agree_with_scikit_learn_for_any_weights(name):
    truth, said = PROBABILITIES[name]
    # Rounded, so that many scores are equal; weights as the bootstrap draws them.
    flat, scores = truth.ravel(), said.astype(np.float64).ravel().round(1)
    weights = np.random.default_rng(3).integers(0, 3, (4, flat.size)).astype(np.float64)
    weights[0] = 1
    roc, pr = areas.areas(flat, scores, weights)
    for row, ours, average in zip(weights, roc, pr, strict=True):
        assert agrees(ours, judge.roc_auc_score(flat, scores, sample_weight=row))
        assert agrees(average, judge.average_precision_score(flat, scores, sample_weight=row))


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
    pytest.importorskip("monai", reason="needs: pip install --editable '.[rivals]'")
    for name, masks in PAIRS.items():
        asked = reference.boundaries(*masks)
        for metric, value in asked.items():
            stored = STORED[name][metric]
            assert value == (None if stored is None else pytest.approx(stored, rel=1e-6)), name
