import dataclasses

import cv2
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from data_pipeline import cases, intensity
from data_pipeline.spec import InputSpec

XRAY = InputSpec("XR", ("lung",), (32, 40))
CT = InputSpec("CT", ("lung",), (1, 5), units="HU", window=intensity.LUNG_WINDOW_HU)


def noise(*shape, seed=1):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)


def test_the_lung_window_maps_air_to_0_bone_to_1_and_clips_beyond():
    hu = np.array([-2000, -1000, -300, 400, 3000], np.float32).reshape(1, 1, 5, 1)
    got = intensity.normalise(hu, CT).numpy().ravel()
    np.testing.assert_allclose(got, [0, 0, 0.5, 1, 1])


def test_without_a_window_each_image_is_stretched_between_its_own_percentiles():
    # 201 values: percentile 0.5 is the one of rank 1, percentile 99.5 that of rank 199.
    ramp = np.random.default_rng(2).permutation(201).astype(np.float32)
    spec = dataclasses.replace(XRAY, shape=(3, 67))
    images = np.stack([ramp, 7 * ramp + 100]).reshape(2, 3, 67, 1)
    expected = np.clip((ramp - 1) / 198, 0, 1).reshape(3, 67, 1)
    got = intensity.normalise(images, spec).numpy()
    np.testing.assert_allclose(got[0], expected, atol=1e-6)
    np.testing.assert_allclose(got[1], expected, atol=1e-6)


@pytest.mark.parametrize("percentiles", [(0.0, 100.0), (0.5, 99.5), (30.0, 50.0), (51.0, 99.9)])
def test_percentiles_are_values_of_the_image_by_rank(percentiles):
    images = noise(3, 32, 40, 1) - 100
    spec = dataclasses.replace(XRAY, percentiles=percentiles)
    for image, got in zip(images, intensity.normalise(images, spec).numpy(), strict=True):
        ranks = [round(np.float32(1279 * p / 100)) for p in percentiles]
        low, high = np.sort(image.ravel())[ranks]
        np.testing.assert_array_equal(got, np.clip((image - low) / (high - low), 0, 1))


# With and without whole groups of 16 neighbours, from which percentiles near an end are picked.
@pytest.mark.parametrize(
    "sides", [(1, 1), (1, 2), (2, 3), (5, 5), (4, 4), (4, 8), (6, 8), (8, 8), (7, 16), (33, 31)]
)
@pytest.mark.parametrize("percentiles", [(0.5, 99.5), (3.0, 97.0), (2.9, 96.9), (0.0, 100.0)])
def test_percentiles_of_tiny_images_are_the_nearest_ranks_of_numpy_in_eager_and_graph(
    percentiles, sides
):
    images = (noise(2, *sides, 1) - 100) * np.float32([1, -1]).reshape(2, 1, 1, 1)
    spec = dataclasses.replace(XRAY, shape=sides, percentiles=percentiles)
    graph = tf.function(
        lambda voxels: intensity.normalise(voxels, spec),
        [tf.TensorSpec((None, None, None, 1), tf.float32)],  # as frames of any size are stored
    )
    low, high = np.percentile(images, percentiles, (1, 2, 3), method="nearest", keepdims=True)
    span = np.where(high > low, high - low, np.inf)
    expected = np.clip((images - low) / span, 0, 1)
    np.testing.assert_array_equal(intensity.normalise(images, spec), expected)
    np.testing.assert_array_equal(graph(images), expected)


@pytest.mark.parametrize("clahe", [False, True])
def test_a_constant_image_becomes_finite_and_constant(clahe):
    images = np.full((1, 32, 40, 1), 117, np.float32)
    got = intensity.normalise(images, dataclasses.replace(XRAY, clahe=clahe)).numpy()
    assert np.isfinite(got).all()
    assert np.ptp(got) < 1e-6
    if not clahe:
        assert got.max() == 0


