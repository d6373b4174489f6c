import dataclasses
import math
import pathlib

import numpy as np
import pytest

from data_pipeline.cases import Case
from data_pipeline.scan import Mask
from evaluation import score

CASE = Case("c1", "XR", pathlib.Path("c1.png"), dataset="d", diagnosis="COVID-19", patient_id="p")

# What others read: the hidden checks and the docs name these columns in this order.
CONTRACT = (
    "model, case_id, patient_id, dataset, modality, diagnosis, label, n_pixels, dice, iou, "
    "accuracy, loss, sensitivity, specificity, precision, hd95_px"
).split(", ")


def planes(**by_label):
    return Mask(np.array(list(by_label.values()), bool), tuple(by_label))


def answer(mask, spacing_mm=None):
    return score.Answer(mask, mask.planes.astype(np.float32), spacing_mm)


def test_the_first_columns_are_those_that_others_read():
    names = [field.name for field in dataclasses.fields(score.LabelScore)]
    assert names[: len(CONTRACT)] == CONTRACT


def test_a_label_that_nobody_annotated_has_no_row():
    truth = planes(lung=[[1, 1, 0, 0]])
    said = planes(lung=[[1, 0, 0, 0]], infection=[[1, 0, 0, 0]])
    rows = score.label_scores("m", CASE, truth, answer(said))
    assert [row.label for row, _ in rows] == ["lung"]
    assert rows[0][0].dice == pytest.approx(2 / 3)
    assert rows[0][0].n_pixels == 4


def test_a_label_annotated_as_empty_has_a_row_with_what_was_invented():
    rows = score.label_scores(
        "m", CASE, planes(infection=[[0, 0, 0, 0]]), answer(planes(infection=[[1, 1, 0, 0]]))
    )
    row, _ = rows[0]
    assert row.dice == 0.0
    assert row.false_positive_size == 2
    assert row.size_unit == "px"


def test_sizes_are_in_square_millimetres_or_millilitres_where_the_spacing_is_known():
    truth, said = planes(lung=[[1, 1, 1, 0]]), planes(lung=[[1, 0, 0, 0]])
    row, _ = score.label_scores("m", CASE, truth, answer(said, (2.0, 0.5)))[0]
    assert (row.size_unit, row.true_size, row.predicted_size) == ("mm2", 3.0, 1.0)
    assert row.size_error == -2.0
    assert math.isnan(row.false_positive_size)
    deep = planes(lung=[[[1, 1, 1, 0]]])
    row, _ = score.label_scores("m", CASE, deep, answer(deep, (10.0, 10.0, 5.0)))[0]
    assert (row.size_unit, row.true_size) == ("ml", 1.5)


def test_millimetre_distances_are_empty_without_a_spacing():
    truth = planes(lung=[[1, 0, 0, 0]])
    said = answer(planes(lung=[[0, 0, 1, 0]]))
    row, _ = score.label_scores("m", CASE, truth, said)[0]
    assert row.hd95_px == 2.0
    assert math.isnan(row.hd95_mm)
    assert math.isnan(row.assd_mm)
    assert math.isnan(row.surface_dice)


def test_masks_without_probabilities_have_no_loss_and_no_calibration():
    mask = planes(lung=[[1, 0, 0, 0]])
    row, bins = score.label_scores("m", CASE, mask, score.Answer(mask, None))[0]
    assert row.dice == 1.0
    assert math.isnan(row.loss)
    assert math.isnan(row.ece)
    assert math.isnan(row.brier)
    assert bins is None


def test_infected_share_is_of_the_lung_and_ignores_infection_outside_it():
    truth = planes(lung=[[1, 1, 1, 1, 0]], infection=[[1, 0, 0, 0, 0]])
    said = planes(lung=[[1, 1, 0, 0, 0]], infection=[[1, 0, 0, 0, 1]])
    row = score.case_score("m", CASE, truth, answer(said))
    assert row.true_share_of_lung == 25.0
    assert row.share_of_lung == 50.0
    assert row.share_error == 25.0
    assert row.infection_share == 40.0
    assert row.true_infection == "yes"


def test_a_case_without_infection_mask_is_neither_infected_nor_not():
    lung = planes(lung=[[1, 1]])
    row = score.case_score("m", CASE, lung, answer(lung))
    assert row.true_infection == ""
    assert math.isnan(row.share_error)
