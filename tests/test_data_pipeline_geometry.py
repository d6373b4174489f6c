import numpy as np
import pytest
import tensorflow as tf
import tensorflow.experimental.numpy as tnp

from data_pipeline import geometry
from data_pipeline.spec import InputSpec


def weights(pixels_in, pixels_out):
    return geometry.axis_weights(np.arange(float(pixels_in)), np.arange(float(pixels_out)))


def test_halving_two_pixels_is_their_mean():
    np.testing.assert_array_equal(weights(2, 1), [[0.5, 0.5]])


def test_doubling_interpolates_a_quarter_of_the_way_and_repeats_the_ends():
    expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_array_equal(weights(2, 4), expected)


def test_shrinking_four_to_two_is_a_triangle_two_pixels_wide():
    # Centres at 0.5 and 2.5; triangle 3/4, 3/4, 1/4, 0, so 3/7, 3/7, 1/7 in steps of 1/4096,
    # where the step that rounding lost went to the first of the heaviest.
    expected = np.array([[1756, 1755, 585, 0], [0, 585, 1756, 1755]]) / 4096
    np.testing.assert_array_equal(weights(4, 2), expected)


def test_a_single_pixel_is_repeated():
    np.testing.assert_array_equal(weights(1, 3), np.ones((3, 1)))


@pytest.mark.parametrize(("size_in", "size_out"), [(7, 7), (224, 256), (2048, 256), (13, 700)])
def test_rows_sum_to_exactly_one_in_steps_of_a_4096th(size_in, size_out):
    matrix = weights(size_in, size_out)
    assert (matrix.sum(axis=1) == 1).all()
    assert (matrix * 4096 == np.rint(matrix * 4096)).all()
    assert (matrix >= 0).all()


def test_an_axis_of_the_same_length_stays_as_it_is():
    np.testing.assert_array_equal(weights(9, 9), np.eye(9))


@pytest.mark.parametrize(
    ("size_in", "size_out"), [(1, 5), (2, 1), (97, 64), (64, 97), (1024, 256), (333, 256)]
)
def test_tensorflow_in_a_graph_gives_the_bits_that_numpy_gives(size_in, size_out):
    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float64)] * 2)
    def in_graph(pixels_in, pixels_out):
        return geometry.axis_weights(pixels_in, pixels_out, tnp)

    got = in_graph(np.arange(float(size_in)), np.arange(float(size_out))).numpy()
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, weights(size_in, size_out))


def test_resampling_16_bit_voxels_is_exact_whole_number_arithmetic():
    voxels = np.random.default_rng(3).integers(0, 2**16, (45, 31))
    rows, cols = (
        np.rint(weights(*n) * 4096).astype(int).astype(object) for n in ((45, 32), (31, 57))
    )
    exact = rows @ voxels.astype(object) @ cols.T  # Python integers: no rounding anywhere
    got = geometry.resample(voxels, (32, 57)) * 4096.0**2
    assert got.astype(object).tolist() == exact.tolist()


@pytest.mark.parametrize(
    ("length", "wanted"), [(512, 8), (2048, 32), (2048, 33), (97, 64), (1, 7), (7, 1), (3, 200)]
)
def test_resampling_is_the_product_with_the_weights(length, wanted):
    column = np.random.default_rng(5).integers(0, 2**16, (length, 1))
    got = geometry.resample(column, (wanted,))
    np.testing.assert_array_equal(got, weights(length, wanted) @ column)


@pytest.mark.parametrize(("length", "wanted"), [(12, 12), (12, 5), (5, 12), (1, 4), (9, 1)])
def test_a_volume_resampled_slice_by_slice_has_the_bits_of_one_resampled_whole(length, wanted):
    voxels = np.random.default_rng(3).integers(0, 2**16, (length, 6, 4)).astype(np.float32)
    slices = geometry.resample_slices(iter(voxels), length, wanted)
    np.testing.assert_array_equal(np.stack(list(slices)), geometry.resample(voxels, (wanted, 6, 4)))


def test_a_volume_lands_on_its_frame_as_resampling_it_whole_would_have_it():
    voxels = np.random.default_rng(4).integers(-1000, 1000, (7, 9, 6)).astype(np.float32)
    placement = geometry.Placement((7, 9, 6), (5, 12, 8), (2, 0, 1), (9, 12, 10))
    expected = np.full((9, 12, 10), voxels.min(), np.float32)
    expected[2:7, :, 1:9] = geometry.resample(voxels, (5, 12, 8))
    np.testing.assert_array_equal(placement.forward(voxels), expected)


def test_resampling_keeps_further_axes():
    voxels = np.arange(24.0).reshape(2, 4, 3)
    got = geometry.resample(voxels, (1, 4))
    np.testing.assert_array_equal(got, voxels.mean(axis=0, keepdims=True))


