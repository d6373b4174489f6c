import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipeline import raster, read
from data_pipeline.errors import InputError

GREY = np.array([[0, 1, 2], [100, 200, 255]], np.uint8)
GREY16 = GREY.astype(np.uint16) * 257


def tiff(path, values, **tags):
    """Writes an uncompressed TIFF by hand, so that each tag is known; rows one strip."""
    photometric = tags.get("photometric", 1)
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    channels = values.shape[2] if values.ndim == 3 else 1
    entries = [
        (256, 4, values.shape[1]),
        (257, 4, values.shape[0]),
        (258, 3, 8 * values.dtype.itemsize),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, channels),
        (278, 4, values.shape[0]),
        (279, 4, values.nbytes),
        (339, 3, sample_format),
    ]
    data = values.tobytes()
    data += b"\0" * (len(data) % 2)
    directory = struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        packed = struct.pack("<I" if kind == 4 else "<HH", *([value] if kind == 4 else [value, 0]))
        directory += struct.pack("<HHI", tag, kind, 1) + packed
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4))
    return path


def saved(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32])
def test_tiff_keeps_its_numbers(tmp_path, dtype):
    values = (GREY.astype(np.int64) * (1 if dtype == np.uint8 else 3)).astype(dtype)
    values[0, 0] = 7 if values.dtype.kind == "u" else -1024
    read_values = raster.read(tiff(tmp_path / "x.tif", values))
    assert read_values.dtype == dtype
    np.testing.assert_array_equal(read_values, values)


@pytest.mark.parametrize("values", [GREY, GREY16], ids=["8 bit", "16 bit"])
def test_tiff_whose_zero_is_white_is_inverted(tmp_path, values):
    path = tiff(tmp_path / "x.tif", values, photometric=0)
    np.testing.assert_array_equal(raster.read(path), np.iinfo(values.dtype).max - values)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_keeps_its_numbers(tmp_path, compression):
    path = saved(tmp_path / "x.tiff", Image.fromarray(GREY), compression=compression)
    np.testing.assert_array_equal(raster.read(path), GREY)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".tif"])
def test_grey_of_8_bit_is_read_as_stored(tmp_path, suffix):
    path = saved(tmp_path / f"x{suffix}", Image.fromarray(GREY))
    np.testing.assert_array_equal(raster.read(path), GREY)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_colour_becomes_luma(tmp_path, suffix):
    rgb = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    path = saved(tmp_path / f"x{suffix}", Image.fromarray(rgb))
    np.testing.assert_array_equal(raster.read(path), [[76, 150, 29]])  # 0.299, 0.587, 0.114


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".tif"])
def test_a_palette_is_looked_up_in_an_image(tmp_path, suffix):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    np.testing.assert_array_equal(raster.read(saved(tmp_path / f"x{suffix}", image)), [[0, 76, 29]])


def test_16_bit_colour_keeps_16_bits(tmp_path):
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), np.array([[[0, 0, 65535]]], np.uint16))  # blue, green, red
    values = raster.read(path)
    assert (values.dtype, values[0, 0]) == (np.uint16, round(65535 * 0.299))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_an_opaque_alpha_channel_is_dropped_and_a_transparent_one_refused(tmp_path, suffix):
    rgba = np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)])
    path = saved(tmp_path / f"x{suffix}", Image.fromarray(rgba))
    np.testing.assert_array_equal(raster.read(path), GREY)
    rgba[0, 0, 3] = 254
    saved(path, Image.fromarray(rgba))
    with pytest.raises(InputError, match="has transparent pixels"):
        raster.read(path)


def test_one_bit_becomes_0_and_255(tmp_path):
    path = saved(tmp_path / "x.png", Image.fromarray(GREY > 99))
    np.testing.assert_array_equal(raster.read(path), np.uint8(255) * (GREY > 99))


def test_an_image_to_be_turned_is_refused(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    path = saved(tmp_path / "x.jpg", Image.fromarray(GREY), exif=exif)
    with pytest.raises(InputError, match=r"stored turned, with an EXIF tag; save it upright"):
        raster.read(path)
    exif[274] = 1
    assert raster.read(saved(path, Image.fromarray(GREY), exif=exif)).shape == (2, 3)


@pytest.mark.parametrize("suffix", [".tif", ".gif"])
def test_several_images_in_a_file_are_refused(tmp_path, suffix):
    pages = [Image.fromarray(GREY + np.uint8(n)) for n in range(3)]
    path = saved(tmp_path / f"x{suffix}", pages[0], save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="holds 3 images; one a file is read"):
        raster.read(path)


def test_a_png_that_claims_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    header = struct.pack(">IIBBBBB", 60000, 60000, 16, 0, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 99)), (b"IEND", b""))
    )
    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(InputError):
        raster.read(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".tif"])
def test_an_image_cut_short_is_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    path = saved(tmp_path / f"x{suffix}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(InputError, match=r"damaged, cut short|is damaged"):
        raster.read(path)


def test_class_numbers_are_the_indices_of_a_coloured_palette(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2, 1]], np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    path = saved(tmp_path / "x.png", image)
    np.testing.assert_array_equal(read.classes(path), [[0, 1, 2, 1]])


def test_class_numbers_are_the_greys_of_a_grey_palette(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 0]], np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    np.testing.assert_array_equal(read.classes(saved(tmp_path / "x.gif", image)), [[0, 255, 0]])


def test_a_palette_whose_first_colour_is_not_black_makes_no_class_map(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 0]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 0, 0])
    with pytest.raises(InputError, match="index 0, the background, is not black"):
        read.classes(saved(tmp_path / "x.png", image))


def test_a_coloured_mask_is_refused_and_a_grey_one_in_rgb_is_read(tmp_path):
    path = saved(tmp_path / "x.png", Image.fromarray(np.dstack([GREY, GREY, GREY])))
    np.testing.assert_array_equal(read.classes(path), GREY)
    saved(path, Image.fromarray(np.dstack([GREY, GREY, GREY * 0])))
    with pytest.raises(InputError, match="is a coloured mask"):
        read.classes(path)


def test_a_rescale_makes_hu_of_a_16_bit_png(tmp_path):
    path = tmp_path / "slice.png"
    cv2.imwrite(str(path), np.array([[0, 1000, 2040]], np.uint16))
    scan = read.scan(path, "CT", rescale_intercept=-2000.0)
    assert (scan.units, scan.voxels.tolist()) == ("HU", [[-2000, -1000, 40]])


def test_a_constant_image_is_refused(tmp_path):
    path = saved(tmp_path / "x.png", Image.fromarray(GREY * 0 + 7))
    with pytest.raises(InputError, match=r"x.png is constant: every value is 7"):
        read.scan(path, "XR")


def test_values_that_are_no_numbers_are_refused(tmp_path):
    values = GREY.astype(np.float32)
    values[0, 0] = np.nan
    with pytest.raises(InputError, match="holds values that are no numbers"):
        read.scan(tiff(tmp_path / "x.tif", values), "CT")


def test_a_file_of_no_known_type_is_refused_with_those_that_are(tmp_path):
    path = tmp_path / "x.pdf"
    path.write_bytes(b"%PDF-1.7 and more")
    with pytest.raises(InputError, match=r"x.pdf is of no known type; known: .png, .jpg"):
        read.scan(path, "XR")
