import cv2
import numpy as np
import pytest

from data_pipeline import raster
from data_pipeline.errors import InputError


def encoded(path, image, extension=".png"):
    """Writes with OpenCV rather than with what is tested; colour as OpenCV has it: BGR."""
    path.write_bytes(cv2.imencode(extension, image)[1].tobytes())
    return path


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_grey_values_come_back_as_they_are_stored(tmp_path, kind):
    image = np.random.default_rng(1).integers(0, np.iinfo(kind).max + 1, (5, 7)).astype(kind)
    raster.write(tmp_path / "deeper" / "a.png", image)
    got = raster.read(tmp_path / "deeper" / "a.png")
    assert got.dtype == kind
    np.testing.assert_array_equal(got, image)


@pytest.mark.parametrize(
    ("bgr", "grey"),
    [((0, 0, 255), 76), ((0, 255, 0), 150), ((255, 0, 0), 29), ((77, 77, 77), 77)],
    ids=["red", "green", "blue", "grey"],
)
def test_colour_becomes_rounded_luma(tmp_path, bgr, grey):
    path = encoded(tmp_path / "a.png", np.full((2, 3, 3), bgr, np.uint8))
    np.testing.assert_array_equal(raster.read(path), np.full((2, 3), grey, np.uint8))


def test_written_colour_is_rgb(tmp_path):
    raster.write(tmp_path / "a.png", np.full((2, 3, 3), (255, 0, 0), np.uint8))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[0, 0], [0, 0, 255])


def test_an_opaque_alpha_channel_is_left_out(tmp_path):
    path = encoded(tmp_path / "a.png", np.full((2, 3, 4), (9, 9, 9, 255), np.uint8))
    np.testing.assert_array_equal(raster.read(path), np.full((2, 3), 9))


def test_a_transparent_pixel_has_no_known_value(tmp_path):
    image = np.full((2, 3, 4), 255, np.uint8)
    image[1, 2, 3] = 254
    path = encoded(tmp_path / "a.png", image)
    with pytest.raises(InputError, match=r"a\.png has transparent pixels"):
        raster.read(path)


def test_a_jpeg_is_read_within_the_loss_of_its_compression(tmp_path):
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    got = raster.read(encoded(tmp_path / "a.JPG", ramp, ".jpg"))
    assert got.shape == (64, 64)
    assert np.abs(got.astype(int) - ramp).max() <= 4


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"a\.png is empty"), (b"This is a letter.", r"a\.png is damaged, cut short, or no")],
)
def test_a_file_that_is_no_image_is_named(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=message):
        raster.read(tmp_path / "a.png")


def test_an_image_cut_short_is_refused_rather_than_padded(tmp_path):
    path = encoded(tmp_path / "a.png", np.random.default_rng(1).integers(0, 256, (64, 64), "u1"))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"a\.png is damaged, cut short"):
        raster.read(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.png cannot be read: No such file"):
        raster.read(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        raster.read(tmp_path)


def test_nothing_but_the_finished_file_is_left_behind(tmp_path):
    raster.write(tmp_path / "a.png", np.zeros((2, 3), np.uint8))
    raster.write(tmp_path / "a.png", np.ones((2, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert raster.read(tmp_path / "a.png").max() == 1
