import pathlib
import warnings

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import ct, dataset, save
from pydicom import examples
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from data_pipeline import raster, read
from data_pipeline.errors import InputError

PYDICOM_FILES = pathlib.Path(pydicom.__file__).parent / "data"
RAMP = np.arange(24, dtype=np.uint16).reshape(4, 6) * 170


def refused(path, modality="XR"):
    with pytest.raises(InputError) as caught:
        read.scan(path, modality)
    assert str(path) in str(caught.value)
    assert "ecret" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
    ids=lambda syntax: syntax.name,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_an_uncompressed_xray_is_read_as_stored(tmp_path, syntax, dtype):
    pixels = (RAMP // 17).astype(dtype) - (99 if dtype == np.int16 else 0)
    path = save(tmp_path / "xray.dcm", dataset(pixels, syntax=syntax))
    scan = read.scan(path, "XR")
    np.testing.assert_array_equal(scan.voxels, pixels)
    assert (scan.modality, scan.units, scan.source) == ("XR", "stored", str(path))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=lambda s: s.name)
def test_a_losslessly_compressed_ct_is_read_as_stored(tmp_path, syntax):
    made = ct(np.tile(RAMP, (10, 10)), bits_stored=12)
    made.compress(syntax)
    path = save(tmp_path / "ct.dcm", made)
    expected = np.tile(RAMP, (10, 10)).astype(np.float32) - 1024
    np.testing.assert_array_equal(read.scan(path, "CT").voxels, expected)


