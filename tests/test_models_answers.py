"""What is averaged and calibrated inside the graph, held against pencil, paper and NumPy."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
import tiny_network

from data_pipeline import geometry, tta
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec
from models import answers, members, segmenter, unet, zoo

# Keras, saving a network; see setup.cfg.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PLAIN = InputSpec("XR", ("lung",), (32, 32), window=(0.0, 1.0))


def tiles(spec: InputSpec, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).random((count, *spec.shape, spec.channels), np.float32)


def test_a_temperature_of_two_halves_the_logit():
    # logit(0.8) = ln 4, half of it is ln 2, whose sigmoid is 2 / 3.
    said = np.array([[0.8], [0.5], [0.2]], np.float32)
    found = answers.calibrated(said, (2.0,))
    np.testing.assert_allclose(found, [[2 / 3], [0.5], [1 / 3]], atol=1e-6)


def test_each_label_has_its_own_temperature_and_one_changes_nothing():
    # 2 * logit(0.8) = ln 16: 16 / 17.
    found = answers.calibrated(np.array([[0.8, 0.8, 0.8]], np.float32), (1.0, 2.0, 0.5))
    np.testing.assert_allclose(found, [[0.8, 2 / 3, 16 / 17]], atol=1e-6)


def test_certain_answers_stay_finite():
    found = np.asarray(answers.calibrated(np.array([[0.0], [1.0]], np.float32), (2.0,)))
    # sigmoid(ln(1e6) / 2) = 1000 / 1001
    np.testing.assert_allclose(found, [[1 / 1001], [1000 / 1001]], rtol=1e-2)


def resized(images, extent, padded):
    """Resamples each image by geometry and centres it on black, as a NumPy loop."""
    shown = np.zeros((len(images), *padded, images.shape[-1]))
    before = [(p - e) // 2 for p, e in zip(padded, extent, strict=True)]
    inner = tuple(slice(b, b + e) for b, e in zip(before, extent, strict=True))
    for one, image in zip(shown, images, strict=True):
        one[inner] = geometry.resample(image, extent)
    return shown, inner


@pytest.mark.parametrize(
    ("shape", "scale", "extent", "padded"),
    [
        ((32, 32), 0.8, (26, 26), (28, 28)),  # 25.6 pixels; sides must be multiples of 4
        ((32, 32), 1.25, (40, 40), (40, 40)),
        ((8, 16, 16), 1.25, (10, 20, 20), (12, 20, 20)),
    ],
)
def test_a_resized_view_is_what_the_same_weights_say_of_the_resized_and_padded_image(
    shape, scale, extent, padded
):
    spec = dataclasses.replace(PLAIN, shape=shape)
    network = unet.build(spec, (4, 4))
    other = unet.build(dataclasses.replace(spec, shape=padded), (4, 4))
    other.set_weights(network.get_weights())
    images = tiles(spec)
    shown, inner = resized(images, extent, padded)
    said = np.asarray(other(shown.astype(np.float32), training=False))
    expected = [geometry.resample(one[inner], shape) for one in said]
    view = answers.Resized(network, scale)
    np.testing.assert_allclose(view(images), expected, atol=1e-6)
    # In a graph TensorFlow rewrites what it finds, which it did wrongly for padded volumes.
    np.testing.assert_allclose(tf.function(view)(images), expected, atol=1e-6)


@pytest.mark.parametrize("used", [32, 64])
def test_a_network_whose_coarsest_level_is_one_pixel_is_resized_too(used):
    spec = dataclasses.replace(PLAIN, shape=(used, used))
    network = unet.build(spec, (2, 2, 2, 2, 2))
    assert answers._factors(network) == (32, 32)
    assert answers.Resized(network, 1.25)(tiles(spec)).shape == (2, used, used, 1)


def test_views_are_averaged_and_only_then_calibrated():
    spec = dataclasses.replace(PLAIN, flips=((1,),), scales=(0.5,), temperatures=((2.0,),))
    network = unet.build(PLAIN, (4, 4))
    images = tiles(spec)
    small = answers.Resized(network, 0.5)
    said = [
        np.asarray(one)
        for one in (
            network(images, training=False),
            network(images[:, :, ::-1], training=False)[:, :, ::-1],
            small(images),
            small(images[:, :, ::-1])[:, :, ::-1],
        )
    ]
    mean = np.mean(said, axis=0, dtype=np.float64)
    expected = 1 / (1 + ((1 - mean) / mean) ** 0.5)
    found = segmenter.Network(network, spec).predict(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_view_is_calibrated_by_its_logits_as_by_its_probabilities(precision):
    spec = dataclasses.replace(PLAIN, temperatures=((2.0,),))
    images = tiles(spec)
    built = unet.build(PLAIN, (4, 4))
    said = np.float64(segmenter.Network(built, PLAIN).in_precision(precision).predict(images))
    found = segmenter.Network(built, spec).in_precision(precision).predict(images)
    assert np.ptp(said) > 0.01  # there is something to calibrate
    sure = np.abs(said - 0.5) > 0.49  # where a probability has lost what its logit keeps
    expected = 1 / (1 + ((1 - said) / said) ** 0.5)
    assert (~sure).any()
    np.testing.assert_allclose(found[~sure], expected[~sure], atol=1e-5)


@pytest.mark.parametrize("name", sorted(zoo.NETWORKS))
def test_each_network_of_the_zoo_tells_its_logits(name):
    network = zoo.NETWORKS[name](PLAIN)
    images = tiles(PLAIN)
    logits = np.float64(answers._before_sigmoid(network)(images, training=False))
    said = network(images, training=False)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), said, atol=1e-6)


def test_a_volume_is_resized_too():
    spec = InputSpec("CT", ("lung",), (8, 16, 16), "HU", window=(0.0, 1.0), scales=(1.25,))
    network = segmenter.Network(unet.build(spec, (4, 4)), spec)
    found = network.predict(tiles(spec, 1))
    assert found.shape == (1, 8, 16, 16, 1)
    plain = network.network(tiles(spec, 1), training=False)
    larger = answers.Resized(network.network, 1.25)(tiles(spec, 1))
    # Resampling rounds to multiples of 2**-16, and a difference in the last bit may tip it.
    np.testing.assert_allclose(found, (np.asarray(plain) + np.asarray(larger)) / 2, atol=2**-16)


def saved(folder, seed, **changes):
    network = tiny_network.build(seed=seed)
    folder.mkdir(parents=True)
    dataclasses.replace(network.spec, **changes).save(folder / "spec.json")
    segmenter.save(folder, network.network)
    return network


def test_an_ensemble_is_the_mean_of_its_members(tmp_path):
    singles = [saved(tmp_path / name, seed) for seed, name in enumerate("abc")]
    images = tiles(singles[0].spec)
    ensemble = segmenter.load(*(tmp_path / name for name in "abc"))
    expected = np.mean([one.predict(images) for one in singles], axis=0)
    np.testing.assert_allclose(ensemble.predict(images), expected, atol=1e-6)


def test_each_member_of_an_ensemble_keeps_its_own_temperatures(tmp_path):
    saved(tmp_path / "a", 0, temperatures=((2.0, 3.0),))
    saved(tmp_path / "b", 1)
    ensemble = segmenter.load(tmp_path / "a", tmp_path / "b")
    assert ensemble.spec.temperatures == ((2.0, 3.0), (1.0, 1.0))
    images = tiles(ensemble.spec)
    singles = [segmenter.load(tmp_path / name).predict(images) for name in "ab"]
    np.testing.assert_allclose(ensemble.predict(images), np.mean(singles, axis=0), atol=1e-5)


def test_the_thresholds_of_an_ensemble_are_the_mean_of_its_members(tmp_path):
    saved(tmp_path / "a", 0, thresholds=(0.25, 0.5))
    saved(tmp_path / "b", 1, thresholds=(0.375, 0.4375))
    saved(tmp_path / "c", 2)  # one half
    assert members.common_spec([tmp_path / "a", tmp_path / "b"]).thresholds == (0.3125, 0.46875)
    mean = members.common_spec([tmp_path / name for name in "abc"]).thresholds
    assert mean == pytest.approx(((0.25 + 0.375 + 0.5) / 3, (0.5 + 0.4375 + 0.5) / 3))
    # A single run keeps its own.
    assert members.common_spec([tmp_path / "a"]).thresholds == (0.25, 0.5)


def test_runs_that_differ_in_their_spec_are_no_ensemble_and_the_field_is_named(tmp_path):
    saved(tmp_path / "a", 0)
    saved(tmp_path / "b", 1, denoise="median")
    with pytest.raises(InputError, match=r"b cannot be averaged: denoise is none .* and median"):
        segmenter.load(tmp_path / "a", tmp_path / "b")


def test_a_cross_validation_is_the_ensemble_of_all_its_folds(tmp_path):
    for fold in range(2):
        saved(tmp_path / f"fold{fold}", fold)
    with pytest.raises(InputError, match="cross-validation that has not finished"):
        members.directories([tmp_path])
    (tmp_path / "config.json").write_text('{"folds": 3}')
    with pytest.raises(InputError, match="has 2 of 3 folds"):
        members.directories([tmp_path])
    (tmp_path / "config.json").write_text('{"folds": 2}')
    assert [p.name for p in members.directories([tmp_path])] == ["fold0", "fold1"]


def test_another_choice_of_views_makes_runs_agree_that_differ_in_it(tmp_path):
    saved(tmp_path / "a", 0, flips=((1,),))
    saved(tmp_path / "b", 1)
    with pytest.raises(InputError, match=r"flips is .* --tta says it for all of them"):
        segmenter.load(tmp_path / "a", tmp_path / "b")
    assert segmenter.load(tmp_path / "a", tmp_path / "b", tta="none").spec.flips == ()


def test_x_rays_are_mirrored_left_to_right_and_slices_both_ways():
    ct = InputSpec("CT", ("lung",), (8, 16, 16), "HU", window=(0.0, 1.0))
    assert tta.chosen(PLAIN, "flips").flips == ((1,),)
    assert tta.chosen(ct, "flips").flips == ((1,), (2,), (1, 2))
    assert tta.chosen(ct, "none").scales == ()
    # 2 mirrored views of 1, 0.64 and 1.5625 tiles
    assert math.isclose(tta.passes(tta.chosen(PLAIN, "flips+scales")), 2 * 3.2025)
    assert tta.passes(tta.chosen(ct, "flips")) == 4
    assert tta.cost(ct) == ""
    assert tta.cost(ct, 2).startswith("2 times the arithmetic of one network an answer: 2 networks")


def test_a_resized_network_has_the_weights_of_the_network_itself():
    network = unet.build(PLAIN, (4, 4))
    resized = answers.Resized(network, 2.0)
    network.set_weights([np.zeros_like(weights) for weights in network.get_weights()])
    assert np.all(resized(tiles(PLAIN, 1)) == 0.5)
