import numpy as np
import pytest

from training import thresholds
from training.temperature import Counts
from training.thresholds import CHOICES, Tally


def tally(patient, said, truth):
    return Tally.of(patient, Counts.of(np.array(said, np.float32), np.array(truth, np.bool_)))


def hesitant(number):
    """40 pixels at 0.4 of which 30 are foreground, 50 certain ones; a case's own few more."""
    said = [0.9] * 50 + [0.4] * 40 + [0.05] * 100
    truth = [True] * 50 + [True] * (30 + number) + [False] * (10 - number) + [False] * 100
    return tally(f"p{number}", said, truth)


def test_dice_at_each_threshold_is_that_of_the_mask_above_it():
    rng = np.random.default_rng(2)
    said = rng.random(4000).astype(np.float32)
    truth = rng.random(4000) < said
    found = tally("p", said, truth).dice(temperature=1.0)
    masks = [said > choice for choice in CHOICES]
    expected = [2 * (mask & truth).sum() / (mask.sum() + truth.sum()) for mask in masks]
    # Logits are counted in steps of 0.01: a pixel in 400 may lie on the other side.
    np.testing.assert_allclose(found, expected, atol=0.003)


def test_dice_is_of_the_answer_divided_by_its_temperature():
    # logit(0.1) / 2 = -ln 3, which is 0.25: above 0.21875 (7 / 32), below 0.28125 (9 / 32).
    found = dict(zip(CHOICES, tally("p", [0.1, 0.01], [True, False]).dice(2.0), strict=True))
    assert found[7 / 32] == 1
    assert found[9 / 32] == 0


def test_one_half_is_one_half():
    found = dict(zip(CHOICES, tally("p", [0.5, 0.501], [True, True]).dice(1.0), strict=True))
    assert found[0.5] == pytest.approx(2 / 3)  # one of two is above it


def test_a_case_with_nothing_to_find_counts_one_where_nothing_is_found():
    found = dict(zip(CHOICES, tally("p", [0.3], [False]).dice(1.0), strict=True))
    assert (found[0.25], found[0.5]) == (0, 1)


def test_a_lower_threshold_is_kept_where_it_raises_the_dice_of_every_patient():
    choice = thresholds.learn("infection", [hesitant(n) for n in range(8)])
    assert choice.kept
    assert choice.used == choice.threshold == 12 / 32  # the highest below 0.4
    # Case 0 at one half: 50 found of 80. Below 0.4: 90 found, 80 of them right.
    only = thresholds.learn("infection", [hesitant(0)])
    assert only.before == pytest.approx(2 * 50 / (50 + 80))
    assert only.after == pytest.approx(2 * 80 / (90 + 80))
    assert choice.p == pytest.approx(1 / 256)  # of 8 patients all better


def test_what_few_patients_say_is_left_out():
    # Five or more are needed: the smallest p of four is 1 / 16.
    choice = thresholds.learn("infection", [hesitant(n) for n in range(4)])
    assert not choice.kept
    assert choice.used == 0.5
    assert choice.after > choice.before


def test_slices_of_one_patient_are_one_witness():
    slices = [hesitant(n) for n in range(8)]
    one = [Tally("same", each.found, each.hit, each.truth) for each in slices]
    assert not thresholds.learn("infection", one).kept


def test_where_one_half_is_best_it_stays():
    sure = [
        tally(f"p{n}", [0.9] * (9 + n) + [0.1] * 10, [True] * (9 + n) + [False] * 10)
        for n in range(8)
    ]
    choice = thresholds.learn("lung", sure)
    assert choice.before == choice.after == 1
    assert choice.used == 0.5
