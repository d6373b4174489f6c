import dataclasses
import json

import numpy as np
import pytest
import tiny_network
from rich import console as rich_console

from data_pipeline.errors import InputError
from serving import export, formats, golden, parity
from serving.parity import Golden


def cases():
    spec = tiny_network.XRAY
    return [Golden(number + 1, *golden.phantom_of(spec, number)) for number in range(2)]


def proof(folder):
    return json.loads((folder / "assets.extra" / "parity.json").read_text())


def quiet():
    return rich_console.Console(quiet=True)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_another_runtime_gives_the_masks_of_the_trained_network(name, tmp_path):
    calibrated = dataclasses.replace(
        tiny_network.XRAY, temperatures=((1.3,) * len(tiny_network.XRAY.labels),)
    )
    network = tiny_network.build(calibrated)
    predict = formats.load(name, formats.write(name, network, tmp_path))
    tiles = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 1)).astype(np.float32)
    np.testing.assert_allclose(predict(tiles), network.predict(tiles), atol=1e-5)


def test_a_format_whose_converter_is_missing_says_what_to_install(tmp_path, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'tf2onnx'", name="tf2onnx")

    monkeypatch.setitem(formats.FORMATS, "onnx", formats.Format("model.onnx", missing, missing))
    with pytest.raises(InputError, match=r"--also onnx needs tf2onnx: pip install .*\[formats\]"):
        formats.write("onnx", tiny_network.build(), tmp_path)
    with pytest.raises(InputError, match="needs tf2onnx"):
        formats.load("onnx", tmp_path / "model.onnx")


def probabilities(*pixels):
    return [np.array(pixels, np.float32).reshape(1, 1, -1)]


LUNG = dataclasses.replace(tiny_network.XRAY, labels=("lung",))


def one_case():
    return cases()[:1]


def test_masks_that_are_close_are_described_by_how_far_they_are_off():
    standard = probabilities(*[0.9] * 1000, *[0.1] * 1000)
    found = [standard[0].copy()]
    found[0][0, 0, 0] = 0.4
    told = parity.compare_closely("onnx", standard, found, one_case(), LUNG)
    assert not told["masks_equal"]
    assert told["pixels_that_differ"] == [1]
    assert told["smallest_dice"] == 2 * 999 / 1999
    assert told["largest_probability_difference"] == pytest.approx(0.5)
    same = parity.compare_closely("onnx", standard, standard, one_case(), LUNG)
    assert same["masks_equal"]
    assert same["smallest_dice"] == 1


@pytest.mark.parametrize(
    ("wrong", "of"), [(2, 1000), (1, 100), (3, 100000)], ids=["share", "Dice", "a small mask"]
)
def test_masks_that_are_further_off_are_not_exported(wrong, of):
    foreground = 100 if of == 100000 else of // 2
    standard = probabilities(*[0.9] * foreground, *[0.1] * (of - foreground))
    found = [standard[0].copy()]
    found[0][0, 0, :wrong] = 0.1
    with pytest.raises(parity.NotProven, match=rf"onnx differs in {wrong} of {of} pixels"):
        parity.compare_closely("onnx", standard, found, one_case(), LUNG)


def test_probabilities_that_are_no_numbers_are_not_exported():
    standard = probabilities(0.1, 0.2)
    with pytest.raises(parity.NotProven):
        parity.compare_closely("onnx", standard, probabilities(0.1, np.nan), one_case(), LUNG)


def test_empty_masks_agree():
    told = parity.compare_closely("onnx", probabilities(0.1), probabilities(0.2), one_case(), LUNG)
    assert told["smallest_dice"] == 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_less_than_float32_is_proven_against_itself_and_its_distance_told(precision):
    network = tiny_network.build()
    less = network.in_precision(precision)
    tiles = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 1)).astype(np.float32)
    difference = np.abs(less.predict(tiles) - network.predict(tiles)).max()
    assert 0 < difference < 0.05
    assert network.in_precision("float32") is network


@pytest.mark.slow
def test_an_export_holds_the_further_formats_and_their_proof(tmp_path):
    folder = export.export(
        tiny_network.build(), tmp_path / "tiny", cases(), quiet(), also=("onnx", "litert")
    )
    told = proof(folder)
    assert told["masks_equal"]
    assert told["precision"] == "float32"
    for name in ("onnx", "litert"):
        assert (folder / "assets.extra" / formats.FORMATS[name].file).exists()
        assert told[name]["smallest_dice"] >= 0.999
        assert told[name]["allowed"] == {"smallest_dice": 0.999, "largest_share": 0.001}
