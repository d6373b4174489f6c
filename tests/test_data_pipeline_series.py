import pathlib
import shutil
import zipfile

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import ct, dataset, save, series
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    SecondaryCaptureImageStorage,
    VLPhotographicImageStorage,
)

from data_pipeline import cases, read, write
from data_pipeline import series as series_files
from data_pipeline.errors import InputError

SAMPLE = cases.SAMPLE.parent / "ct_series" / "A0002"


def stored(count=5, cols=6, rows=4):
    return 100.0 * np.arange(count)[:, None, None] + np.arange(cols) + np.zeros((count, rows, cols))


def refused(path):
    with pytest.raises(InputError) as caught:
        read.scan(path, "CT")
    assert "ecret" not in str(caught.value)
    return str(caught.value)


def tilted(folder, gap, along_y):
    for n in range(4):
        pixels = np.full((4, 6), n, np.uint16)
        save(folder / f"{n}.dcm", ct(pixels, (0, along_y * n, gap * n)))
    return folder


def test_slices_are_ordered_by_position_whatever_their_names_and_numbers(tmp_path):
    scan = read.scan(series(tmp_path), "CT")
    np.testing.assert_array_equal(scan.voxels, stored() - 1024)
    assert scan.spacing_mm == (2.0, 0.5, 0.75)
    np.testing.assert_array_equal(scan.affine @ [3, 2, 4, 1], [10 + 3, 20 + 1, 30 + 6, 1])


def test_a_series_scanned_feet_first_comes_out_head_up_and_left_on_the_right(tmp_path):
    # Columns run to the patient's right (-x), so that the normal points to the feet.
    series(tmp_path, ImageOrientationPatient=[-1, 0, 0, 0, 1, 0])
    scan = read.scan(tmp_path, "CT")
    np.testing.assert_array_equal(scan.voxels, stored()[:, :, ::-1] - 1024)
    np.testing.assert_array_equal(scan.affine @ [0, 0, 0, 1], [10 - 5 * 0.75, 20, 30, 1])


def test_a_coronal_series_is_turned_to_axial(tmp_path):
    # Rows run down (-z), columns to the left, slices from front to back.
    for n in range(3):
        pixels = np.arange(24, dtype=np.uint16).reshape(4, 6) + 100 * n
        orientation = [1, 0, 0, 0, 0, -1]
        made = ct(pixels, (0, 3.0 * n, 0), ImageOrientationPatient=orientation)
        save(tmp_path / f"{n}.dcm", made)
    scan = read.scan(tmp_path, "CT")
    assert scan.shape == (4, 3, 6)
    assert scan.spacing_mm == (0.5, 3.0, 0.75)
    # Lowest slice, second row from the front, third column from the right: last row of slice 1.
    assert scan.voxels[0, 1, 2] == 100 + 3 * 6 + 2 - 1024


