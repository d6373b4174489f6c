import math

import numpy as np
import pytest

from evaluation import boundary


def draw(*rows):
    return np.array([[sign == "#" for sign in row] for row in rows])


def one(shape, *at):
    mask = np.zeros(shape, bool)
    mask[at] = True
    return mask


def test_the_outline_leaves_out_pixels_with_four_neighbours_inside():
    mask = np.zeros((5, 6), bool)
    mask[1:4, 1:5] = True
    outline = {tuple(point) for point in boundary.outline(mask)}
    assert len(outline) == 10
    assert (2, 2) not in outline
    assert (1, 1) in outline


def test_a_mask_that_touches_the_border_has_its_outline_there():
    assert len(boundary.outline(np.ones((3, 4), bool))) == 10


def test_distance_of_two_pixels_is_in_the_unit_of_the_spacing():
    truth, prediction = one((9, 9), 1, 1), one((9, 9), 4, 5)
    assert boundary.hd95(boundary.distances(truth, prediction)) == 5.0
    between = boundary.distances(truth, prediction, (2.0, 0.5))
    assert boundary.hd95(between) == pytest.approx(math.hypot(3 * 2.0, 4 * 0.5))


def test_distance_in_a_volume_uses_all_three_spacings():
    between = boundary.distances(one((3, 9, 9), 0, 1, 1), one((3, 9, 9), 1, 3, 4), (5.0, 1.5, 1.0))
    assert boundary.average_surface_distance(between) == pytest.approx(math.sqrt(25 + 9 + 9))


def test_hausdorff_takes_the_worse_direction_and_forgets_its_worst_five_percent():
    truth = draw("#" * 100 + ".")
    prediction = draw("#" * 80 + "." * 21)
    between = boundary.distances(truth, prediction)
    # Of 100 true pixels 80 lie at 0 and 20 at 1..20; position 0.95 * 99 = 94.05 is 15.05.
    assert boundary.hd95(between) == pytest.approx(15.05)
    assert boundary.average_surface_distance(between) == pytest.approx(210 / 180)


def test_surface_dice_counts_what_lies_within_the_tolerance_of_both_outlines():
    truth, prediction = draw("###......"), draw("#####....")
    between = boundary.distances(truth, prediction)
    assert boundary.surface_dice(between, tolerance=1.0) == pytest.approx(7 / 8)
    assert boundary.surface_dice(between, tolerance=2.0) == 1.0


def test_a_missing_mask_is_as_far_away_as_the_grid_allows():
    empty, there = np.zeros((4, 5), bool), one((4, 5), 2, 2)
    for pair in ((empty, there), (there, empty)):
        between = boundary.distances(*pair)
        assert boundary.hd95(between) == boundary.average_surface_distance(between) == 5.0
        assert boundary.surface_dice(between) == 0.0


def test_two_empty_masks_have_no_distance():
    between = boundary.distances(np.zeros((4, 5), bool), np.zeros((4, 5), bool))
    assert math.isnan(boundary.hd95(between))
    assert math.isnan(boundary.average_surface_distance(between))
    assert math.isnan(boundary.surface_dice(between))


def test_equal_masks_are_at_distance_zero():
    mask = one((7, 7), 3, 3) | one((7, 7), 0, 6)
    between = boundary.distances(mask, mask)
    assert boundary.hd95(between) == 0.0
    assert boundary.surface_dice(between, tolerance=0.0) == 1.0
