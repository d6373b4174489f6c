import json

import numpy as np
import pytest

from data_pipeline import cases, check, check_report, examination, index, phantom, raster


@pytest.fixture
def manifest(tmp_path):
    """The manifest of eight phantom X-rays and its folder, to be spoilt."""
    return phantom.write_manifest(tmp_path / "data", count=8)


def checked(manifest, tmp_path):
    """Runs the command; returns its exit code and what it wrote as JSON."""
    with pytest.raises(SystemExit) as caught:
        check.main([str(manifest), "--out", str(tmp_path / "report")])
    return caught.value.code, json.loads((tmp_path / "report" / "report.json").read_text())


def change(manifest, **columns):
    """Sets columns of the first case of the manifest."""
    first, *others = cases.load(manifest)
    values = {**first.__dict__, **columns}
    index.write(manifest, [cases.Case(**values), *others])


def codes(report, severity):
    return sorted(f["code"] for f in report["findings"] if f["severity"] == severity)


def test_good_data_are_fit_to_train_on(manifest, tmp_path, capsys):
    code, report = checked(manifest, tmp_path)
    assert (code, report["fit"], report["errors"]) == (0, True, {})
    assert "fit to train on: " in capsys.readouterr().out
    assert report["cases"] == report["patients"] == 8
    assert report["counts"]["diagnosis"] == {"normal": 4, "COVID-19": 4}
    # Every third has no infection mask: 0, 3 and 6.
    assert report["labels"]["infection"] == {"not annotated": 3, "empty": 0, "outlined": 5}
    assert report["sizes"] == {"96 x 80": 8}
    assert report["spacings_mm"] == {"unknown": 8}
    assert {p.name for p in (tmp_path / "report").iterdir()} == {
        "index.html",
        "report.json",
        "contact_sheet.png",
    }


def test_each_case_is_described_in_numbers(manifest, tmp_path):
    _, report = checked(manifest, tmp_path)
    case = cases.load(manifest)[1]
    scan = cases.read_scan(case)
    lung = cases.read_mask(case, ("lung",), scan.shape).planes[0]
    told = next(e for e in report["each"] if e["id"] == case.id)
    assert told["shape"] == [96, 80]
    assert told["percentiles_1_50_99"][1] == np.median(scan.voxels)
    assert told["label_shares"]["lung"] == pytest.approx(lung.mean())


def test_an_unreadable_image_makes_data_unfit(manifest, tmp_path):
    cases.load(manifest)[0].image.write_bytes(b"no image")
    code, report = checked(manifest, tmp_path)
    assert (code, report["unreadable"], codes(report, "error")) == (1, 1, ["unreadable"])


def test_a_mask_of_another_size_makes_data_unfit_and_does_not_hide_the_rest(manifest, tmp_path):
    case = cases.load(manifest)[1]
    raster.write(case.lung_mask, np.full((5, 5), 255, np.uint8))
    code, report = checked(manifest, tmp_path)
    assert (code, codes(report, "error")) == (1, ["bad_mask"])
    told = next(e for e in report["each"] if e["id"] == case.id)
    assert list(told["label_shares"]) == ["infection"]


def test_a_patient_on_both_sides_of_the_split_is_leakage(manifest, tmp_path):
    rows = [
        cases.Case(**{**case.__dict__, "split": name, "patient_id": "p0"})
        for case, name in zip(cases.load(manifest)[:2], ("train", "test"), strict=True)
    ]
    index.write(manifest, rows)
    code, report = checked(manifest, tmp_path)
    assert (code, codes(report, "error")) == (1, ["leakage"])
    assert report["findings"][0]["message"] == "patient p0 is in test and train"


def copy_of_the_first(manifest, **columns):
    """Adds a case that shows the first one's image, a little brighter."""
    known = cases.load(manifest)
    image = known[0].image.with_name("again.png")
    brighter = np.clip(raster.read(known[0].image).astype(int) + 9, 0, 255).astype(np.uint8)
    raster.write(image, brighter)
    twin = {**known[0].__dict__, "id": "again", "image": image, "patient_id": "other", **columns}
    index.write(manifest, [*known, cases.Case(**twin)])


def test_copies_of_an_image_under_two_patients_are_a_warning(manifest, tmp_path):
    copy_of_the_first(manifest)
    code, report = checked(manifest, tmp_path)
    messages = [f["message"] for f in report["findings"] if f["code"] == "copies"]
    assert code == 0
    assert "phantom-0 and again are near copies of one image, of different patients" in messages


def test_copies_of_an_image_on_both_sides_of_the_split_are_leakage(manifest, tmp_path):
    change(manifest, split="train")
    copy_of_the_first(manifest, split="test")
    code, report = checked(manifest, tmp_path)
    messages = [f["message"] for f in report["findings"] if f["code"] == "leakage"]
    assert code == 1
    assert "phantom-0 and again are near copies of one image, in train and test" in messages


def test_ct_in_two_units_is_a_warning(tmp_path):
    rows = []
    for n in range(2):
        scan, _ = phantom.ct(n, (64, 72))
        path = tmp_path / f"{n}.png"
        raster.write(path, (scan.voxels + 2000).astype(np.uint16))
        offset = {"rescale_intercept": -2000.0} if n else {}
        rows.append(cases.Case(f"c{n}", "CT", path, **offset))
    index.write(tmp_path / "manifest.csv", rows)
    _, report = checked(tmp_path / "manifest.csv", tmp_path)
    assert "mixed_units" in codes(report, "warning")


def test_the_page_names_the_finding_and_escapes_what_users_wrote(manifest, tmp_path):
    change(manifest, id="<b>bold</b>", image=manifest.parent / "gone.png")
    checked(manifest, tmp_path)
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "Not fit to train on" in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold" not in page


def test_the_contact_sheet_starts_with_the_suspicious(manifest):
    case = cases.load(manifest)[5]
    raster.write(case.lung_mask, np.full((96, 80), 255, np.uint8))
    examined = list(examination.examine_all(cases.load(manifest)))
    assert check_report.suspicious_first(examined)[0].case.id == case.id
    sheet = check_report.contact_sheet(examined)
    assert sheet.shape == (176, 8 * 160, 3)
    # Its picture is outlined along its edge, in the colour of lung.
    assert sheet[80, 0].tolist() == [86, 180, 233]


def test_a_manifest_without_cases_or_none_at_all_is_a_users_mistake(tmp_path, capsys):
    path = tmp_path / "manifest.csv"
    for text, message in ((None, "does not exist"), ("id,modality,image\n", "has no cases")):
        if text is not None:
            path.write_text(text)
        with pytest.raises(SystemExit) as caught:
            check.main([str(path), "--out", str(tmp_path / "report")])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "report").exists()
