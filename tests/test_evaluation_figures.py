import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from evaluation import appearance, case_level, curves, figures, score, strata, summary
from models import calibration
from models.statistics import Estimate


def label_summary(model="m", dice=0.9, reliability=None):
    def of(value):
        mean = Estimate(value, value - 0.02, value + 0.02, 5, 5)
        return summary.MetricSummary(mean, value, 0.1, value, value, 0)

    return summary.LabelSummary(
        model=model, label="lung", modality="XR", cases=5, patients=5, unknown_patients=0, empty=0,
        metrics={"dice": of(dice), "accuracy": of(0.95), "loss": of(0.2)}, pooled={},
        reliability=reliability, pooled_ece=math.nan,
    )  # fmt: skip


def texts(figure):
    return " ".join(
        text.get_text() for text in figure.findobj(match=lambda a: hasattr(a, "get_text"))
    )


def draw(function, *arguments):
    with appearance.style():
        figure = function(*arguments)
        figure.canvas.draw()
    return figure


def test_the_comparison_shows_each_models_mean():
    figure = draw(figures.comparison, [label_summary("one", 0.9), label_summary("two", 0.7)])
    said = texts(figure)
    assert "0.900" in said
    assert "0.700" in said
    assert "lung: Dice" in said


def test_the_comparison_leaves_out_what_is_undefined():
    figure = draw(figures.comparison, [label_summary("one", math.nan), label_summary("two", 0.7)])
    assert "nan" not in texts(figure)


def scores_table(**columns):
    names = [field.name for field in dataclasses.fields(score.LabelScore)]
    length = len(next(iter(columns.values())))
    table = pd.DataFrame({name: [""] * length for name in names})
    return table.assign(model="m", label="lung", case_id=range(length), **columns)


def test_the_diagnosis_figure_carries_the_confounders_warning_in_itself():
    table = scores_table(
        dice=[0.9, 0.8, 0.7, 0.95],
        diagnosis=["COVID-19", "COVID-19", "normal", "viral"],
        dataset=["hannover_v7", "hannover_v7", "kermany_v7", "kermany_v7"],
    )
    said = texts(draw(figures.by_group, table, strata.STRATIFICATIONS[0])).replace("\n", " ")
    assert "CONFOUNDED" in said
    assert "children" in said
    assert "2 cases" in said


def test_divisions_with_one_group_are_not_drawn_but_for_the_diagnosis():
    table = scores_table(
        dice=[0.9, 0.8], dataset=["a", "b"], diagnosis=["normal", "normal"], view=["PA", "pa"],
        modality=["XR", "XR"], true_positive=[1, 1], false_negative=[0, 0], n_pixels=[9, 9],
    )  # fmt: skip
    drawn = [d.file for d in strata.STRATIFICATIONS if figures.worth_drawing(table, d)]
    assert drawn == ["diagnosis", "dataset"]


def test_curves_of_whole_cases_carry_the_confounders_warning():
    names = [field.name for field in dataclasses.fields(score.CaseScore)]
    table = pd.DataFrame({name: [""] * 4 for name in names}).assign(
        model="m", modality="XR", case_id=list("abcd"), infection_share=[5.0, 1.0, 0.2, 0.0],
        true_share_of_lung=math.nan, share_of_lung=math.nan, share_error=math.nan,
        diagnosis=["COVID-19", "COVID-19", "viral", "normal"],
        dataset=["hannover_v7", "hannover_v7", "kermany_v7", "kermany_v7"],
    )  # fmt: skip
    questions = list(case_level.summarise(table, table["case_id"].to_numpy(object)))
    figure = draw(figures.whole_cases, questions)
    said = texts(figure)
    assert "COVID-19 against all others (XR, 2 yes, 2 no)" in said
    assert "CONFOUNDED" in said
    assert "m 1.00" in said


def test_infected_shares_are_drawn_with_their_bias():
    names = [field.name for field in dataclasses.fields(score.CaseScore)]
    table = pd.DataFrame({name: [""] * 3 for name in names}).assign(
        model="m", true_share_of_lung=[10.0, 20.0, 30.0], share_of_lung=[12.0, 22.0, 32.0]
    )
    table["share_error"] = table["share_of_lung"] - table["true_share_of_lung"]
    assert "bias +2.0 points" in texts(draw(figures.bland_altman, table))


def test_a_calibrated_model_lies_on_the_diagonal():
    said = np.repeat([0.1, 0.5, 0.9], 10)
    truth = np.array([True] * 1 + [False] * 9 + [True] * 5 + [False] * 5 + [True] * 9 + [False] * 1)
    bins = calibration.reliability(truth, said)
    figure = draw(figures.reliability, [label_summary(reliability=bins)])
    line = figure.axes[0].lines[1]
    assert line.get_xdata() == pytest.approx(line.get_ydata())


def test_training_curves_are_read_and_drawn(tmp_path):
    epochs = pd.DataFrame(
        {"epoch": [0, 1], "loss": [1.0, 0.5], "val_loss": [1.1, 0.7], "val_dice_lung": [0.5, 0.8]}
    )
    figure = draw(curves.draw, [curves.Curve("unet", epochs)])
    loss, dice = figure.axes
    assert [list(line.get_ydata()) for line in loss.lines[:2]] == [[1.0, 0.5], [1.1, 0.7]]
    assert list(dice.lines[0].get_ydata()) == [0.5, 0.8]


def test_a_figure_on_a_page_names_its_parts_and_no_date():
    text = figures.svg(lambda: figures.comparison([label_summary()]))
    assert text.startswith("<svg")
    assert "<dc:date>" not in text
    assert text == figures.svg(lambda: figures.comparison([label_summary()]))
