import numpy as np
import pytest

from data_pipeline import masks
from data_pipeline.errors import InputError

LUNG_AND_INFECTION = {"infection": (3,), "lung": (1, 2, 3)}


def rows(*lines):
    return np.array([[character == "#" for character in line] for line in lines])


def test_a_class_may_belong_to_two_labels():
    mask = masks.from_class_map(np.array([[0, 1, 2, 3]], np.uint8), LUNG_AND_INFECTION)
    assert mask.labels == ("lung", "infection")
    np.testing.assert_array_equal(mask.plane("lung"), rows(".###"))
    np.testing.assert_array_equal(mask.plane("infection"), rows("...#"))


def test_a_volume_of_classes_keeps_its_shape():
    values = np.zeros((4, 3, 2), np.int16)
    values[1, 2, 0] = 2
    plane = masks.from_class_map(values, LUNG_AND_INFECTION).plane("lung")
    assert plane.shape == (4, 3, 2)
    assert np.argwhere(plane).tolist() == [[1, 2, 0]]


def test_a_label_without_pixels_is_there_and_empty():
    mask = masks.from_class_map(np.zeros((2, 2), np.uint8), LUNG_AND_INFECTION)
    assert not mask.plane("infection").any()


def test_an_unclaimed_class_is_named_unless_it_is_ignored():
    values = np.array([[0, 1, 7, 9]])
    with pytest.raises(InputError, match=r"holds 7, 9, which no label claims; known: 0, 1, 2, 3"):
        masks.from_class_map(values, LUNG_AND_INFECTION)
    plane = masks.from_class_map(values, LUNG_AND_INFECTION, ignore=(7, 9)).plane("lung")
    np.testing.assert_array_equal(plane, rows(".#.."))


def test_an_unknown_label_is_refused():
    with pytest.raises(InputError, match=r"unknown label heart; known: lung, infection"):
        masks.from_class_map(np.zeros((2, 2), np.uint8), {"heart": (1,)})


@pytest.mark.parametrize(
    ("polygon", "expected"),
    [
        # A square on pixel edges holds exactly the pixels between them.
        ([(1, 1), (3, 1), (3, 3), (1, 3)], ["....", ".##.", ".##.", "...."]),
        # Drawn through pixel centres: left and top centres are in, right and bottom are out.
        ([(0.5, 0.5), (2.5, 0.5), (2.5, 2.5), (0.5, 2.5)], ["##..", "##..", "....", "...."]),
        # Too small to reach a centre.
        ([(1, 1), (1.4, 1), (1.4, 1.4), (1, 1.4)], ["....", "....", "....", "...."]),
        # Beyond the image on every side.
        ([(-9, -9), (99, -9), (99, 99), (-9, 99)], ["####", "####", "####", "####"]),
        # The triangle x + y < 4: centres (0.5 + col) + (0.5 + row) < 4 means row + col < 3;
        # where the sum is 3 the centre lies on the right edge.
        ([(0, 0), (4, 0), (0, 4)], ["###.", "##..", "#...", "...."]),
        # The other way round it is the same polygon.
        ([(0, 4), (4, 0), (0, 0)], ["###.", "##..", "#...", "...."]),
    ],
)
def test_a_pixel_is_inside_if_its_centre_is(polygon, expected):
    plane = masks.from_polygons((4, 4), {"lung": [polygon]}).plane("lung")
    np.testing.assert_array_equal(plane, rows(*expected))


def test_polygons_that_share_an_edge_share_no_pixel_and_leave_none_out():
    left = [(0, 0), (2.5, 0), (1.5, 4), (0, 4)]
    right = [(2.5, 0), (4, 0), (4, 4), (1.5, 4)]
    one, other = masks.fill((4, 4), [left]), masks.fill((4, 4), [right])
    assert not (one & other).any()
    assert (one | other).all()


def test_overlapping_polygons_of_a_label_are_joined():
    square, shifted = [(0, 0), (2, 0), (2, 1), (0, 1)], [(1, 0), (3, 0), (3, 1), (1, 1)]
    plane = masks.from_polygons((1, 4), {"lung": [square, shifted]}).plane("lung")
    np.testing.assert_array_equal(plane, rows("###."))


def test_a_ring_within_a_ring_is_a_hole():
    outer, inner = [(0, 0), (4, 0), (4, 4), (0, 4)], [(1, 1), (3, 1), (3, 3), (1, 3)]
    np.testing.assert_array_equal(
        masks.fill((4, 4), [outer, inner]), rows("####", "#..#", "#..#", "####")
    )


def test_a_label_that_was_looked_for_and_not_found_is_empty():
    mask = masks.from_polygons((2, 3), {"lung": []})
    assert mask.labels == ("lung",)
    assert not mask.planes.any()


@pytest.mark.parametrize("polygon", [[(0, 0), (1, 1)], [1, 2, 3], [(0, 0, 0)] * 3, [["a", 1]] * 3])
def test_what_is_no_polygon_is_refused(polygon):
    with pytest.raises(InputError, match=r"three or more corners"):
        masks.from_polygons((4, 4), {"lung": [polygon]})


def test_a_corner_at_infinity_is_refused():
    with pytest.raises(InputError, match=r"not a finite number"):
        masks.from_polygons((4, 4), {"lung": [[(0, 0), (float("nan"), 0), (1, 1)]]})
