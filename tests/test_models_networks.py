import pathlib
import sys

import keras
import numpy as np
import pytest

from data_pipeline import phantom
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec
from models import cnn, layers, light, segmenter, unet, zoo

TINY = (4, 6)


@pytest.mark.parametrize("build", [unet.build, light.build, cnn.build])
@pytest.mark.parametrize("shape", [(16, 8), (8, 16, 8)], ids=["slice", "volume"])
def test_a_network_gives_one_probability_a_label_and_pixel(build, shape):
    spec = InputSpec("CT", ("lung", "infection"), shape, window=(0.0, 1.0))
    network = build(spec, TINY)
    answer = np.asarray(network(np.random.default_rng(0).random((2, *shape, 1), np.float32)))
    assert answer.shape == (2, *shape, 2)
    assert answer.dtype == np.float32
    assert answer.min() > 0
    assert answer.max() < 1


def test_neighbouring_slices_enter_as_channels():
    spec = InputSpec("CT", ("lung",), (16, 16), neighbours=1, window=(0.0, 1.0))
    assert unet.build(spec, TINY).input_shape == (None, 16, 16, 3)


@pytest.mark.parametrize("build", zoo.NETWORKS.values(), ids=zoo.NETWORKS)
def test_a_tile_that_cannot_be_halved_is_refused_with_the_next_that_fits(build):
    with pytest.raises(InputError, match=r"got \(250, 256\), the next that fits is \(256, 256\)"):
        build(InputSpec("XR", ("lung",), (250, 256)))


def test_the_cnn_has_no_skip_connections_and_the_unet_has():
    spec = InputSpec("XR", ("lung",), (32, 32))
    kinds = [
        {type(layer) for layer in build(spec, TINY).layers} for build in (cnn.build, unet.build)
    ]
    assert [keras.layers.Add in kind for kind in kinds] == [False, True]


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_the_parameters_that_file_and_table_tell_are_those_of_the_network(name):
    count = zoo.NETWORKS[name](InputSpec("XR", ("lung",), (64, 64))).count_params()
    file = zoo.NETWORKS[name].__module__
    assert f"{count:,} parameters" in sys.modules[file].__doc__
    row = f"| `{name}` | {file.replace('.', '/')}.py | {count:,} |"
    assert row in (pathlib.Path(__file__).parents[1] / "docs/models.md").read_text()


@pytest.mark.parametrize(("module", "row"), [(unet, "U-Net"), (light, "light U-Net"), (cnn, "CNN")])
def test_the_scores_that_a_file_promises_are_those_of_the_table(module, row):
    lines = (pathlib.Path(__file__).parents[1] / "docs/models.md").read_text().splitlines()
    for task, words in (("X-ray, lungs", "on X-ray lungs (23"), ("CT slices, infection", "on CT")):
        [line] = [line for line in lines if line.startswith(f"| {task} | {row} |")]
        dice = line.split("|")[-3].split()[0]
        assert f"{dice} {words}" in module.__doc__


def test_the_light_network_stays_below_a_hundred_thousand_parameters():
    for labels in (("lung",), ("lung", "infection")):
        assert light.build(InputSpec("XR", labels, (256, 256))).count_params() < 100_000


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_a_network_bears_the_name_under_which_the_zoo_lists_it(name):
    assert zoo.NETWORKS[name](InputSpec("XR", ("lung",), (64, 64))).name == name


def test_a_saved_network_is_loaded_with_the_same_answer(tmp_path):
    spec = InputSpec("XR", ("lung",), (32, 32))
    network = segmenter.Network(unet.build(spec, TINY), spec)
    spec.save(tmp_path / "spec.json")
    segmenter.save(tmp_path, network.network)
    scan, _ = phantom.xray(0)
    loaded = segmenter.load(tmp_path)
    assert (loaded.name, loaded.spec) == ("unet", spec)
    np.testing.assert_array_equal(loaded.probabilities(scan), network.probabilities(scan))
    assert loaded.probabilities(scan).shape == (1, *scan.shape)


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"spec\.json is missing"):
        segmenter.load(tmp_path)
    InputSpec("XR", ("lung",), (32, 32)).save(tmp_path / "spec.json")
    with pytest.raises(InputError, match="the training is not finished"):
        segmenter.load(tmp_path)


def test_mirrored_answers_are_averaged_in():
    spec = InputSpec("XR", ("lung",), (16, 16), window=(0.0, 1.0), flips=((1,),))
    network = unet.build(spec, TINY)
    tiles = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    plain = np.asarray(network(tiles, training=False))
    mirrored = np.asarray(network(tiles[:, :, ::-1], training=False))[:, :, ::-1]
    np.testing.assert_allclose(
        segmenter.Network(network, spec).predict(tiles), (plain + mirrored) / 2, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(16, 16), (8, 16, 16)], ids=["slice", "volume"])
def test_a_residual_block_adds_what_went_in(shape):
    inputs = keras.Input((*shape, 6))
    outputs = layers.residual(inputs, 6)
    network = keras.Model(inputs, outputs)
    # Untrained weights of zero leave nothing but what went in.
    network.set_weights([np.zeros_like(w) for w in network.get_weights()])
    tile = np.random.default_rng(0).random((1, *shape, 6), np.float32)
    np.testing.assert_array_equal(np.asarray(network(tile, training=False)), tile)


def test_the_encoder_can_be_residual():
    spec = InputSpec("XR", ("lung",), (32, 32))
    plain, residual = (
        unet.build(spec, TINY, block=block) for block in (layers.double_conv, layers.residual)
    )
    count = [sum(isinstance(x, keras.layers.Add) for x in n.layers) for n in (plain, residual)]
    assert count == [1, 3]  # one skip connection; one more a level
