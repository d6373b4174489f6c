import math

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import plugin_data_pb2

from data_pipeline import cases, phantom, raster
from evaluation import gallery, hparams, pictures, run, scoring, tables
from models.statistics import Estimate


def test_numbers_are_for_reading():
    assert tables.number(math.nan) == "-"
    assert tables.with_interval(Estimate(0.9514, 0.94, 0.96, 9, 9)) == "0.951 (0.940-0.960)"
    assert tables.with_interval(Estimate(-0.1, -0.2, 0.1, 9, 9)) == "-0.100 (-0.200 to 0.100)"
    assert tables.with_interval(Estimate(0.5, math.nan, math.nan, 1, 1)) == "0.500"
    assert [tables.p_value(p) for p in (0.0004, 0.0314, math.nan)] == ["< 0.001", "0.031", "-"]


def test_an_interval_is_read_from_json_where_null_is_none():
    dice = {"value": 0.951, "low": 0.94, "high": 0.96, "cases": 9}
    assert tables.with_stored_interval(dice) == "0.951 (0.940-0.960)"
    assert tables.with_stored_interval(dice | {"low": None, "high": None}) == "0.951"
    assert tables.with_stored_interval({"value": None, "low": None, "high": None}) == "-"


def test_markdown_and_latex_hold_the_same_cells():
    header, body = ("Model", "Dice"), [("a_b", "0.9"), ("c", "95 %")]
    assert tables.markdown(header, body).splitlines() == [
        "| Model | Dice |", "| :--- | ---: |", "| a_b | 0.9 |", "| c | 95 % |",
    ]  # fmt: skip
    latex = tables.latex(header, body)
    assert r"a\_b & 0.9 \\" in latex
    assert r"95 \%" in latex
    assert r"\begin{tabular}{lr}" in latex


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    manifest = phantom.write_manifest(folder / "data", count=5)
    flags = ["--data", str(manifest), "--split", "all", "--out", str(folder / "out")]
    run.main(["threshold", *flags, "--save-masks"])
    return folder


def test_every_format_of_the_table_is_written(results):
    out = results / "out"
    assert (out / "table.md").read_text().startswith("| Model | Label | Accuracy |")
    assert "threshold & lung &" in (out / "table.tex").read_text()
    lines = (out / "table.csv").read_text().splitlines()
    assert lines[0].startswith("model,label,metric,over,value,low,high,median")
    assert sum(line.startswith("threshold,lung,dice,") for line in lines) == 2


def test_tensorboard_gets_settings_and_means(results):
    files = list((results / "out" / "tensorboard" / "threshold").iterdir())
    events = [
        tf.compat.v1.Event.FromString(record.numpy())
        for record in tf.data.TFRecordDataset([str(f) for f in files])
    ]
    values = {v.tag: v for event in events for v in event.summary.value}
    assert 0 < tf.make_ndarray(values["lung/dice"].tensor) <= 1
    plain = next(
        v.metadata.plugin_data.content
        for v in values.values()
        if v.metadata.plugin_data.plugin_name == "hparams" and "start" in v.tag
    )
    started = plugin_data_pb2.HParamsPluginData.FromString(plain).session_start_info
    assert started.hparams["kind"].string_value == "classical"


def test_settings_for_tensorboard_are_single_values():
    class Told:
        name = "unet"

        def describe(self):
            return {"kind": "run", "config": {"seed": 1, "spec": {"a": 1}, "minutes": None}}

    assert hparams.settings(Told()) == {"model": "unet", "kind": "run", "seed": 1}


def test_best_median_and_worst_are_what_they_say(results):
    scores = pd.DataFrame(
        {"model": "m", "label": "lung", "case_id": list("abcde"), "dice": [0.5, 0.9, 0.7, 0.1, 0.8]}
    )
    places = {pick.place: pick.case_id for pick in gallery.picks(scores)}
    assert places == {"best": "b", "median": "c", "worst": "d"}
    undefined = scores.assign(dice=math.nan)
    assert gallery.picks(undefined) == []


def test_an_overlay_has_both_outlines_in_their_colours(results):
    scan, mask = phantom.xray(1)
    lung = mask.plane("lung")
    image = gallery.overlay(scan, lung, np.roll(lung, 5, axis=0))
    assert image.dtype == np.uint8
    assert max(image.shape[:2]) == gallery.SIDE
    red, _, blue = np.moveaxis(image.astype(int), -1, 0)
    blueish, orange = (blue - red) > 120, (red - blue) > 120
    assert blueish.sum() > 500
    assert orange.sum() > 500
    assert not (blueish & orange).any()
    alone = gallery.overlay(scan, lung, None).astype(int)
    assert ((alone[..., 0] - alone[..., 2]) <= 0).all()


def test_an_outline_as_a_path_encloses_the_mask():
    mask = np.zeros((10, 12), bool)
    mask[2:6, 3:9] = True
    assert pictures.path_of(mask, (10, 12)) == "M3.5 2.5L3.5 5.5L8.5 5.5L8.5 2.5Z"
    assert pictures.path_of(np.zeros((10, 12), bool), (10, 12)) == ""


def test_a_mask_comes_back_as_it_was_saved(tmp_path, results):
    case = cases.load(results / "data")[0]
    for shape in ((9, 7), (4, 9, 7)):
        plane = np.random.default_rng(0).random(shape) < 0.5
        scoring.save_mask(tmp_path, case, scoring.Mask(plane[None], ("lung",)))
        assert np.array_equal(scoring.load_mask(tmp_path, case.id, "lung"), plane)
        for file in tmp_path.iterdir():
            file.unlink()
    assert scoring.load_mask(tmp_path, case.id, "lung") is None


def test_the_gallery_is_a_picture(results):
    sheet = raster.read(results / "out" / "figures" / "gallery.png")
    assert sheet.shape[1] == 3 * (gallery.SIDE + 8)
