"""Folders of DICOM files become manifests; trees of the sample's series and of small files."""

import shutil

import nibabel as nib
import numpy as np
import pytest
from dicom_files import ct, dataset, save, series
from pydicom.data import get_testdata_file
from pydicom.uid import SecondaryCaptureImageStorage
from test_data_pipeline_index import indexed, mask, picture

from data_pipeline import index
from data_pipeline.cases import SAMPLE, read_scan
from data_pipeline.errors import InputError
from data_pipeline.layouts import plain_dicom

SAMPLE_SERIES = SAMPLE.parent / "ct_series"
PIXELS = np.arange(480, dtype=np.uint16).reshape(24, 20)


def found_in(root, tmp_path, **flags):
    """Indexes a tree, reads all back from the manifest, and returns the cases by id."""
    names, _, found = indexed(root, tmp_path, **flags)
    return names, {case.id: case for case in found.cases}, found


def film(path, **tags):
    return save(path, dataset(PIXELS, **tags))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def test_the_sample_series_is_one_case_whether_named_itself_or_from_above(root, tmp_path):
    shutil.copytree(SAMPLE_SERIES / "A0002", root / "A0002")
    names, found, _ = found_in(root, tmp_path)
    assert names == ["plain DICOM"]
    assert set(found) == {"data-A0002"}
    assert found["data-A0002"].image == root / "A0002"
    assert found["data-A0002"].modality == "CT"
    _, inside, _ = found_in(root / "A0002", tmp_path)
    assert inside["A0002"].image == root / "A0002"
    assert inside["A0002"].patient_id == found["data-A0002"].patient_id


def test_series_in_folders_of_their_own_are_a_case_each(root, tmp_path):
    series(root / "p1" / "CT", SeriesInstanceUID="1.2.1")
    series(root / "p2" / "CT", SeriesInstanceUID="1.2.2", count=3)
    _, found, _ = found_in(root, tmp_path)
    assert {id_: case.image for id_, case in found.items()} == {
        "data-p1-CT": root / "p1" / "CT",
        "data-p2-CT": root / "p2" / "CT",
    }


def test_series_mixed_in_one_folder_are_named_by_number_or_where_that_is_not_one_by_uid(
    root, tmp_path
):
    for number, uid in [(3, "1.2.3"), (4, "1.2.4"), (4, "1.2.5")]:
        for n in range(2):
            slice_ = ct(PIXELS + n, (0, 0, n), SeriesNumber=number, SeriesInstanceUID=uid)
            save(root / f"{uid}-{n}", slice_)
    _, found, _ = found_in(root, tmp_path)
    assert {id_: case.image.name for id_, case in found.items()} == {
        "data-3": "data#3",
        "data-1.2.4": "data#1.2.4",
        "data-1.2.5": "data#1.2.5",
    }


def test_a_series_is_told_from_a_film_with_the_same_number_in_its_folder(root, tmp_path):
    series(root, SeriesNumber=1, SeriesInstanceUID="1.2.1")
    film(root / "film.dcm", SeriesNumber=1, SeriesInstanceUID="1.2.2")
    _, found, _ = found_in(root, tmp_path)
    assert {id_: case.modality for id_, case in found.items()} == {
        "data-1.2.1": "CT",
        "data-film": "XR",
    }


def test_a_series_of_one_file_is_that_file(root, tmp_path):
    root.mkdir()
    shutil.copy(get_testdata_file("CT_small.dcm"), root / "1.3.6.1")
    _, found, _ = found_in(root, tmp_path)
    assert found["data-1.3.6.1"].image == root / "1.3.6.1"


def test_films_are_a_case_each_with_their_view(root, tmp_path):
    film(root / "a.dcm", ViewPosition="PA")
    film(root / "b", Modality="CR", ViewPosition="secret")
    digitised = dataset(PIXELS, Modality="CR")
    digitised.SOPClassUID = SecondaryCaptureImageStorage
    save(root / "c.dcm", digitised)
    _, found, _ = found_in(root, tmp_path)
    assert {id_: (case.modality, case.view) for id_, case in found.items()} == {
        "data-a": ("XR", "pa"),
        "data-b": ("XR", ""),
        "data-c": ("XR", ""),
    }