def test_jpeg_ls_is_read_as_stored(tmp_path):
    files = PYDICOM_FILES / "test_files"
    made = pydicom.dcmread(files / "MR_small_jpeg_ls_lossless.dcm")
    made.Modality, made.RescaleSlope, made.RescaleIntercept = "CT", 1, 0
    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    path = save(tmp_path / "jpeg_ls.dcm", made)
    expected = pixel_array(files / "MR_small.dcm")  # the same image, uncompressed
    np.testing.assert_array_equal(read.scan(path, "CT").voxels, expected)


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_jpeg_gdcm.dcm",  # lossless
        "JPEGLSNearLossless_08.dcm",
        "JPEGLSNearLossless_16.dcm",
        "JPGExtended.dcm",  # 12 bits
    ],
)
def test_jpeg_is_decoded_as_by_simpleitk(tmp_path, name):
    made = pydicom.dcmread(PYDICOM_FILES / "test_files" / name)
    made.Modality = "DX"
    for keyword in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"):
        if keyword in made:
            delattr(made, keyword)
    path = save(tmp_path / name, made)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
    if expected.ndim == 3:
        expected = raster.luma(expected)
    np.testing.assert_array_equal(read.scan(path, "XR").voxels, expected)


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_gdcm.dcm", "JPEGLSNearLossless_16.dcm"])
def test_a_jpeg_stream_cut_short_or_of_another_size_is_refused(tmp_path, name):
    made = pydicom.dcmread(PYDICOM_FILES / "test_files" / name)
    made.Rows += 1
    assert "damaged, cut short" in refused(save(tmp_path / "another.dcm", made))
    made.Rows -= 1
    stream = pydicom.encaps.get_frame(made.PixelData, 0, number_of_frames=1)
    made.PixelData = pydicom.encaps.encapsulate([stream[: len(stream) // 2]])
    assert "damaged, cut short" in refused(save(tmp_path / "short.dcm", made))


def test_a_jpeg_2000_stream_of_another_size_is_refused(tmp_path):
    made = pydicom.dcmread(PYDICOM_FILES / "test_files" / "693_J2KI.dcm")
    made.Columns = 500
    assert "damaged, cut short" in refused(save(tmp_path / "another.dcm", made), "CT")


def test_a_transfer_syntax_without_a_decoder_is_named(tmp_path):
    made = dataset(RAMP)
    made.compress(RLELossless)
    made.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    message = refused(save(tmp_path / "film.dcm", made))
    assert "no decoder for the transfer syntax MPEG2 Main Profile / Main Level" in message


@pytest.mark.filterwarnings("ignore:Expected explicit VR, but found implicit VR")
@pytest.mark.parametrize(
    "path",
    [
        p
        for p in sorted(PYDICOM_FILES.rglob("*"))
        if p.suffix == ".dcm" or (p.name.isdecimal() and p.is_file())
    ],
    ids=lambda path: path.name,
)
def test_each_test_file_of_pydicom_reads_as_pydicom_says_or_is_refused(path):
    for modality in ("XR", "CT"):
        scan, reason = scan_or_reason(path, modality)
        if scan is None:
            assert str(path) in reason
        else:
            np.testing.assert_allclose(scan.voxels, as_pydicom_says(path, modality), rtol=1e-6)


def scan_or_reason(path, modality):
    try:
        return read.scan(path, modality), ""
    except InputError as error:
        return None, str(error)


def as_pydicom_says(path, modality):
    made = pydicom.dcmread(path)
    pixels = pixel_array(made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if modality == "CT":
            return apply_modality_lut(pixels, made)
        if made.PhotometricInterpretation == "MONOCHROME1":
            top = apply_modality_lut(np.array([0, 2**made.BitsStored - 1]), made).sum()
            return top - apply_voi_lut(apply_modality_lut(pixels, made), made)
        if made.SamplesPerPixel == 1:
            return apply_voi_lut(apply_modality_lut(pixels, made), made)
    return np.floor(pixels @ np.array([0.299, 0.587, 0.114]) + 0.5 + 1e-9)


@pytest.mark.filterwarnings("ignore:Expected explicit VR, but found implicit VR")
def test_most_images_among_the_test_files_of_pydicom_that_are_xrays_or_ct_are_read():
    read_ones = set()
    for path in PYDICOM_FILES.joinpath("test_files").glob("*.dcm"):
        for modality in ("XR", "CT"):
            if scan_or_reason(path, modality)[0] is not None:
                read_ones.add(path.name)
    # Those that are called OT, nothing, or CT, and hold one image of 8 to 32 bits.
    assert {
        "CT_small.dcm",
        "693_J2KI.dcm",
        "JPEGLSNearLossless_16.dcm",
        "image_dfl.dcm",
    } <= read_ones
    assert {name for name in read_ones if name.startswith("SC_rgb")} == {
        path.name
        for path in PYDICOM_FILES.joinpath("test_files").glob("SC_rgb*.dcm")
        if "2frame" not in path.name
    }


def test_colour_becomes_luma(tmp_path):
    rgb = np.zeros((2, 2, 3), np.uint8)
    rgb[0, 0], rgb[0, 1], rgb[1, 0] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    path = save(tmp_path / "colour.dcm", dataset(rgb))
    # 255 times 0.299, 0.587, 0.114, rounded.
    np.testing.assert_array_equal(read.scan(path, "XR").voxels, [[76, 150], [29, 0]])


def test_a_palette_is_looked_up(tmp_path):
    made = examples.palette_color.copy()
    made.Modality = "OT"
    path = save(tmp_path / "palette.dcm", made)
    rgb = pydicom.pixels.apply_color_lut(made.pixel_array, made)
    np.testing.assert_array_equal(read.scan(path, "XR").voxels, raster.luma(rgb))


def test_unused_high_bits_do_not_count(tmp_path):
    # Bit 12 and above held overlays once (PS3.5 8.1.2).
    path = save(tmp_path / "overlay.dcm", dataset(RAMP | np.uint16(0xF000), bits_stored=12))
    np.testing.assert_array_equal(read.scan(path, "XR").voxels, RAMP)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"PixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
        ({"ImagerPixelSpacing": [0.1, 0.15]}, (0.1, 0.15)),
        ({"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": [0.1, 0.15]}, (0.2, 0.3)),
        ({}, None),
    ],
)
def test_spacing_of_an_xray_is_rows_then_columns(tmp_path, tags, expected):
    scan = read.scan(save(tmp_path / "xray.dcm", dataset(RAMP, **tags)), "XR")
    assert scan.spacing_mm == expected


def test_a_file_is_known_by_its_content_not_its_name(tmp_path):
    path = save(tmp_path / "IM000001", dataset(RAMP))
    assert read.scan(path, "XR").shape == (4, 6)


def test_a_ct_slice_is_in_hu_with_its_place(tmp_path):
    path = save(tmp_path / "slice.dcm", ct(RAMP, (10, 20, 30)))
    scan = read.scan(path, "CT")
    np.testing.assert_array_equal(scan.voxels, RAMP.astype(np.float32) - 1024)
    assert (scan.units, scan.spacing_mm) == ("HU", (0.5, 0.75))
    np.testing.assert_array_equal(scan.affine @ [0, 2, 4, 1], [13, 21, 30, 1])


def test_a_slice_that_is_stored_face_down_is_turned(tmp_path):
    made = ct(RAMP, (10, 20, 30), ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    scan = read.scan(save(tmp_path / "slice.dcm", made), "CT")
    np.testing.assert_array_equal(scan.voxels, RAMP[::-1, ::-1].astype(np.float32) - 1024)
    # The last stored pixel, 5 columns to the right (-x) and 3 rows to the front (-y), comes first.
    np.testing.assert_array_equal(scan.affine @ [0, 0, 0, 1], [10 - 3.75, 20 - 1.5, 30, 1])


@pytest.mark.parametrize(("padding", "hu"), [(3000, -1000), (-2000, -3024)])
def test_padding_of_a_ct_never_looks_like_tissue(tmp_path, padding, hu):
    pixels = RAMP.astype(np.int16)
    pixels[0, 0] = padding
    path = save(tmp_path / "slice.dcm", ct(pixels, PixelPaddingValue=padding))
    values = read.scan(path, "CT").voxels
    assert values[0, 0] == hu
    np.testing.assert_array_equal(values[1:], RAMP[1:].astype(np.float32) - 1024)


def test_a_ct_that_does_not_say_how_to_come_to_hu_needs_to_be_told(tmp_path):
    made = ct(RAMP, RescaleSlope=None, RescaleIntercept=None)
    path = save(tmp_path / "slice.dcm", made)
    assert "give rescale_slope and rescale_intercept" in refused(path, "CT")
    scan = read.scan(path, "CT", rescale_slope=2.0, rescale_intercept=-500.0)
    np.testing.assert_array_equal(scan.voxels, RAMP.astype(np.float32) * 2 - 500)


def test_an_intercept_is_not_applied_twice(tmp_path):
    path = save(tmp_path / "slice.dcm", ct(RAMP))
    with pytest.raises(InputError, match=r"itself says HU = 1 \* stored -1024; leave out"):
        read.scan(path, "CT", rescale_intercept=-1000.0)


@pytest.mark.parametrize(
    ("made", "modality", "message"),
    [
        (lambda: dataset(RAMP), "CT", "is DX, not CT"),
        (lambda: ct(RAMP), "XR", "is CT, not an X-ray"),
        (lambda: dataset(RAMP, Modality="MR"), "XR", "is MR, not an X-ray"),
        (lambda: dataset(RAMP, NumberOfFrames=2), "XR", "has 2 frames"),
        (lambda: dataset(RAMP, Rows=5), "XR", "its header asks for 60 bytes, the file has 48"),
        (lambda: dataset(RAMP, Rows=65535, Columns=65535), "XR", "4,294,836,225 pixels"),
        (lambda: dataset(RAMP, HighBit=13, bits_stored=12), "XR", "up to bit 13"),
        (lambda: dataset(RAMP, PhotometricInterpretation="HSV"), "XR", "interpretation 'HSV'"),
        (lambda: dataset(RAMP, PixelData=None), "XR", "holds no image"),
        (lambda: dataset(RAMP, PixelSpacing=[0, 0.2]), "XR", "has pixels of 0 x 0.2 mm"),
        (lambda: ct(RAMP, ImagePositionPatient=None), "CT", "lacks the place of its slice"),
        (lambda: ct(RAMP, RescaleType="OD"), "CT", "rescales to 'OD', not to HU"),
        (lambda: ct(RAMP, RescaleSlope=0), "CT", "RescaleSlope 0"),
        (lambda: ct(RAMP, PhotometricInterpretation="MONOCHROME1"), "CT", "is MONOCHROME1"),
        (lambda: ct(RAMP, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "CT", "no CT slices"),
        (lambda: ct(RAMP, NumberOfFrames=4), "CT", "does not say where each lies"),
        (
            lambda: ct(RAMP, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
            "CT",
            "single slice that is not axial",
        ),
        (lambda: dataset(RAMP * 0), "XR", "is constant: every value is 0"),
    ],
)
def test_what_cannot_be_read_right_is_refused_with_the_reason(tmp_path, made, modality, message):
    assert message in refused(save(tmp_path / "some.dcm", made()), modality)


def test_a_file_cut_short_is_refused(tmp_path):
    whole = save(tmp_path / "whole.dcm", dataset(RAMP)).read_bytes()
    path = tmp_path / "short.dcm"
    path.write_bytes(whole[:-20])
    assert "its header asks for 48 bytes, the file has 28" in refused(path)


def test_a_missing_file_is_named(tmp_path):
    assert "No such file" in refused(tmp_path / "missing.dcm")
