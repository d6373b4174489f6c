import os
import subprocess
import sys

import documented
import numpy as np
import pydicom
import pytest
import tensorflow as tf
from dicom_files import ct, dataset, save
from PIL import Image
from pydicom.data import get_testdata_file

from data_pipeline import raster

pytest.importorskip("tensorflow_io", reason="TIFF and DICOM are decoded in the graph by tfio")

from data_pipeline import graph_images

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (37, 53), np.uint8)
RGB = RNG.integers(0, 256, (37, 53, 3), np.uint8)
OPAQUE = np.full_like(GREY, 255)
OFFERED = {
    "1": Image.fromarray(GREY > 128),
    "L": Image.fromarray(GREY),
    "P": Image.fromarray(RGB).quantize(64),
    "LA": Image.fromarray(np.dstack([GREY, OPAQUE])),
    "RGB": Image.fromarray(RGB),
    "RGBA": Image.fromarray(np.dstack([RGB, OPAQUE])),
}
REFUSED = {
    "16 bit": Image.fromarray(GREY.astype(np.uint16) * 257),
    "float": Image.fromarray(GREY.astype(np.float32)),
    "transparent": Image.fromarray(np.dstack([RGB, GREY])),
    "CMYK": Image.fromarray(RGB).convert("CMYK"),
}


def decoded(path, decoder):
    return [np.asarray(image) for _, image in graph_images.stream([str(path)], decoder)]


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
@pytest.mark.parametrize("mode", OFFERED)
def test_tiff_of_8_bits_is_decoded_in_the_graph_as_the_reader_does(tmp_path, mode, compression):
    path = tmp_path / "a.tif"
    OFFERED[mode].save(path, compression=compression)
    np.testing.assert_array_equal(decoded(path, "tiff")[0], raster.read(path))


@pytest.mark.parametrize("tag", [0, 1])  # which end of the scale is white
def test_tiff_in_the_graph_knows_which_end_is_white(tmp_path, tag):
    path = tmp_path / "a.tif"
    Image.fromarray(GREY).save(path, tiffinfo={262: tag})
    np.testing.assert_array_equal(decoded(path, "tiff")[0], raster.read(path))


@pytest.mark.parametrize("what", REFUSED)
def test_what_tiff_loses_in_the_graph_is_refused(tmp_path, what):
    path = tmp_path / "a.tif"
    REFUSED[what].save(path)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"not decoded in the graph|transp"):
        decoded(path, "tiff")


def test_several_pages_and_damaged_files_are_refused_in_the_graph(tmp_path):
    path = tmp_path / "a.tif"
    OFFERED["L"].save(path, save_all=True, append_images=[OFFERED["L"]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="holds 2 images"):
        decoded(path, "tiff")
    path.write_bytes(b"II*\0nothing")
    with pytest.raises(tf.errors.InvalidArgumentError, match="damaged"):
        decoded(path, "tiff")


def test_an_unsigned_dicom_xray_is_decoded_as_by_pydicom(tmp_path):
    pixels = RNG.integers(0, 4096, (40, 30), np.uint16)
    path = save(tmp_path / "a.dcm", dataset(pixels, bits_stored=12))
    np.testing.assert_array_equal(decoded(path, "proven-dicom")[0], pixels)


SIGNED = dataset(np.arange(-100, 100, dtype=np.int16).reshape(10, 20))
RESCALED = dataset(
    np.arange(200, dtype=np.uint16).reshape(10, 20), RescaleSlope=2, RescaleIntercept=-9
)


# Which it inverts to values that are off by one here and there.
INVERTED = dataset(
    np.arange(4096, dtype=np.uint16).reshape(64, 64),
    bits_stored=12,
    PhotometricInterpretation="MONOCHROME1",
)


@pytest.mark.parametrize(
    "made", [SIGNED, RESCALED, INVERTED], ids=["signed", "rescaled", "inverted"]
)
def test_a_dicom_file_that_tensorflow_io_decodes_otherwise_is_refused(tmp_path, made):
    path = save(tmp_path / "a.dcm", made)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"to other values|pixelDepth"):
        decoded(path, "proven-dicom")


def test_ct_is_refused_in_the_graph(tmp_path):
    path = save(tmp_path / "a.dcm", ct(np.arange(200, dtype=np.uint16).reshape(10, 20)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="is CT, not an X-ray"):
        decoded(path, "proven-dicom")


def test_tensorflow_io_gives_neither_stored_values_nor_hu_of_a_rescaled_ct():
    import tensorflow_io as tfio

    path = get_testdata_file("CT_small.dcm")
    stored = pydicom.dcmread(path).pixel_array
    theirs = tfio.image.decode_dicom_image(tf.io.read_file(path), dtype=tf.float32)
    assert (stored.min(), stored.max()) == (128, 2191)
    assert (float(theirs.numpy().min()), float(theirs.numpy().max())) == (65792, 69918)


def test_several_files_come_in_their_order(tmp_path):
    paths = []
    for number in range(5):
        paths.append(str(tmp_path / f"{number}.tif"))
        Image.fromarray(np.full((4, 6 + number), number, np.uint8)).save(paths[-1])
    found = [
        (path.numpy().decode(), image.numpy()) for path, image in graph_images.stream(paths, "tiff")
    ]
    assert [path for path, _ in found] == paths
    assert [image.shape for _, image in found] == [(4, 6 + n) for n in range(5)]
    assert all((image == number).all() for number, (_, image) in enumerate(found))


def test_the_documented_example_streams_a_folder_of_films(tmp_path):
    (tmp_path / "films").mkdir()
    for number in (7, 3):
        Image.fromarray(np.full((4, 6), number, np.uint8)).save(tmp_path / f"films/{number}.tif")
    done = subprocess.run(
        [sys.executable, "-c", documented.example("data.md", "graph_images.stream")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(documented.DOCS.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "films/3.tif float32 (4, 6) 3.0",
        "films/7.tif float32 (4, 6) 7.0",
    ]


def test_another_type_than_tiff_is_refused(tmp_path):
    path = tmp_path / "a.png"
    OFFERED["L"].save(path)
    with pytest.raises(tf.errors.InvalidArgumentError, match="PNG of mode L is not decoded"):
        decoded(path, "tiff")
