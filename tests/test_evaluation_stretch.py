import math

import numpy as np
import pandas as pd
import pytest

from evaluation import stretch


def box(rows, cols, shape=(12, 12)):
    mask = np.zeros(shape, bool)
    mask[1 : 1 + rows, 2 : 2 + cols] = True
    return mask


def test_a_mask_twice_as_wide_has_about_twice_the_proportions():
    # Coordinates 0 to n - 1 have the variance (n * n - 1) / 12: 63 / 12 of 8 columns, 15 / 12 of 4.
    assert stretch.of(box(4, 8), box(4, 4)) == pytest.approx(math.sqrt(63 / 15))
    assert stretch.of(box(8, 4), box(4, 4)) == pytest.approx(math.sqrt(15 / 63))


def test_what_is_larger_all_round_or_elsewhere_is_not_stretched():
    assert stretch.of(box(8, 8), box(4, 4)) == pytest.approx(1.0)
    assert stretch.of(np.roll(box(4, 4), 5, axis=1), box(4, 4)) == pytest.approx(1.0)


def test_slices_of_a_volume_count_together():
    wide, narrow = np.stack([box(4, 8)] * 3), np.stack([box(4, 4)] * 3)
    assert stretch.of(wide, narrow) == pytest.approx(math.sqrt(63 / 15))


@pytest.mark.parametrize("other", [box(0, 0), box(1, 4), box(4, 1)])
def test_an_empty_mask_or_a_line_has_no_proportions(other):
    assert math.isnan(stretch.of(other, box(4, 4)))
    assert math.isnan(stretch.of(box(4, 4), other))


def told_of(rows):
    return list(stretch.suspicions(rows, rows["case_id"].to_numpy()))


def scores(stretches, dice=0.9):
    return pd.DataFrame(
        {"model": "unet", "dataset": "d", "label": "lung", "dice": dice, "stretch": stretches}
    ).assign(case_id=[f"c{n}" for n in range(len(stretches))])


def test_a_data_set_whose_masks_are_too_wide_is_told_of():
    (told,) = told_of(scores([1.2, 1.15, 1.11, 1.2, 0.99] + [1.12] * 15))
    assert told.startswith("STRETCHED? d: for their height, annotated lung masks are wider than")
    assert "unet outlines (19 of 20 patients; median 1.12 times)" in told
    (told,) = told_of(scores([0.8] * 12))
    assert "narrower" in told
    assert "(12 of 12 patients; median 0.80 times)" in told


@pytest.mark.parametrize(
    "rows",
    [
        scores([1.09] * 20),  # all on one side, but by little
        scores([1.2] * 11 + [0.8] * 9),  # far from 1, on either side
        scores([1.2] * 9),  # 1 in 256 by chance
        scores([1.2] * 20, dice=0.6),  # not of one shape
        scores([math.nan] * 20),
    ],
)
def test_what_may_be_chance_or_says_nothing_is_not_told(rows):
    assert not told_of(rows)


def test_slices_of_few_patients_prove_nothing():
    rows = scores([1.2] * 30)
    assert told_of(rows)
    assert not list(stretch.suspicions(rows, np.repeat(["a", "b", "c"], 10)))
