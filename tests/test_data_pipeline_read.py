import numpy as np
import pytest

from data_pipeline import raster, read
from data_pipeline.errors import InputError


@pytest.fixture
def image(tmp_path):
    """A 16 bit image of which two pixels are 0 and 2040."""
    path = tmp_path / "a.png"
    raster.write(path, np.array([[0, 2040]], np.uint16))
    return path


def test_an_xray_is_read_as_stored(image):
    scan = read.scan(image, "XR")
    assert (scan.modality, scan.units, scan.source) == ("XR", "stored", str(image))
    assert scan.spacing_mm is None
    np.testing.assert_array_equal(scan.voxels, np.array([[0, 2040]], np.float32))


def test_a_ct_slice_whose_file_does_not_say_so_is_not_taken_for_hu(image):
    assert read.scan(image, "CT").units == "stored"


def test_slope_and_intercept_bring_a_ct_slice_to_hu(image):
    scan = read.scan(image, "CT", rescale_slope=0.5, rescale_intercept=-1000)
    assert scan.units == "HU"
    np.testing.assert_array_equal(scan.voxels, [[-1000, 20]])


@pytest.mark.parametrize(
    ("rescale", "expected"),
    [({"rescale_intercept": -2000}, [[-2000, 40]]), ({"rescale_slope": 0.5}, [[0, 1020]])],
)
def test_one_of_slope_and_intercept_will_do(image, rescale, expected):
    np.testing.assert_array_equal(read.scan(image, "CT", **rescale).voxels, expected)


def test_an_xray_has_no_hu(image):
    with pytest.raises(InputError, match="rescale_slope and rescale_intercept are for CT, not XR"):
        read.scan(image, "XR", rescale_slope=1)


def test_a_suffix_in_capitals_is_the_same_type(image, tmp_path):
    image.rename(tmp_path / "A.PNG")
    assert read.scan(tmp_path / "A.PNG", "XR").shape == (1, 2)


def test_classes_of_a_mask_keep_their_numbers(tmp_path):
    stored = np.array([[0, 1], [2, 255]], np.uint8)
    raster.write(tmp_path / "m.png", stored)
    np.testing.assert_array_equal(read.classes(tmp_path / "m.png"), stored)


def test_a_mask_of_unknown_type_is_told_with_those_that_are_read(tmp_path):
    with pytest.raises(InputError, match=r"m\.xyz: no reader of masks for this type; known: \.png"):
        read.classes(tmp_path / "m.xyz")
