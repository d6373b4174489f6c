import numpy as np
import pytest

from data_pipeline import labels, overlay
from data_pipeline.scan import Mask, Scan

LUNG, INFECTION = (labels.LABELS[name].colour_rgb for name in ("lung", "infection"))


def plane(*rows: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def image_of(voxels, units="stored") -> Scan:
    modality = "CT" if units == "HU" else "XR"
    return Scan(np.asarray(voxels, np.float32), modality, units, "test")


def test_an_outline_is_the_pixels_of_a_structure_that_touch_its_outside():
    found = overlay.outline(plane(".....", ".###.", ".###.", ".###.", "....."))
    assert (found == plane(".....", ".###.", ".#.#.", ".###.", ".....")).all()


def test_the_edge_of_the_image_counts_as_outside():
    found = overlay.outline(plane("####", "####", "####", "####"))
    assert (found == plane("####", "#..#", "#..#", "####")).all()


def test_a_wider_outline_grows_inwards():
    assert overlay.outline(np.ones((7, 7), bool), width=2).sum() == 49 - 9


def test_an_empty_plane_has_no_outline():
    assert not overlay.outline(np.zeros((5, 4), bool)).any()


def test_labels_are_drawn_in_their_colours_and_the_later_one_lies_above():
    scan = image_of(np.zeros((4, 4)))
    lung = plane("####", "####", "####", "####")
    infection = plane("#...", "....", "....", "....")
    drawn = overlay.draw(scan, Mask(np.stack([lung, infection]), ("lung", "infection")))
    assert drawn.shape == (4, 4, 3)
    assert drawn.dtype == np.uint8
    assert tuple(drawn[0, 0]) == INFECTION
    assert tuple(drawn[0, 1]) == LUNG
    assert tuple(drawn[1, 1]) == (0, 0, 0)


def test_hu_are_shown_in_the_lung_window():
    scan = image_of([[-2000.0, -1350.0, -600.0, 150.0, 3000.0]], "HU")
    drawn = overlay.draw(scan, Mask(np.zeros((1, 1, 5), bool), ("lung",)))
    assert drawn[0, :, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("value", [0.0, 200.0])
def test_a_constant_image_is_drawn_without_a_warning(value):
    drawn = overlay.draw(
        image_of(np.full((3, 3), value)), Mask(np.zeros((1, 3, 3), bool), ("lung",))
    )
    assert (drawn == 0).all()


def test_of_a_volume_the_slice_with_most_foreground_is_drawn():
    voxels = np.arange(3, dtype=np.float32)[:, None, None] * 100 * np.ones((3, 4, 4), np.float32)
    planes = np.zeros((1, 3, 4, 4), bool)
    planes[0, 1, 0, 0] = planes[0, 2, :2] = True
    mask = Mask(planes, ("lung",))
    assert overlay.fullest_slice(mask) == 2
    assert tuple(overlay.draw(image_of(voxels), mask)[0, 0]) == LUNG
    assert tuple(overlay.draw(image_of(voxels), mask, index=0)[0, 0]) == (0, 0, 0)


def test_of_a_volume_without_foreground_the_middle_slice_is_drawn():
    assert overlay.fullest_slice(Mask(np.zeros((2, 5, 2, 2), bool), ("lung", "infection"))) == 2