def test_hu_of_the_sample_series_are_those_of_simpleitk():
    case = next(c for c in cases.load() if c.id == "Lung_Dx-A0002")
    scan = cases.read_scan(case)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(case.image)))
    image = reader.Execute()
    np.testing.assert_array_equal(scan.voxels, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(scan.spacing_mm, image.GetSpacing()[::-1])
    np.testing.assert_allclose((scan.affine @ [0, 0, 0, 1])[:3], image.GetOrigin())
    np.testing.assert_allclose(
        (scan.affine @ [29, 7, 11, 1])[:3], image.TransformIndexToPhysicalPoint((11, 7, 29))
    )


def test_a_mask_of_the_sample_series_is_written_on_its_grid_and_comes_back_exactly(tmp_path):
    case = next(c for c in cases.load() if c.id == "Lung_Dx-A0002")
    scan = cases.read_scan(case)
    plane = scan.voxels < -500
    write.mask(tmp_path / "mask.nii.gz", plane, scan)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(case.image)))
    there, written = reader.Execute(), sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(there) < -500
    )
    np.testing.assert_allclose(written.GetOrigin(), there.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(written.GetDirection(), there.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(written.GetSpacing(), there.GetSpacing(), rtol=1e-6)
    np.testing.assert_array_equal(read.classes(tmp_path / "mask.nii.gz") > 0, plane)


def test_the_sample_series_stands_upright():
    # What each of these shows was seen in a viewer.
    voxels = cases.read_scan(next(c for c in cases.load() if c.id == "Lung_Dx-A0002")).voxels
    assert np.mean(voxels[0, 118:124, 300:340] < -900) > 0.9  # gas in the stomach rises: in front
    middle = slice(200, 300), slice(180, 330)
    assert np.mean(voxels[0][middle] > -300) > 0.95  # the abdomen is below
    assert np.mean(voxels[22][middle] < -600) > 0.3  # lungs and trachea are above
    liver_level = voxels[7]
    spine = np.argwhere(liver_level[:, 230:290] > 250)[:, 0]
    assert spine.mean() > 300  # behind the middle row
    right, left = liver_level[160:260, 80:200], liver_level[160:260, 312:432]
    assert np.mean(right > 0) > 0.9  # the liver, on the patient's right
    assert np.mean(left < -500) > 0.2  # lung and the gas of the stomach, on the left


def test_a_zip_archive_is_read_as_its_folder(tmp_path):
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in series(tmp_path / "study").iterdir():
            file.write(path, f"some/where/{path.name}")
        file.writestr("some/readme.txt", "not DICOM")
    scan = read.scan(archive, "CT")
    np.testing.assert_array_equal(scan.voxels, stored() - 1024)


def test_what_macos_and_media_put_into_an_archive_is_left_out(tmp_path):
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in series(tmp_path / "study").iterdir():
            file.write(path, f"study/{path.name}")
            file.writestr(f"__MACOSX/study/._{path.name}", b"\0\5\26\7 Mac OS X")
        file.writestr("study/.DS_Store", b"\0")
        file.writestr("study/DICOMDIR", bytes(128) + b"DICM and a directory")
    np.testing.assert_array_equal(read.scan(archive, "CT").voxels, stored() - 1024)


def test_a_screenshot_beside_the_slices_is_left_out(tmp_path):
    series(tmp_path)
    picture = np.zeros((8, 8, 3), np.uint8)
    for number, modality in enumerate(("CT", "OT")):
        shot = dataset(picture, Modality=modality, SeriesInstanceUID=f"1.2.{number}")
        shot.SOPClassUID = SecondaryCaptureImageStorage
        save(tmp_path / f"dose-report-{number}.dcm", shot)
    assert read.scan(tmp_path, "CT").shape == (5, 4, 6)
    assert series_files.names(series_files.members(tmp_path)) == []
    assert "holds no CT slices; localizers and screenshots are none" in refused(
        tmp_path / "dose-report-0.dcm"
    )


def test_a_photograph_beside_the_slices_is_no_screenshot(tmp_path):
    series(tmp_path)
    photograph = dataset(np.zeros((8, 8, 3), np.uint8), Modality="CT", SeriesInstanceUID="1.2.9")
    photograph.SOPClassUID = VLPhotographicImageStorage  # its UID begins as a screenshot's does
    save(tmp_path / "photograph.dcm", photograph)
    assert "photograph.dcm is RGB" in refused(tmp_path)


def test_a_list_of_files_is_read_as_its_folder(tmp_path):
    paths = sorted(series(tmp_path).iterdir())
    scan = read.scan_of_files(paths[::-1], "five slices")
    np.testing.assert_array_equal(scan.voxels, stored() - 1024)
    assert scan.source == "five slices"
    with pytest.raises(InputError, match="five slices lacks slices: 4 mm"):
        read.scan_of_files([p for p in paths if p.name != "03.dcm"], "five slices")


def test_other_files_in_the_folder_are_left_out(tmp_path):
    series(tmp_path)
    (tmp_path / "LICENSE").write_text("free")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    assert read.scan(tmp_path, "CT").shape == (5, 4, 6)


def test_a_damaged_dcm_file_in_the_folder_stops_the_reading(tmp_path):
    series(tmp_path)
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 40)
    assert "broken.dcm is damaged, cut short, or no DICOM file" in refused(tmp_path)


def test_several_series_are_listed_and_one_can_be_named(tmp_path):
    series(tmp_path / "a", SeriesNumber=3, ConvolutionKernel="B70f")
    series(tmp_path / "b", SeriesNumber=4, count=3, SeriesInstanceUID="1.2.3")
    message = refused(tmp_path)
    assert f"write {tmp_path}#NUMBER" in message
    assert "#3 (5 slices of (4, 6), kernel B70f)" in message
    assert "#4 (3 slices of (4, 6), kernel unknown)" in message
    assert read.scan(tmp_path.with_name(f"{tmp_path.name}#4"), "CT").shape == (3, 4, 6)
    assert read.scan(tmp_path.with_name(f"{tmp_path.name}#1.2.3"), "CT").shape == (3, 4, 6)
    assert "holds no series 5; it holds: #3" in refused(tmp_path.with_name(f"{tmp_path.name}#5"))


def test_a_localizer_in_the_series_is_left_out(tmp_path):
    series(tmp_path)
    scout = ct(np.zeros((9, 9), np.uint16), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    save(tmp_path / "scout.dcm", scout)
    assert read.scan(tmp_path, "CT").shape == (5, 4, 6)


def test_the_same_file_twice_counts_once(tmp_path):
    series(tmp_path)
    shutil.copy(tmp_path / "07.dcm", tmp_path / "copy of 07.dcm")
    np.testing.assert_array_equal(read.scan(tmp_path, "CT").voxels, stored() - 1024)


def test_two_slices_in_one_place_are_refused(tmp_path):
    series(tmp_path)
    save(tmp_path / "again.dcm", ct(np.zeros((4, 6), np.uint16), (10, 20, 32)))
    assert "two slices in one place" in refused(tmp_path)


def test_a_missing_slice_is_refused_and_the_gap_named(tmp_path):
    series(tmp_path, count=6)
    (tmp_path / "03.dcm").unlink()  # slice 2 of 0 to 5
    message = refused(tmp_path)
    assert "lacks slices: 4 mm between" in message
    assert "2 mm elsewhere" in message


def test_uneven_spacing_is_refused(tmp_path):
    for n, z in enumerate((0.0, 2.0, 4.0, 6.9, 9.8)):
        save(tmp_path / f"{n}.dcm", ct(np.full((4, 6), n, np.uint16), (0, 0, z)))
    assert "uneven spacing: 2 to 2.9 mm" in refused(tmp_path)


def test_positions_rounded_to_a_tenth_of_a_millimetre_are_even_enough(tmp_path):
    for n in range(40):
        position = (0, 0, round(1.25 * n, 1))
        save(tmp_path / f"{n}.dcm", ct(np.full((4, 6), n, np.uint16), position))
    scan = read.scan(tmp_path, "CT")
    assert scan.shape == (40, 4, 6)
    assert scan.spacing_mm[0] == pytest.approx(1.25, abs=0.01)


def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path):
    # atan(0.5 / 2) is 14.0 degrees.
    assert "gantry tilted by 14.0 degrees" in refused(tilted(tmp_path, gap=2.0, along_y=0.5))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "mixes orientations in one series"),
        ({"PixelSpacing": [0.5, 0.5]}, "mixes pixel spacings in one series"),
        ({"RescaleType": "OD"}, "rescales to 'OD', not to HU"),
        ({"Modality": "PT"}, "is PT, not CT"),
    ],
)
def test_one_slice_unlike_the_others_stops_the_reading(tmp_path, tags, message):
    series(tmp_path)
    save(tmp_path / "other.dcm", ct(np.zeros((4, 6), np.uint16), (10, 20, 40), **tags))
    assert message in refused(tmp_path)


