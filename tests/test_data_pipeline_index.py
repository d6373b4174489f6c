import pathlib

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from data_pipeline import cases, index, phantom, raster
from data_pipeline.errors import InputError

XRAY, MASK = phantom.xray(0, (24, 20))
CT, CT_MASK = phantom.ct(0, (6, 24, 20))


def picture(path, values=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = XRAY.voxels.astype(np.uint8) if values is None else values
    Image.fromarray(values).save(path)


def mask(path, plane=None, foreground=255):
    plane = MASK.planes[0] if plane is None else plane
    picture(path, plane.astype(np.uint8) * np.uint8(foreground))


def volume(path, values=None, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = CT.voxels if values is None else values
    nib.save(nib.Nifti1Image(values.T, np.diag([-1.0, -1, 1, 1])), path)


def indexed(root, tmp_path, **flags):
    """Indexes a tree through files, as a user does; returns cases by id, after reading all."""
    out = tmp_path / "out" / "manifest.csv"
    names, found = index.find(root, out.with_name("manifest_derived"), **flags)
    found, refused = index.derive(found)
    assert not refused
    index.write(out, found.cases)
    loaded = {case.id: case for case in cases.load(out)}
    for case in loaded.values():
        scan = cases.read_scan(case)
        planes = cases.read_mask(case, ("lung", "infection"), scan.shape)
        assert planes.labels == case.annotated(("lung", "infection"))
    return names, loaded, found


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.mark.parametrize("doubled", [True, False])
def test_covid_qu_ex(root, tmp_path, doubled):
    def part(name):
        return root / name / name if doubled else root / name

    bimcv = "sub-S03045_ses-E06160_run-1_bp-chest_vp-ap_dx"
    for split, group, name in [
        ("Train", "COVID-19", bimcv),
        ("Val", "Non-COVID", "person3_bacteria_11"),
        ("Test", "Normal", "Normal (7)"),
    ]:
        where = part("Infection Segmentation Data") / split / group
        picture(where / "images" / f"{name}.png")
        mask(where / "lung masks" / f"{name}.png")
        mask(where / "infection masks" / f"{name}.png", MASK.planes[1] & (group == "COVID-19"))
    # The same image once more in the other part, on another side of the split.
    for name in (bimcv, "covid_9"):
        where = part("Lung Segmentation Data") / "Test" / "COVID-19"
        picture(where / "images" / f"{name}.png")
        mask(where / "lung masks" / f"{name}.png")
    names, found, _ = indexed(root, tmp_path)
    assert names == ["COVID-QU-Ex"]
    assert set(found) == {
        f"covid_qu_ex-COVID-19-{bimcv}",
        "covid_qu_ex-Non-COVID-person3_bacteria_11",
        "covid_qu_ex-Normal-Normal (7)",
        "covid_qu_ex-COVID-19-covid_9",
    }
    covid = found[f"covid_qu_ex-COVID-19-{bimcv}"]
    assert (covid.split, covid.patient_id, covid.view) == ("train", "covid_qu_ex-sub-S03045", "ap")
    assert covid.annotated(("lung", "infection")) == ("lung", "infection")
    other = found["covid_qu_ex-Non-COVID-person3_bacteria_11"]
    assert (other.split, other.patient_id) == ("validation", "covid_qu_ex-person3")
    assert other.infection_mask is None  # its empty mask says nothing about its pneumonia
    assert found["covid_qu_ex-Normal-Normal (7)"].infection_mask is not None
    assert found["covid_qu_ex-COVID-19-covid_9"].annotated(("lung", "infection")) == ("lung",)


def test_qata_version_2_with_its_split_and_version_1_without(root, tmp_path):
    for part, name in [("Train Set", "covid_1"), ("Test Set", "covid_2"), ("", "covid_3")]:
        version = "QaTa-COV19-v2" if part else "QaTa-COV19-v1"
        where = root / "QaTa-COV19" / version / part
        picture(where / "Images" / f"{name}.png")
        mask(where / "Ground-truths" / f"mask_{name}.png")
    names, found, _ = indexed(root, tmp_path)
    assert names == ["QaTa-COV19"]
    assert {c.id: c.split for c in found.values()} == {
        "qata_cov19-covid_1": "train",
        "qata_cov19-covid_2": "test",
        "qata_cov19-covid_3": "",
    }
    assert found["qata_cov19-covid_1"].annotated(("lung", "infection")) == ("infection",)


def test_montgomery_joins_left_and_right(root, tmp_path):
    left = MASK.planes[0].copy()
    left[:, :10] = False
    where = root / "MontgomerySet"
    picture(where / "CXR_png" / "MCUCXR_0013_1.png")
    mask(where / "ManualMask" / "leftMask" / "MCUCXR_0013_1.png", left)
    mask(where / "ManualMask" / "rightMask" / "MCUCXR_0013_1.png", MASK.planes[0] & ~left)
    names, found, _ = indexed(root, tmp_path)
    assert names == ["Montgomery"]
    case = found["montgomery-MCUCXR_0013_1"]
    assert (case.diagnosis, case.patient_id) == ("tuberculosis", "montgomery-MCUCXR_0013")
    plane = cases.read_mask(case, ("lung",), (24, 20)).plane("lung")
    np.testing.assert_array_equal(plane, MASK.planes[0])


def test_shenzhen_keeps_images_without_a_mask(root, tmp_path):
    picture(root / "CXR_png" / "CHNCXR_0001_0.png")
    picture(root / "CXR_png" / "CHNCXR_0002_0.png")
    mask(root / "mask" / "CHNCXR_0001_0_mask.png")
    names, found, _ = indexed(root, tmp_path)
    assert names == ["Shenzhen"]
    assert found["shenzhen-CHNCXR_0001_0"].lung_mask is not None
    assert found["shenzhen-CHNCXR_0002_0"].lung_mask is None
    assert found["shenzhen-CHNCXR_0001_0"].diagnosis == "normal"


def test_the_merge_of_both_on_kaggle(root, tmp_path):
    where = root / "Lung Segmentation"
    for name, mask_name in [
        ("CHNCXR_0001_0", "CHNCXR_0001_0_mask"),
        ("MCUCXR_0001_0", "MCUCXR_0001_0"),
    ]:
        picture(where / "CXR_png" / f"{name}.png")
        mask(where / "masks" / f"{mask_name}.png")
    (where / "ClinicalReadings").mkdir()
    _, found, _ = indexed(root, tmp_path)
    assert {c.dataset for c in found.values()} == {"shenzhen", "montgomery"}
    assert all(c.lung_mask for c in found.values())


def test_jsrt_is_converted_and_its_masks_doubled(root, tmp_path):
    stored = np.zeros((2048, 2048), ">u2")
    stored[0, 1] = 4095  # darkest
    stored[1, 0] = 95
    (root / "All247images").mkdir(parents=True)
    (root / "All247images" / "JPCLN049.IMG").write_bytes(stored.tobytes())
    for side, column in (("left lung", 700), ("right lung", 300)):
        plane = np.zeros((1024, 1024), np.bool_)
        plane[512, column] = True
        mask(root / "scratch" / "fold1" / "masks" / side / "JPCLN049.gif", plane)
    names, found, _ = indexed(root, tmp_path)
    assert names == ["JSRT"]
    case = found["jsrt-JPCLN049"]
    image = raster.read(case.image)
    assert (image[0, 0], image[0, 1], image[1, 0]) == (4095, 0, 4000)
    plane = cases.read_mask(case, ("lung",), (2048, 2048)).plane("lung")
    corners = [[1024, 600], [1024, 601], [1024, 1400], [1024, 1401]]
    assert np.argwhere(plane).tolist() == corners + [[1025, c] for _, c in corners]
    assert (case.diagnosis, case.view) == ("nodule", "pa")


def test_a_jsrt_file_of_another_size_is_refused(root, tmp_path):
    (root / "All247images").mkdir(parents=True)
    (root / "All247images" / "JPCNN001.IMG").write_bytes(b"\0" * 99 * 2)
    with pytest.raises(InputError, match=r"JPCNN001.IMG is not a JSRT image"):
        indexed(root, tmp_path)


def test_radiography_database_brings_small_masks_to_their_images(root, tmp_path):
    where = root / "COVID-19_Radiography_Dataset"
    for group, name in [("COVID", "COVID-1"), ("Viral Pneumonia", "Viral Pneumonia-2")]:
        picture(where / group / "images" / f"{name}.png")
        plane = MASK.planes[0] if group == "COVID" else MASK.planes[0][::2, ::2]
        picture(where / group / "masks" / f"{name}.png", np.dstack([plane.astype("u1") * 255] * 3))
        (where / f"{group}.metadata.xlsx").write_bytes(b"")
    names, found, _ = indexed(root, tmp_path)
    assert names == ["COVID-19 Radiography Database"]
    assert found["covid19_radiography-COVID-1"].diagnosis == "COVID-19"
    case = found["covid19_radiography-Viral Pneumonia-2"]
    plane = cases.read_mask(case, ("lung",), (24, 20)).plane("lung")
    halved = np.kron(MASK.planes[0][::2, ::2], np.ones((2, 2), np.bool_)).astype(np.bool_)
    np.testing.assert_array_equal(plane, halved)


@pytest.mark.parametrize(("shape", "fits"), [((12, 10), True), ((13, 10), True), ((20, 20), False)])
def test_a_mask_of_other_proportions_than_its_image_is_refused(root, tmp_path, shape, fits):
    where = root / "COVID-19_Radiography_Dataset" / "COVID"
    picture(where / "images" / "COVID-1.png")  # 24 x 20; a side of 12.5 is rounded either way
    mask(where / "masks" / "COVID-1.png", np.ones(shape, np.bool_))
    if fits:
        indexed(root, tmp_path)
    else:
        with pytest.raises(
            InputError, match=r"20 x 20 pixels and its image 24 x 20: one .* stretched"
        ):
            indexed(root, tmp_path)


def test_a_case_that_is_refused_is_told_of_and_the_others_are_indexed(root, tmp_path, capsys):
    where = root / "COVID-19_Radiography_Dataset" / "COVID"
    for number, shape in enumerate([(12, 10), (20, 20), (12, 10)]):
        picture(where / "images" / f"COVID-{number}.png")
        mask(where / "masks" / f"COVID-{number}.png", np.ones(shape, np.bool_))
    with pytest.raises(SystemExit) as ended:
        index.main([str(root), "--out", str(tmp_path / "manifest.csv")])
    assert ended.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("left out: ")
    assert "COVID-1.png" in line
    indexed = [case.id for case in cases.load(tmp_path / "manifest.csv")]
    assert indexed == ["covid19_radiography-COVID-0", "covid19_radiography-COVID-2"]


def test_zenodo_says_which_volumes_are_a_window(root, tmp_path):
    windowed = np.clip((CT.voxels + 1250) / 1500 * 255, 0, 255).round().astype(np.float32)
    for name, values in [("coronacases_001", CT.voxels), ("radiopaedia_10_85902_1", windowed)]:
        volume(root / "COVID-19-CT-Seg_20cases" / f"{name}.nii.gz", values)
        volume(root / "Lung_Mask" / f"{name}.nii.gz", CT_MASK.planes[0].astype(np.uint8) * 2)
        volume(root / "Infection_Mask" / f"{name}.nii.gz", CT_MASK.planes[1].astype(np.uint8))
    names, found, _ = indexed(root, tmp_path)
    assert names == ["Zenodo 3757476"]
    assert found["zenodo20-coronacases_001"].patient_id == "zenodo20-coronacases_001"
    case = found["zenodo20-radiopaedia_10_85902_1"]
    assert case.patient_id == "zenodo20-radiopaedia_10"
    inside = (CT.voxels > -1200) & (CT.voxels < 200)
    difference = np.abs(cases.read_scan(case).voxels - CT.voxels)[inside]
    assert difference.max() < 3.0  # half a step of the 8 bits is 2.94 HU


def test_zenodo_as_copied_to_kaggle_with_the_combined_masks_only(root, tmp_path):
    combined = CT_MASK.planes[0].astype(np.uint8)
    combined[CT_MASK.planes[1]] = 3
    name = "coronacases_org_001"
    volume(root / "ct_scans" / f"{name}.nii" / f"{name}.nii")
    volume(root / "lung_and_infection_mask" / f"{name}.nii", combined)
    _, found, _ = indexed(root, tmp_path)
    case = found[f"zenodo20-{name}"]
    read_mask = cases.read_mask(case, ("lung", "infection"), CT.shape)
    np.testing.assert_array_equal(read_mask.planes, CT_MASK.planes)


def test_medseg_1_leaves_out_effusion(root, tmp_path):
    classes = np.zeros(CT.shape, np.uint8)
    classes[:, 3, 2:5] = (1, 2, 3)
    volume(root / "tr_im.nii.gz")
    volume(root / "tr_mask.nii.gz", classes)
    names, found, _ = indexed(root, tmp_path)
    assert names == ["MedSeg 1"]
    plane = cases.read_mask(found["medseg1-tr"], ("infection",), CT.shape).plane("infection")
    np.testing.assert_array_equal(plane, (classes == 1) | (classes == 2))


def test_medseg_2(root, tmp_path):
    for name in "19":
        volume(root / "rp_im" / f"{name}.nii.gz")
        volume(root / "rp_lung_msk" / f"{name}.nii.gz", CT_MASK.planes[0].astype(np.uint8))
        volume(root / "rp_msk" / f"{name}.nii.gz", CT_MASK.planes[1].astype(np.uint8))
    names, found, _ = indexed(root, tmp_path)
    assert names == ["MedSeg 2"]
    assert set(found) == {"medseg2-1", "medseg2-9"}
    assert all(c.lung_mask and c.infection_mask for c in found.values())


def test_mosmed(root, tmp_path):
    for severity, name in [(0, "study_0001"), (1, "study_0255")]:
        volume(root / "COVID19_1110" / "studies" / f"CT-{severity}" / f"{name}.nii.gz")
    infection = CT_MASK.planes[1].astype(np.uint8)
    volume(root / "COVID19_1110" / "masks" / "study_0255_mask.nii.gz", infection)
    names, found, _ = indexed(root, tmp_path)
    assert names == ["MosMedData"]
    assert found["mosmed-study_0001"].diagnosis == "normal"
    assert found["mosmed-study_0001"].infection_mask is None
    assert found["mosmed-study_0255"].diagnosis == "COVID-19"
    assert found["mosmed-study_0255"].infection_mask is not None


def test_covid_19_20(root, tmp_path):
    train = root / "COVID-19-20_v2" / "Train"
    volume(train / "volume-covid19-A-0003_ct.nii.gz")
    volume(train / "volume-covid19-A-0003_seg.nii.gz", CT_MASK.planes[1].astype(np.uint8))
    volume(train.parent / "Validation" / "volume-covid19-A-0001_ct.nii.gz")
    names, found, _ = indexed(root, tmp_path)
    assert names == ["COVID-19-20"]
    assert found["covid1920-A-0003"].infection_mask is not None
    assert found["covid1920-A-0001"].infection_mask is None


def metaimage(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {"int16": "MET_SHORT", "uint8": "MET_UCHAR"}
    path.write_text(
        "ObjectType = Image\nNDims = 3\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
        f"ElementSpacing = 1 1 2\nDimSize = {' '.join(map(str, values.shape[::-1]))}\n"
        f"ElementType = {kinds[str(values.dtype)]}\nElementDataFile = {path.stem}.raw\n"
    )
    path.with_suffix(".raw").write_bytes(values.tobytes())


def test_luna16_leaves_out_the_trachea(root, tmp_path):
    classes = np.zeros(CT.shape, np.uint8)
    classes[:, 3, 2:5] = (3, 4, 5)
    metaimage(root / "subset3" / "1.3.6.1.4.mhd", CT.voxels.astype(np.int16))
    metaimage(root / "seg-lungs-LUNA16" / "1.3.6.1.4.mhd", classes)
    names, found, _ = indexed(root, tmp_path)
    assert names == ["LUNA16"]
    plane = cases.read_mask(found["luna16-1.3.6.1.4"], ("lung",), CT.shape).plane("lung")
    np.testing.assert_array_equal(plane, (classes == 3) | (classes == 4))


def test_finding_lungs_is_in_hu(root, tmp_path):
    picture(root / "2d_images" / "ID_0000_Z_0142.tif", CT.voxels[2].astype(np.int32))
    mask(root / "2d_masks" / "ID_0000_Z_0142.tif", CT_MASK.planes[0][2])
    names, found, _ = indexed(root, tmp_path)
    assert names == ["Finding lungs"]
    case = found["finding_lungs-ID_0000_Z_0142"]
    scan = cases.read_scan(case)
    assert (scan.units, case.patient_id) == ("HU", "finding_lungs-ID_0000")
    np.testing.assert_array_equal(scan.voxels, CT.voxels[2])


def test_inf_net(root, tmp_path):
    for path in (
        "TrainingSet/LungInfection-Train/Doctor-label",
        "TestingSet/LungInfection-Test",
    ):
        picture(root / path / "Imgs" / "1.jpg")
        mask(root / path / "GT" / "1.png")
    names, found, _ = indexed(root, tmp_path)
    assert names == ["Inf-Net"]
    assert {c.id: c.split for c in found.values()} == {
        "inf_net-train-1": "train",
        "inf_net-test-1": "test",
    }


def test_a_plain_folder_of_images_and_masks(root, tmp_path):
    picture(root / "images" / "a.png")
    picture(root / "images" / "b.jpg")
    mask(root / "masks" / "a_mask.png")
    mask(root / "infection_masks" / "b.png", MASK.planes[1])
    names, found, _ = indexed(root, tmp_path, modality="XR", label="lung")
    assert names == ["images and masks"]
    assert found["data-a"].annotated(("lung", "infection")) == ("lung",)
    assert found["data-b"].annotated(("lung", "infection")) == ("infection",)


def test_a_plain_folder_needs_to_be_told_what_names_do_not_say(root, tmp_path):
    picture(root / "images" / "a.png")
    mask(root / "masks" / "a.png")
    with pytest.raises(InputError, match=r"masks may outline anything; say --label lung or infec"):
        indexed(root, tmp_path, modality="XR")
    with pytest.raises(InputError, match=r"images may hold X-rays or CT; say --modality"):
        indexed(root, tmp_path, label="lung")


def test_images_without_a_fitting_mask_are_refused(root, tmp_path):
    picture(root / "images" / "a.png")
    mask(root / "lung_masks" / "other.png")
    with pytest.raises(InputError, match="has images and no mask with the name of one"):
        indexed(root, tmp_path, modality="XR")


def test_an_unknown_layout_says_what_was_tried(root, tmp_path):
    root.mkdir()
    with pytest.raises(InputError) as caught:
        indexed(root, tmp_path)
    assert all(layout.name in str(caught.value) for layout in index.LAYOUTS)


def test_a_published_split_that_leaks_is_left_out_and_told(root, tmp_path):
    for part, run in [("Train Set", 1), ("Test Set", 2)]:
        name = f"sub-S1_ses-E{run}_run-1_bp-chest_vp-pa_cr"
        picture(root / part / "Images" / f"{name}.png")
        mask(root / part / "Ground-truths" / f"mask_{name}.png")
    _, loaded, found = indexed(root, tmp_path)
    assert {case.split for case in loaded.values()} == {""}
    assert "qata_cov19: its published split has 1 patients in more than one part" in found.notes[-1]


def test_several_data_sets_in_one_folder_make_one_manifest(root, tmp_path):
    picture(root / "a" / "CXR_png" / "CHNCXR_0001_0.png")
    mask(root / "a" / "mask" / "CHNCXR_0001_0_mask.png")
    volume(root / "b" / "rp_im" / "1.nii.gz")
    names, found, _ = indexed(root, tmp_path)
    assert names == ["Shenzhen", "MedSeg 2"]
    assert len(found) == 2


def test_the_command_tells_what_it_found_and_what_comes_next(root, tmp_path, capsys):
    picture(root / "images" / "a.png")
    mask(root / "lung_masks" / "a.png")
    out = tmp_path / "manifest.csv"
    index.main([str(root), "--out", str(out), "--modality", "XR"])
    told = capsys.readouterr().out
    assert "recognised: images and masks" in told
    assert "cases: 1, XR 1" in told
    assert "patients: 0 known; unknown for 1 cases" in told
    assert f"python -m data_pipeline.check {out}" in told
    assert out.read_text().splitlines() == [
        "id,dataset,modality,diagnosis,patient_id,view,image,lung_mask,infection_mask",
        "data-a,data,XR,,,,data/images/a.png,data/lung_masks/a.png,",
    ]


def test_the_command_ends_with_code_2_and_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        index.main([str(tmp_path / "nothing")])
    assert caught.value.code == 2
    assert (
        capsys.readouterr().err == f"error: {pathlib.Path(tmp_path / 'nothing')} is not a folder\n"
    )
