import itertools

import numpy as np
import pytest

from data_pipeline import tiles


@pytest.mark.parametrize(
    ("length", "expected"),
    [(4, [0]), (6, [0, 2]), (9, [0, 2, 3, 5]), (10, [0, 2, 4, 6])],
)
def test_tiles_of_4_pixels_that_share_half_cover_a_frame_from_end_to_end(length, expected):
    assert tiles.origins((length,), (4,), overlap=0.5) == [(start,) for start in expected]


def test_tiles_of_a_volume_are_the_grid_of_their_axes():
    assert tiles.origins((6, 4, 4), (4, 4, 2), overlap=0) == [
        (0, 0, 0), (0, 0, 2), (2, 0, 0), (2, 0, 2),
    ]  # fmt: skip


def test_every_pixel_lies_in_a_tile_and_neighbours_share_at_least_the_overlap():
    for length in range(16, 60):
        starts = [start for (start,) in tiles.origins((length,), (16,), overlap=0.25)]
        assert starts[0] == 0
        assert starts[-1] == length - 16
        assert all(b - a <= 12 for a, b in itertools.pairwise(starts))


def test_weights_are_a_gaussian_of_an_eighth_of_the_side_in_whole_numbers():
    # 1024 exp(-x**2 / 2) at x = 1 and 3 standard deviations from the middle.
    np.testing.assert_array_equal(tiles.gaussian((4,)), [11, 621, 621, 11])


def test_no_pixel_weighs_nothing():
    assert tiles.gaussian((32, 32)).min() == 1


def cut_and_stitched(image, tile, overlap=0.5):
    frame = image.shape[:-1]
    cut = ((o, tiles.cut(image, o, tile)) for o in tiles.origins(frame, tile, overlap))
    return np.stack(list(tiles.stitch(cut, frame, tile, image.shape[-1])))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize(
    ("frame", "tile"),
    [((37, 23), (16, 8)), ((9, 20, 11), (4, 8, 8)), ((5, 20, 11), (1, 8, 8)), ((4, 8), (4, 8))],
)
def test_stitching_the_tiles_of_an_image_gives_it_back_bit_for_bit(frame, tile, overlap):
    image = np.random.default_rng(7).integers(0, 2**16 + 1, (*frame, 2)).astype(np.float64)
    np.testing.assert_array_equal(cut_and_stitched(image, tile, overlap), image)


def test_where_tiles_disagree_the_nearer_middle_counts_more():
    answers = [((0,), np.zeros((4, 1))), ((2,), np.ones((4, 1)))]
    stitched = np.stack(list(tiles.stitch(answers, (6,), (4,), 1)))
    expected = [0, 0, 11 / 632, 621 / 632, 1, 1]
    np.testing.assert_array_equal(stitched[:, 0], expected)


def test_a_slice_is_done_as_soon_as_no_further_tile_touches_it():
    asked = []

    def answers():
        for origin in tiles.origins((8, 4), (4, 4)):
            asked.append(origin[0])
            yield origin, np.zeros((4, 4, 1))

    stitched = tiles.stitch(answers(), (8, 4), (4, 4), 1)
    tops = [(next(stitched) is not None, asked[-1])[1] for _ in range(8)]
    # Tiles start at slices 0, 2 and 4: slices 0 and 1 are done when the tile at 2 comes.
    assert tops == [2, 2, 4, 4, 4, 4, 4, 4]