def test_slices_of_two_sizes_are_refused(tmp_path):
    series(tmp_path)
    save(tmp_path / "other.dcm", ct(np.zeros((4, 8), np.uint16), (10, 20, 40)))
    assert "mixes slices of" in refused(tmp_path)


def test_slices_may_be_rescaled_each_in_its_own_way(tmp_path):
    for n in range(3):
        made = ct(np.full((2, 2), 8, np.uint16), (0, 0, n), RescaleSlope=n + 1)
        save(tmp_path / f"{n}.dcm", made)
    assert read.scan(tmp_path, "CT").voxels[:, 0, 0].tolist() == [-1016, -1008, -1000]


def enhanced(order, spacing=(0.5, 0.75), gap=2.0):
    """Returns an enhanced CT whose frame i is slice order[i] from below and stores 100 * that."""
    pixels = np.stack([np.full((4, 6), 100 * place, np.uint16) for place in order])
    made = ct(pixels[0], SOPClassUID=EnhancedCTImageStorage)
    for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
        delattr(made, keyword)
    del made.RescaleSlope, made.RescaleIntercept
    made.NumberOfFrames = len(order)
    made.PixelData = pixels.tobytes()
    shared, orientation, measures, values = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing = list(spacing)
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1000, "HU"
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    shared.PixelValueTransformationSequence = [values]
    made.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for place in order:
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, gap * place]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = frames
    return made