def test_what_is_neither_slice_nor_film_is_left_out_and_counted(root, tmp_path):
    series(root / "ct", SeriesInstanceUID="1.2.1")
    save(root / "ct" / "scout.dcm", ct(PIXELS, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    shot = dataset(np.zeros((8, 8, 3), np.uint8), Modality="OT")
    shot.SOPClassUID = SecondaryCaptureImageStorage
    save(root / "ct" / "dose.dcm", shot)
    for name in ("MR_small.dcm", "test-SR.dcm"):
        shutil.copy(get_testdata_file(name), root)
    picture(root / "viewer" / "logo.png")
    _, found, told = found_in(root, tmp_path)
    assert list(found) == ["data-ct"]
    assert {note for note in told.notes if note.startswith("left out")} == {
        "left out (localizer): 1",
        "left out (secondary capture): 1",
        "left out (MR): 1",
        "left out (without image): 1",
        f"left out (not DICOM): 1, such as {root / 'viewer' / 'logo.png'}",
    }


def test_a_modality_may_be_chosen(root, tmp_path):
    series(root / "ct")
    film(root / "film.dcm")
    _, found, told = found_in(root, tmp_path, modality="XR")
    assert list(found) == ["data-film"]
    assert "left out (CT): 5" in told.notes


def test_patients_are_kept_together_under_a_pseudonym(root, tmp_path):
    for name, patient in [("a", "4711"), ("b", "4711 "), ("c", "4712"), ("d", "")]:
        film(root / f"{name}.dcm", PatientID=patient)
    of = {}
    for salt in ("", "x"):
        _, found, _ = found_in(root, tmp_path, salt=salt)
        of[salt] = [found[f"data-{name}"].patient_id for name in "abcd"]
        assert of[salt][0] == of[salt][1] != of[salt][2]
        assert of[salt][3] == ""
    # printf 4711 | openssl dgst -sha256 -hmac x
    assert of["x"][0] == "b48021974540"
    assert not set(of["x"][:3]) & set(of[""][:3])


def test_nothing_of_a_patient_is_told_or_written(root, tmp_path, capsys):
    series(root / "ct")
    film(root / "film.dcm", PatientBirthDate="19010203")
    out = tmp_path / "manifest.csv"
    index.main([str(root), "--out", str(out)])
    told = capsys.readouterr().out
    assert "cases: 2, CT 1, XR 1" in told
    assert "patients: 1 known" in told
    assert "--salt SECRET" in told
    assert "all cases have one PatientID" in told
    for secret in ("Secret", "secret-id", "19010203"):
        assert secret not in told + out.read_text()


def test_masks_beside_films_and_series_are_used(root, tmp_path):
    film(root / "films" / "a.dcm")
    mask(root / "lung_masks" / "a.png")
    film(root / "here" / "a.dcm")
    mask(root / "here" / "masks" / "a_mask.png")
    for number in (3, 4):
        series(
            root / "ct" / "mixed" / str(number),
            SeriesNumber=number, SeriesInstanceUID=f"1.2.{number}", shape=(24, 20), count=6,
        )  # fmt: skip
    for path in (root / "ct" / "mixed" / "4").iterdir():
        path.rename(root / "ct" / "mixed" / f"4-{path.name}")
    lung = np.ones((6, 24, 20), np.uint8)
    affine = np.diag([-0.75, -0.5, 2, 1])
    affine[:3, 3] = -10, -20, 30
    nib.save(nib.Nifti1Image(lung.T, affine), root / "lung_masks" / "mixed-4.nii.gz")
    _, found, told = found_in(root, tmp_path, label="infection")
    assert found["data-films-a"].lung_mask == root / "lung_masks" / "a.png"
    assert found["data-here-a"].infection_mask == root / "here" / "masks" / "a_mask.png"
    # Above the folder that is asked for nothing is looked for; nearest comes first.
    assert found["data-here-a"].lung_mask == root / "lung_masks" / "a.png"
    assert found["data-ct-mixed-4"].lung_mask == root / "lung_masks" / "mixed-4.nii.gz"
    assert found["data-ct-mixed-3"].annotated(("lung", "infection")) == ()
    assert not any("have the name of no scan" in note for note in told.notes)


def test_a_mask_of_no_scan_is_told_and_if_there_is_none_of_any_refused(root, tmp_path):
    film(root / "a.dcm")
    mask(root / "lung_masks" / "b.png")
    unused = f"1 masks have the name of no scan, such as {root / 'lung_masks' / 'b.png'}"
    with pytest.raises(InputError, match=unused):
        found_in(root, tmp_path)
    mask(root / "lung_masks" / "a.png")
    _, _, told = found_in(root, tmp_path)
    assert any(note.startswith(unused) for note in told.notes)


def test_dicom_in_folders_of_masks_is_no_scan(root, tmp_path):
    film(root / "a.dcm")
    film(root / "lung_masks" / "a.dcm")
    _, found = index.find(root, tmp_path)
    assert [case.id for case in found.cases] == ["data-a"]
    assert "left out (in a folder of masks): 1" in found.notes


def test_one_uid_for_series_of_two_patients_is_told_apart_by_folder_or_refused(root, tmp_path):
    for patient in "ab":
        series(root / patient, PatientID=patient)
    assert set(found_in(root, tmp_path)[1]) == {"data-a", "data-b"}
    for patient in "ab":
        for path in (root / patient).iterdir():
            path.rename(root / f"{patient}{path.name}")
    with pytest.raises(InputError, match="data holds slices of two patients in one SeriesInst"):
        found_in(root, tmp_path)


def test_a_damaged_file_is_told_and_the_rest_is_indexed(root):
    series(root / "whole", SeriesInstanceUID="1.2.1")
    series(root / "hurt", SeriesInstanceUID="1.2.2")
    (root / "hurt" / "b.dcm").write_bytes(b"\0" * 40)
    found = plain_dicom.series_and_films(root, modality="", label="", salt="")
    cases_by_id = {case.id: case for case in found.cases}
    assert set(cases_by_id) == {"data-whole", "data-hurt"}
    told = f"{root / 'hurt' / 'b.dcm'} is damaged, cut short, or no DICOM file at all"
    assert f"left out (damaged): 1; {told}" in found.notes
    assert read_scan(cases_by_id["data-whole"]).shape == (5, 4, 6)
    with pytest.raises(InputError, match=r"b\.dcm is damaged"):  # a slice may be missing
        read_scan(cases_by_id["data-hurt"])


def test_a_folder_of_damaged_files_alone_is_refused(root, tmp_path):
    root.mkdir()
    (root / "b.dcm").write_bytes(b"\0" * 40)
    with pytest.raises(InputError, match=r"b\.dcm is damaged, cut short, or no DICOM file"):
        found_in(root, tmp_path)


def test_images_of_dicom_need_no_modality_and_pictures_among_them_do(root, tmp_path):
    film(root / "images" / "a.dcm")
    mask(root / "lung_masks" / "a.png")
    names, found, _ = found_in(root, tmp_path)
    assert names == ["plain DICOM"]
    assert found["data-images-a"].lung_mask == root / "lung_masks" / "a.png"
    picture(root / "images" / "b.png")
    with pytest.raises(InputError, match="say --modality XR or CT"):
        found_in(root, tmp_path)


def test_a_folder_of_other_dicom_says_what_it_holds(root, tmp_path):
    root.mkdir()
    shutil.copy(get_testdata_file("MR_small.dcm"), root)
    with pytest.raises(InputError, match=r"CT series .* or X-ray films .*; left out \(MR\): 1"):
        found_in(root, tmp_path)


def test_no_pixels_are_read(root, tmp_path):
    path = film(root / "a.dcm")
    path.write_bytes(path.read_bytes()[:-400])
    _, found = index.find(root, tmp_path)
    assert len(found.cases) == 1


def test_a_localizer_of_another_modality_in_the_folder_makes_a_series_need_its_number(
    root, tmp_path
):
    series(root, SeriesNumber=3)
    scout = ct(PIXELS, Modality="MR", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scout.SeriesInstanceUID = "1.2.9"
    save(root / "scout.dcm", scout)
    _, found, told = found_in(root, tmp_path)
    assert found["data-3"].image.name == "data#3"
    assert "left out (localizer): 1" in told.notes
