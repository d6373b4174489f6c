import collections

import numpy as np
import pytest

from data_pipeline import cases, raster
from data_pipeline.cases import Case
from data_pipeline.errors import InputError

BOTH = ("lung", "infection")


@pytest.fixture
def manifest(tmp_path):
    """Writes a manifest of the given lines and returns its path."""

    def write(*lines):
        path = tmp_path / "manifest.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


def test_paths_of_a_manifest_are_relative_to_it_whatever_the_working_folder(
    manifest, tmp_path, monkeypatch
):
    path = manifest("id,modality,image,lung_mask", "a,XR,images/a.png,masks/a.png")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (case,) = cases.load("../manifest.csv")
    assert case.image == tmp_path / "images/a.png"
    assert case.lung_mask == tmp_path / "masks/a.png"
    assert cases.load(path.parent) == [case]  # the folder will do


def test_what_a_manifest_leaves_out_is_unknown(manifest):
    (case,) = cases.load(manifest("id,modality,image", " a , CT , a.png "))
    assert case == Case(id="a", modality="CT", image=case.image)
    assert case.annotated(BOTH) == ()
    assert case.mask_path("infection") is None


def test_an_empty_mask_cell_means_not_annotated(manifest):
    (case,) = cases.load(
        manifest("id,modality,image,lung_mask,infection_mask", "a,XR,a.png,,b.png")
    )
    assert case.annotated(BOTH) == ("infection",)


def test_a_spreadsheets_byte_order_mark_and_further_columns_do_no_harm(manifest):
    (case,) = cases.load(manifest("\ufeffid,modality,image,comment", "a,XR,a.png,hm,and more"))
    assert case.id == "a"


def test_cases_of_one_patient_stay_together_and_one_of_unknown_patient_is_its_own_group(manifest):
    path = manifest("id,modality,image,patient_id", "a,XR,a.png,p", "b,XR,b.png,p", "c,XR,c.png,")
    a, b, c = cases.load(path)
    assert a.patient == b.patient == "p"
    assert c.patient not in ("p", "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (",XR,a.png,", "line 3: id and image must not be empty"),
        ("b,XR,,", "line 3: id and image must not be empty"),
        ("b,MR,a.png,", r"line 3: modality is 'MR'; known: \('XR', 'CT'\)"),
        ("b,XR,a.png,training", "line 3: split is 'training'; known: .*'train'.* or empty"),
        ("a,XR,a.png,", "id 'a' stands twice"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_line(manifest, line, message):
    path = manifest("id,modality,image,split", "a,XR,a.png,test", line)
    with pytest.raises(InputError, match=message):
        cases.load(path)


def test_a_rescale_that_is_no_number_is_named(manifest):
    path = manifest("id,modality,image,rescale_slope,rescale_intercept", "a,CT,a.png,1,-2000 HU")
    with pytest.raises(InputError, match="line 2: rescale_intercept is '-2000 HU', which is no"):
        cases.load(path)


def test_missing_columns_are_named_with_all_that_may_be_there(manifest):
    path = manifest("name,modality,file", "a,XR,a.png")
    with pytest.raises(InputError, match=r"lacks the column id, image; it needs .*infection_mask"):
        cases.load(path)


def test_an_empty_file_lacks_all_columns(tmp_path):
    (tmp_path / "manifest.csv").write_bytes(b"")
    with pytest.raises(InputError, match="lacks the column id, modality, image"):
        cases.load(tmp_path)


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.csv does not exist"):
        cases.load(tmp_path / "nowhere.csv")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "manifest.csv").write_bytes(b"\x89PNG\r\n\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a CSV file in UTF-8"):
        cases.load(tmp_path)


def test_select_takes_cases_of_the_modality_with_at_least_one_label(manifest):
    path = manifest(
        "id,modality,image,lung_mask,infection_mask",
        "a,XR,a.png,m.png,",
        "b,XR,b.png,,",
        "c,CT,c.png,m.png,m.png",
        "d,XR,d.png,,m.png",
    )
    read = cases.load(path)
    assert [case.id for case in cases.select(read, "XR", BOTH)] == ["a", "d"]
    assert [case.id for case in cases.select(read, "XR", ("lung",))] == ["a"]


def test_foreground_of_a_mask_is_everything_above_zero(tmp_path):
    raster.write(tmp_path / "m.png", np.array([[0, 1, 2], [255, 0, 0]], np.uint8))
    case = Case("a", "XR", tmp_path / "a.png", infection_mask=tmp_path / "m.png")
    mask = cases.read_mask(case, BOTH, (2, 3))
    assert mask.labels == ("infection",)
    assert mask.planes.tolist() == [[[False, True, True], [True, False, False]]]
    assert mask.plane("lung") is None


def test_a_mask_on_another_grid_than_its_image_is_refused(tmp_path):
    raster.write(tmp_path / "m.png", np.zeros((2, 3), np.uint8))
    case = Case("a", "XR", tmp_path / "a.png", lung_mask=tmp_path / "m.png")
    with pytest.raises(InputError, match=r"m\.png is \(2, 3\), its image .*a\.png is \(3, 2\)"):
        cases.read_mask(case, BOTH, (3, 2))


def test_a_mask_that_is_not_there_is_named(tmp_path):
    case = Case("a", "XR", tmp_path / "a.png", lung_mask=tmp_path / "m.png")
    with pytest.raises(InputError, match=r"m\.png cannot be read: No such file"):
        cases.read_mask(case, BOTH, (3, 2))


def test_the_shipped_sample_has_the_cases_that_its_attribution_counts():
    counts = collections.Counter(case.dataset for case in cases.load())
    assert counts == {
        "kermany_v7": 120,
        "hannover_v7": 28,
        "ieee_v7": 6,
        "gb_infection": 3,
        "medseg": 50,
        "lung_pet_ct_dx": 1,
        "cip": 1,
    }


def test_every_raster_image_of_the_shipped_sample_reads_with_its_masks():
    sample = [case for case in cases.load() if case.image.suffix in (".png", ".jpg")]
    assert len(sample) == 207
    for case in sample:
        scan = cases.read_scan(case)
        mask = cases.read_mask(case, BOTH, scan.shape)
        assert mask.labels == case.annotated(BOTH)
        assert np.ptp(scan.voxels) > 50
        assert mask.planes.reshape(len(mask.labels), -1).any(axis=1).all(), case.id


def test_every_case_of_the_shipped_sample_names_its_licence_and_source():
    for case in cases.load():
        assert case.licence_image, case.id
        assert case.source, case.id
        assert case.licence_mask or not case.annotated(BOTH), case.id