def test_an_enhanced_multi_frame_ct_is_ordered_by_its_frames_positions(tmp_path):
    scan = read.scan(save(tmp_path / "enhanced.dcm", enhanced([2, 0, 3, 1])), "CT")
    assert scan.voxels[:, 0, 0].tolist() == [-1000, -900, -800, -700]
    assert scan.spacing_mm == (2.0, 0.5, 0.75)


def test_an_enhanced_ct_may_be_compressed(tmp_path):
    made = enhanced([1, 0])
    made.compress(pydicom.uid.RLELossless)
    scan = read.scan(save(tmp_path / "enhanced.dcm", made), "CT")
    assert scan.voxels[:, 0, 0].tolist() == [-1000, -900]


def test_an_enhanced_ct_that_lacks_a_frame_is_refused(tmp_path):
    path = save(tmp_path / "enhanced.dcm", enhanced([0, 1, 3]))
    assert "lacks slices" in refused(path)


def test_an_enhanced_ct_with_frames_undescribed_is_refused(tmp_path):
    made = enhanced([0, 1, 2])
    made.NumberOfFrames = 2
    assert "has 2 frames and describes another number" in refused(save(tmp_path / "e.dcm", made))


def test_a_folder_with_one_xray_is_that_xray(tmp_path):
    pixels = np.arange(24, dtype=np.uint16).reshape(4, 6)
    save(tmp_path / "one.dcm", dataset(pixels))
    np.testing.assert_array_equal(read.scan(tmp_path, "XR").voxels, pixels)
    save(tmp_path / "two.dcm", dataset(pixels))
    with pytest.raises(InputError, match="holds 2 DICOM files; an X-ray is one"):
        read.scan(tmp_path, "XR")


def test_an_empty_folder_is_refused(tmp_path):
    assert "holds no CT slices" in refused(tmp_path)


def test_an_archive_that_claims_too_much_is_refused(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("one.dcm", b"\0" * 100_000)
    raw = bytearray(path.read_bytes())
    at = raw.rfind(b"PK\x01\x02")
    raw[at + 24 : at + 28] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(raw)
    assert "its header asks for 2,147,483,647 bytes" in refused(path)


def test_a_real_series_may_lie_anywhere(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / "x" / "y")
    assert read.scan(pathlib.Path(tmp_path), "CT").shape == (30, 512, 512)
