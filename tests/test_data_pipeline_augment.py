import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from data_pipeline import augment

SEED = tf.constant([3, 14], tf.int64)
STILL = augment.NONE


def moved(image, target, policy, seed=SEED):
    pair = augment.augment(tf.constant(image), tf.constant(target), seed, policy)
    return tuple(np.asarray(part) for part in pair)


@pytest.fixture(params=[(8, 6), (4, 6, 8)], ids=["slice", "volume"])
def sample(request):
    rng = np.random.default_rng(0)
    return (
        rng.random((*request.param, 1), np.float32),
        rng.integers(0, 2, (*request.param, 2)).astype(np.float32),
    )


def test_a_policy_without_effect_returns_the_sample_as_it_was(sample):
    image, target = moved(*sample, STILL)
    np.testing.assert_allclose(image, sample[0], atol=2e-3)  # borders are met to 1e-3 pixel
    np.testing.assert_allclose(target, sample[1], atol=2e-3)


def test_the_seed_alone_decides(sample):
    first, again = (moved(*sample, augment.XRAY) for _ in range(2))
    other = moved(*sample, augment.XRAY, tf.constant([3, 15], tf.int64))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.allclose(first[0], other[0])


@pytest.mark.parametrize("number", range(5))
def test_image_and_mask_move_together(number):
    plane = np.zeros((32, 32, 1), np.float32)
    plane[8:20, 10:26] = 1.0
    colourless = dataclasses.replace(augment.CT, brightness=0, contrast=0, gamma=0, noise=0, blur=0)
    image, target = moved(plane, plane, colourless, tf.constant([0, number], tf.int64))
    np.testing.assert_allclose(image, target, atol=1e-6)
    assert 0 < target.sum() != plane.sum()


def test_colours_leave_the_mask_alone_and_the_image_between_zero_and_one(sample):
    policy = dataclasses.replace(STILL, brightness=0.9, contrast=2.0, gamma=1.0, noise=0.5, blur=1)
    image, target = moved(*sample, policy)
    np.testing.assert_allclose(target, sample[1], atol=2e-3)
    assert image.min() >= 0
    assert image.max() <= 1
    assert not np.allclose(image, sample[0], atol=0.05)


def test_a_flip_mirrors_the_columns_of_some_samples_and_of_no_others():
    row = np.arange(4, dtype=np.float32)[None, :, None] / 4
    image = np.repeat(row, 4, axis=0)
    policy = dataclasses.replace(STILL, flip=(False, True))
    seen = {
        tuple(np.round(moved(image, image, policy, tf.constant([0, n], tf.int64))[0][1, :, 0], 2))
        for n in range(16)
    }
    assert seen == {(0.0, 0.25, 0.5, 0.75), (0.75, 0.5, 0.25, 0.0)}


def test_quarter_turns_give_the_four_rotations():
    corner = np.zeros((4, 4, 1), np.float32)
    corner[0, 0] = 1.0
    policy = dataclasses.replace(STILL, quarter_turns=True)
    seen = set()
    for number in range(24):
        image, _ = moved(corner, corner, policy, tf.constant([0, number], tf.int64))
        seen.add(tuple(int(i) for i in np.argwhere(image[..., 0] > 0.9)[0]))
    assert seen == {(0, 0), (0, 3), (3, 0), (3, 3)}


def test_warp_interpolates_linearly_and_is_zero_beyond_the_border():
    values = tf.constant([[0.0, 1.0, 4.0]])[..., None]
    places = tf.constant([[[0.0, 0.0, 0.0, 0.0]], [[0.5, 1.25, -2.0, 9.0]]])
    np.testing.assert_allclose(
        augment.warp(values, places)[0, :, 0], [0.5, 1.75, 0.0, 0.0], atol=5e-3
    )


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_opencv_samples_slices_as_tensorflow_does(channels):
    rng = np.random.default_rng(1)
    values = tf.constant(rng.random((20, 30, channels), np.float32))
    # OpenCV rounds places to a 32nd of a pixel, so these are such places; some lie outside.
    places = tf.constant(rng.integers(-3 * 32, 33 * 32, (2, 11, 13)).astype(np.float32) / 32)
    expected = augment._interpolated(values, places)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(augment.warp(values, places), expected, atol=2e-3)


def test_noise_is_standard_normal():
    drawn = np.asarray(augment._normal((101, 201), SEED)).ravel()
    assert np.isfinite(drawn).all()
    assert abs(drawn.mean()) < 4 / 142  # four standard errors of 20,301 draws
    assert abs(drawn.std() - 1) < 4 / 201
    # Within one, two and three standard deviations, by the table of the normal distribution.
    shares = [(np.abs(drawn) < limit).mean() for limit in (1, 2, 3)]
    np.testing.assert_allclose(shares, [0.6827, 0.9545, 0.9973], atol=0.013)
    other = np.asarray(augment._normal((101, 201), tf.constant([3, 15], tf.int64))).ravel()
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 4 / 142


def test_blur_is_the_binomial_kernel():
    spike = np.zeros((5, 5, 1), np.float32)
    spike[2, 2] = 1.0
    image, _ = moved(spike, spike, dataclasses.replace(STILL, blur=1.0))
    np.testing.assert_allclose(image[1:4, 1:4, 0] * 16, [[1, 2, 1], [2, 4, 2], [1, 2, 1]], atol=0.1)


def test_only_square_tiles_turn_by_90_degrees():
    assert augment.policy("CT", (32, 64, 64)) == augment.CT
    assert not augment.policy("CT", (64, 32)).quarter_turns
    assert augment.policy("XR", (64, 32)) == augment.XRAY