def test_resampling_does_not_shift_an_image():
    ramp = np.tile(np.arange(64.0), (4, 1))
    got = geometry.resample(ramp, (4, 32))
    # A pixel of the result covers two of the image, so it lies at their mean: 0.5, 2.5, ...
    np.testing.assert_allclose(got[0, 1:-1], np.arange(64).reshape(32, 2).mean(1)[1:-1], atol=0.02)


@pytest.mark.parametrize(
    ("grid", "frame", "extent", "offset"),
    [
        ((100, 50), (64, 64), (64, 32), (0, 16)),
        ((50, 100), (64, 64), (32, 64), (16, 0)),
        ((3, 3), (9, 6), (6, 6), (1, 0)),
        ((1000, 1), (10, 10), (10, 1), (0, 4)),
        ((5, 40, 20), (10, 40, 40), (5, 40, 20), (2, 0, 10)),
    ],
)
def test_a_letterbox_keeps_the_aspect_ratio_and_centres(grid, frame, extent, offset):
    placement = geometry.letterbox(grid, frame)
    assert placement == geometry.Placement(grid, extent, offset, frame)


def test_margins_of_a_letterbox_hold_the_lowest_voxel():
    voxels = np.array([[40, 50], [60, 70], [80, 90], [95, 99]], np.float32)
    frame = geometry.letterbox((4, 2), (4, 4)).forward(voxels)
    np.testing.assert_array_equal(frame[:, 1:3], voxels)
    np.testing.assert_array_equal(frame[:, [0, 3]], np.full((4, 2), 40))
    assert frame.dtype == np.float32


@pytest.mark.parametrize("grid", [(40, 24), (24, 40), (33, 47), (12, 20, 16)])
def test_a_mask_survives_the_way_to_a_larger_frame_and_back(grid):
    planes = np.zeros((2, *grid), np.bool_)
    planes[0][tuple(slice(n // 4, n // 2) for n in grid)] = True
    planes[1][tuple(slice(n // 3, n) for n in grid)] = True
    placement = geometry.letterbox(grid, tuple(3 * max(grid) for _ in grid))
    frame = np.moveaxis(placement.forward_mask(planes), 0, -1)
    assert frame.max() == 1
    np.testing.assert_array_equal(placement.backward(frame) > 0.5, planes)


def test_a_pixel_of_a_smaller_frame_holds_the_share_of_foreground_it_covers(draw):
    frame = geometry.letterbox((2, 4), (1, 2)).forward_mask(draw("#...", "#...")[None])
    # Weights of the left pixel are 3/7, 3/7, 1/7, 0 (see above), and only column 0 is foreground.
    np.testing.assert_array_equal(frame, np.array([[[1756 / 4096, 0]]], np.float32))


def test_what_a_network_says_of_the_margins_is_dropped():
    placement = geometry.letterbox((4, 2), (4, 4))
    frame = np.ones((4, 4, 1), np.float32)
    frame[:, 1:3] = 0.25
    np.testing.assert_array_equal(placement.backward(frame), np.full((1, 4, 2), 0.25))


def test_probabilities_come_back_labels_first():
    frame = np.zeros((8, 8, 3), np.float32)
    frame[..., 1] = 1
    got = geometry.letterbox((8, 8), (8, 8)).backward(frame)
    assert got.shape == (3, 8, 8)
    assert got.dtype == np.float32
    assert got.mean(axis=(1, 2)).tolist() == [0, 1, 0]


def test_resampling_to_a_spacing_scales_each_axis_by_its_own_factor():
    placement = geometry.respace((10, 20), (2.0, 1.0), (1.0, 1.0), (16, 32))
    assert placement.extent == (20, 20)
    assert placement.frame == (20, 32)  # no smaller than a tile
    assert placement.offset == (0, 6)


def test_a_spec_with_a_spacing_resamples_and_one_without_letterboxes():
    spec = InputSpec("CT", ("lung",), (16, 16), units="HU", window=(-1000.0, 400.0))
    assert geometry.place((32, 16), (1.0, 1.0), spec).extent == (16, 8)
    respaced = InputSpec(
        "CT", ("lung",), (16, 16), units="HU", window=(-1000.0, 400.0), spacing_mm=(2.0, 0.5)
    )
    assert geometry.place((32, 16), (1.0, 1.0), respaced).extent == (16, 32)


def test_a_spec_with_a_spacing_needs_a_scan_that_has_one():
    respaced = InputSpec("CT", ("lung",), (16, 16), window=(0.0, 1.0), spacing_mm=(2.0, 0.5))
    with pytest.raises(
        ValueError, match=r"no spacing known, and the model works at \(2\.0, 0\.5\)"
    ):
        geometry.place((32, 16), None, respaced)