def test_the_median_is_that_of_scipy_up_to_the_border():
    images = noise(2, 32, 40, 1)
    spec = dataclasses.replace(XRAY, window=(0.0, 255.0), denoise="median")
    expected = [scipy.ndimage.median_filter(i, 3, mode="reflect") for i in images[..., 0]]
    got = intensity.normalise(images, spec).numpy()[..., 0] * 255
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_the_gaussian_is_that_of_scipy_cut_off_at_one_pixel():
    images = noise(2, 32, 40, 1)
    spec = dataclasses.replace(XRAY, window=(0.0, 255.0), denoise="gaussian")
    expected = [scipy.ndimage.gaussian_filter(i, 1.0, radius=1) for i in images[..., 0]]
    got = intensity.normalise(images, spec).numpy()[..., 0] * 255
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_clahe_is_close_to_that_of_opencv_on_a_real_xray():
    case = next(c for c in cases.load() if c.dataset == "hannover_v7")
    image = cv2.resize(cases.read_scan(case).voxels, (256, 256), interpolation=cv2.INTER_AREA)
    image = np.rint(image).astype(np.uint8)
    theirs = cv2.createCLAHE(intensity.CLAHE_CLIP, (intensity.CLAHE_TILES,) * 2).apply(image)
    ours = intensity.clahe((image / 255).astype(np.float32)[None, ..., None]).numpy()[0, ..., 0]
    difference = np.abs(ours - theirs / 255)
    # They differ in the number of bins and in where what was clipped goes.
    assert difference.mean() < 0.02
    assert np.abs(image / 255 - theirs / 255).mean() > 3 * difference.mean()


@pytest.mark.parametrize("shape", [(64, 64), (50, 70), (9, 8)])
def test_clahe_takes_sides_that_its_regions_do_not_divide(shape):
    got = intensity.clahe((noise(1, *shape, 1) / 255).astype(np.float32)).numpy()
    assert got.shape == (1, *shape, 1)
    assert got.min() >= 0
    assert got.max() <= 1 + 1e-6


def test_clahe_treats_each_channel_of_each_image_on_its_own():
    images = (noise(2, 32, 40, 3) / 255).astype(np.float32)
    together = intensity.clahe(images).numpy()
    alone = intensity.clahe(images[1:, ..., 2:]).numpy()
    np.testing.assert_array_equal(together[1:, ..., 2:], alone)


@pytest.mark.parametrize("denoise", ["none", "median", "gaussian"])
@pytest.mark.parametrize("clahe", [False, True])
def test_a_graph_of_tf_data_gives_what_eager_ops_give(denoise, clahe):
    spec = dataclasses.replace(XRAY, denoise=denoise, clahe=clahe)
    images = noise(4, 32, 40, 1)
    eager = intensity.normalise(images, spec).numpy()
    batches = tf.data.Dataset.from_tensor_slices(images).batch(4, drop_remainder=True)
    (mapped,) = batches.map(lambda batch: intensity.normalise(batch, spec)).as_numpy_iterator()
    np.testing.assert_allclose(mapped, eager, atol=1e-6)


def test_slices_and_volumes_are_windowed_alike():
    hu = (noise(1, 4, 6, 8, 1) * 10 - 1500).astype(np.float32)
    solid = dataclasses.replace(CT, shape=(4, 6, 8))
    flat = dataclasses.replace(CT, shape=(6, 8))
    np.testing.assert_array_equal(
        intensity.normalise(hu, solid).numpy()[0], intensity.normalise(hu[0], flat).numpy()
    )


def test_an_unknown_denoiser_is_named_with_those_that_exist():
    spec = dataclasses.replace(XRAY, denoise="bilateral")
    with pytest.raises(ValueError, match="unknown denoise 'bilateral'; known: none, median"):
        intensity.normalise(noise(1, 32, 40, 1), spec)


@pytest.mark.parametrize("option", [{"clahe": True}, {"denoise": "median"}])
def test_denoise_and_clahe_refuse_volumes(option):
    spec = dataclasses.replace(CT, shape=(4, 6, 8), **option)
    with pytest.raises(ValueError, match="for slices and X-rays, not for 3D tiles"):
        intensity.normalise(noise(1, 4, 6, 8, 1), spec)
