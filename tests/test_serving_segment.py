"""The command over a made-up server: what it writes, what it says, how it goes on."""

import contextlib
import json
import pathlib
import shutil
import subprocess
import sys
import time

import cv2
import dicom_files
import fake_server
import grpc
import numpy as np
import pytest

from data_pipeline import raster
from data_pipeline import read as read_scan
from data_pipeline.errors import InputError
from serving import client, collect, report, segment

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def images(tmp_path) -> pathlib.Path:
    """Five images of 8 x 8 pixels; image N has N bright rows."""
    for bright in range(5):
        image = np.zeros((8, 8), np.uint8)
        image[:bright] = 200
        image[7, 7] = 50  # a constant image is refused
        raster.write(tmp_path / "images" / f"{bright}.png", image)
    return tmp_path / "images"


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        segment.main([str(argument) for argument in arguments])
    return ended.value.code or 0


def told(out) -> dict:
    return json.loads((out / "report.json").read_text())


def read(path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_a_folder_gives_masks_overlays_and_a_report(fake, address, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(images, "--server", address, "--model", "fake", "--out", out) == 0
    for bright in range(5):
        mask = read(out / f"{bright}_lung.png")
        assert mask.shape == (8, 8)
        assert (mask == [[255] * 8] * bright + [[0] * 8] * (8 - bright)).all()
        assert read(out / f"{bright}_overlay.png").shape == (8, 8, 3)
    content = told(out)
    assert (content["model"], content["versions"], content["api"]) == ("fake", [1], "grpc")
    assert (content["done"], content["failed"]) == (5, 0)
    result = content["results"][3]
    assert result["case"] == "3"
    assert result["labels"] == {"lung": {"pixels": 24, "area_cm2": None}}
    assert result["infected_share_of_lung"] is None
    steps = ["decode", "preprocess", "server", "postprocess", "write"]
    assert list(result["seconds"]) == steps
    assert min(result["seconds"].values()) >= 0
    assert result["seconds"]["server"] > 0
    assert result["requests"] == 1
    assert "5 of 5 scans done" in capsys.readouterr().out


def test_a_second_run_has_nothing_left_to_do(fake, address, images, tmp_path):
    flags = (images, "--server", address, "--model", "fake", "--out", tmp_path / "out")
    run(*flags)
    asked = len(fake.requests)
    assert run(*flags) == 0
    assert len(fake.requests) == asked + 1  # for the spec
    assert told(tmp_path / "out")["done"] == 5
    run(*flags, "--again")
    assert len(fake.requests) == 2 * asked + 1


def test_what_has_changed_or_gone_is_done_again(fake, address, images, tmp_path):
    out = tmp_path / "out"
    flags = (images, "--server", address, "--model", "fake", "--out", out)
    run(*flags)
    asked = len(fake.requests)
    raster.write(images / "1.png", np.arange(72, dtype=np.uint8).reshape(8, 9))
    (out / "2_lung.png").unlink()
    run(*flags)
    assert len(fake.requests) == asked + 1 + 2
    assert read(out / "1_lung.png").shape == (8, 9)
    assert (out / "2_lung.png").exists()


def test_another_version_does_all_of_it_again(fake, address, images, tmp_path):
    flags = (images, "--server", address, "--model", "fake", "--out", tmp_path / "out")
    run(*flags)
    fake.levels[2] = 250.0
    run(*flags)
    assert told(tmp_path / "out")["versions"] == [2]
    assert not read(tmp_path / "out" / "4_lung.png").any()


def test_one_bad_scan_is_told_of_and_the_others_are_done(address, images, tmp_path, capsys):
    (images / "2.png").write_bytes(b"not an image")
    out = tmp_path / "out"
    assert run(images, "--server", address, "--model", "fake", "--out", out) == 1
    content = told(out)
    assert (content["done"], content["failed"]) == (4, 1)
    assert content["failures"][0]["case"] == "2"
    assert "2.png" in content["failures"][0]["error"]
    assert "failed: " in capsys.readouterr().out


def test_a_scan_that_failed_is_tried_again_by_the_next_run(address, images, tmp_path):
    good = (images / "2.png").read_bytes()
    (images / "2.png").write_bytes(b"not an image")
    flags = (images, "--server", address, "--model", "fake", "--out", tmp_path / "out")
    run(*flags)
    (images / "2.png").write_bytes(good)
    assert run(*flags) == 0
    assert told(tmp_path / "out")["done"] == 5


def test_a_scan_that_the_server_refuses_is_told_of(fake, address, images, tmp_path):
    model = client.connect(address, "fake")
    fake.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "no such thing")]
    job = segment.Job(model, tmp_path / "out")
    journal = report.Journal(tmp_path / "out")
    items = collect.items([images], "XR", tmp_path / "out")
    ended = list(segment.segment(items, job, journal, workers=1))
    assert [type(one) for one in ended] == [report.Failure] + [report.Result] * 4
    assert "no such thing" in ended[0].error
    model.close()


def test_a_fault_of_ours_in_one_scan_does_not_stop_the_others(
    address, images, tmp_path, monkeypatch
):
    true_measure = report.measure

    def measure(mask, scan):
        if scan.source.endswith("3.png"):
            raise ZeroDivisionError("oh")
        return true_measure(mask, scan)

    monkeypatch.setattr(report, "measure", measure)
    assert run(images, "--server", address, "--model", "fake", "--out", tmp_path / "out") == 1
    assert told(tmp_path / "out")["failures"][0]["error"] == "ZeroDivisionError: oh"


def test_a_server_that_goes_for_good_ends_the_run_with_what_is_done(fake, images, tmp_path, capsys):
    out = tmp_path / "out"
    answered = fake.predict

    with fake_server.over_grpc(fake) as address:

        def predict(request, context):
            if len(fake.requests) >= 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            return answered(request, context)

        fake.predict = predict
        with fake_server.over_grpc(fake) as failing:
            flags = ("--model", "fake", "--out", out, "--outage", "0.3", "--workers", "1")
            assert run(images, "--server", failing, *flags) == 2
        error = capsys.readouterr().err
        assert "the same command goes on from here" in error
        assert error.count("\n") == 1
        assert told(out)["done"] == 2
        fake.requests.clear()
        assert run(images, "--server", address, *flags) == 0
    assert told(out)["done"] == 5
    assert len(fake.requests) == 1 + 3  # each scan once


def test_a_client_that_is_killed_goes_on_where_it_was(fake, address, images, tmp_path):
    for number in range(5, 40):
        shutil.copy(images / "3.png", images / f"{number}.png")
    fake.delay_s = 0.02
    out = tmp_path / "out"
    flags = [images, "--server", address, "--model", "fake", "--out", out]
    command = [sys.executable, "-m", "serving.segment", *map(str, flags)]
    killed = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    journal = out / ".segment.jsonl"
    while not journal.exists() or journal.read_text().count("\n") < 5:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    before = journal.read_text().count("\n")
    assert before < 40
    while fake.at_once:  # what it had asked for
        time.sleep(0.01)
    fake.requests.clear()
    assert run(*flags) == 0
    assert len(fake.requests) == 1 + 40 - before  # for the spec, and for what was left
    cases = [json.loads(line)["case"] for line in journal.read_text().splitlines()]
    assert sorted(cases) == sorted(str(number) for number in range(40))
    assert told(out)["done"] == 40


def resident_mib(process: subprocess.Popen) -> float:
    text = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_folder_of_thousands_takes_no_more_memory_than_one_of_hundreds(address, images, tmp_path):
    count = 4000
    (tmp_path / "many").mkdir()
    for number in range(count):
        (tmp_path / "many" / f"{number}.png").symlink_to(images / "3.png")
    out = tmp_path / "out"
    flags = ["--server", address, "--model", "fake", "--out", out]
    command = [sys.executable, "-m", "serving.segment", tmp_path / "many", *flags]
    process = subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL)
    journal = out / ".segment.jsonl"
    settled = most = 0.0
    while process.poll() is None:
        time.sleep(0.2)
        with contextlib.suppress(IndexError, FileNotFoundError):  # not begun, or just ended
            most = max(most, resident_mib(process))
            if not settled and journal.read_text().count("\n") > 400:
                settled = most
    assert process.returncode == 0
    assert told(out)["done"] == count
    assert 0 < most < settled * 1.1, f"{settled:.0f} MiB after 400 scans, {most:.0f} at most"


def test_no_server_is_one_clear_line(images, tmp_path, capsys):
    assert run(images, "--server", "127.0.0.1:9", "--model", "m", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "no answer from 127.0.0.1:9" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--server", "localhost"), "--server takes HOST:PORT"),
        (("--server", "http://localhost:8500"), "--server takes HOST:PORT"),
        (("--workers", "0"), "--workers is at least 1"),
        (("--parallel", "0"), "--parallel is at least 1"),
    ],
)
def test_a_flag_that_cannot_be_used_is_told_of(flags, message, images, tmp_path, capsys):
    assert run(images, "--model", "fake", "--out", tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err


def test_another_modality_is_told_of_before_anything_is_done(address, images, tmp_path, capsys):
    flags = ("--server", address, "--model", "fake", "--out", tmp_path / "out")
    assert run(images, *flags, "--modality", "CT") == 2
    assert "fake was trained on XR, not CT" in capsys.readouterr().err


def test_a_path_that_is_not_there_is_told_of(address, tmp_path, capsys):
    flags = ("--server", address, "--model", "fake", "--out", tmp_path / "out")
    assert run(tmp_path / "nowhere", *flags) == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def names(paths, modality="XR", out=pathlib.Path("out")):
    return [item.name for item in collect.items(paths, modality, out)]


def test_names_are_stems_and_where_two_are_the_same_folders_tell_them_apart(tmp_path):
    for name in ("a/1.png", "b/1.png", "b/2.jpg", "c.d/3.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names([tmp_path]) == ["a-1", "b-1", "2", "3"]


def test_a_scan_given_twice_is_one_scan(images):
    assert names([images, images / "1.png"]) == ["0", "1", "2", "3", "4"]


def test_a_link_is_called_what_it_is_called_and_not_what_it_leads_to(images, tmp_path):
    (tmp_path / "links").mkdir()
    for name in ("a", "b"):
        (tmp_path / "links" / f"{name}.png").symlink_to(images / "1.png")
    assert names([tmp_path / "links"]) == ["a", "b"]


def test_two_types_of_one_name_in_one_folder_cannot_be_told_apart(tmp_path):
    (tmp_path / "1.png").touch()
    (tmp_path / "1.jpg").touch()
    with pytest.raises(InputError, match=r"1\.jpg and .*1\.png would both be called .*; rename"):
        names([tmp_path])


def test_results_and_hidden_files_are_no_scans(images):
    (images / "out").mkdir()
    (images / "out" / "1_lung.png").touch()
    (images / ".hidden.png").touch()
    (images / "notes.txt").touch()
    assert names([images], out=images / "out") == ["0", "1", "2", "3", "4"]


def test_a_folder_without_scans_is_told_of(tmp_path):
    with pytest.raises(InputError, match="no scan in"):
        names([tmp_path])


def test_a_folder_of_dicom_is_one_ct_but_as_many_x_rays(tmp_path):
    series = tmp_path / "1.2.840"
    series.mkdir()
    for name in ("1.dcm", "2.dcm", "IM3"):
        (series / name).write_bytes(bytes(128) + b"DICM")
    (series / "README").write_text("not DICOM")
    assert names([tmp_path], "CT") == ["1.2.840"]
    assert names([tmp_path], "XR") == ["1", "2", "IM3"]


def test_a_ct_series_for_a_model_of_x_rays_is_told_of_once(address, images, tmp_path, capsys):
    dicom_files.series(images / "series", count=7)
    dicom_files.series(images / "two", count=3, SeriesInstanceUID="1.2.7")
    for name, tags in {"film": {}, "note": {"Modality": "SR", "SeriesInstanceUID": "1.9"}}.items():
        file = dicom_files.dataset(np.arange(64, dtype=np.uint16).reshape(8, 8), **tags)
        if name == "note":
            del file.Rows, file.Columns, file.PixelData
        dicom_files.save(images / "two" / f"{name}.dcm", file)
    out = tmp_path / "out"
    assert run(images, "--server", address, "--model", "fake", "--out", out) == 1
    assert told(out)["done"] == 6  # the five images, and the film
    shown = capsys.readouterr().out
    assert shown.count("failed: ") == 2
    assert "series/00.dcm is CT, not an X-ray (CR or DX); a model that was trained on CT" in shown


@pytest.fixture
def study(tmp_path) -> pathlib.Path:
    """Two series of a CT, a PET in step with them, a localizer and a report of the dose."""
    study = tmp_path / "study"
    for number, kernel in (("2", "B30f"), ("7", "B70f")):
        tags = {"SeriesNumber": number, "SeriesInstanceUID": f"1.2.{number}"}
        dicom_files.series(study / number, ConvolutionKernel=kernel, **tags)
    pixels = np.zeros((4, 6), np.uint16)
    for name, tags in {
        "pet": {"Modality": "PT", "SeriesInstanceUID": "1.2.8", "SeriesNumber": "8"},
        "scout": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SeriesInstanceUID": "1.2.1"},
    }.items():
        dicom_files.save(study / f"{name}.dcm", dicom_files.ct(pixels, **tags))
    report_of_dose = dicom_files.ct(pixels, Modality="SR", SeriesInstanceUID="1.2.9")
    del report_of_dose.Rows, report_of_dose.Columns, report_of_dose.PixelData
    dicom_files.save(study / "dose.dcm", report_of_dose)
    return study


def test_each_series_of_a_study_is_a_scan(study, tmp_path, monkeypatch):
    assert names([study], "CT") == ["study-2", "study-7"]
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", study)
    assert names([pathlib.Path(archive)], "CT") == ["archive-2", "archive-7"]
    for whole in (study, pathlib.Path(archive)):
        for item in collect.items([whole], "CT", tmp_path / "out"):
            assert read_scan.scan(item.path, "CT").shape == (5, 4, 6)
    monkeypatch.chdir(study)
    assert names([pathlib.Path()], "CT") == ["study-2", "study-7"]


def test_a_series_alone_beside_a_report_needs_no_number(study):
    shutil.rmtree(study / "7")
    (study / "pet.dcm").unlink()
    assert names([study], "CT") == ["study"]
    assert read_scan.scan(study, "CT").shape == (5, 4, 6)


def test_a_series_that_changes_is_another_one(study, tmp_path):
    [item, _] = collect.items([study], "CT", tmp_path / "out")
    before = item.fingerprint()
    assert item.fingerprint() == before
    (study / "2" / "00.dcm").touch()
    assert item.fingerprint() != before


def test_a_damaged_study_is_left_to_its_own_turn(study):
    (study / "2" / "00.dcm").write_bytes(b"damaged")
    assert names([study], "CT") == ["study"]


def test_few_scans_are_held_at_once(address, images, tmp_path, monkeypatch):
    under_way, most = [0], [0]
    true_one = segment.one

    def one(item, job):
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        time.sleep(0.02)
        under_way[0] -= 1
        return true_one(item, job)

    taken = []

    def items():
        for item in collect.items([images], "XR", tmp_path / "out"):
            taken.append(item)
            yield item

    monkeypatch.setattr(segment, "one", one)
    model = client.connect(address, "fake")
    job = segment.Job(model, tmp_path / "out")
    ended = segment.segment(items(), job, report.Journal(tmp_path / "out"), workers=2)
    next(ended)
    assert len(taken) <= 3
    assert len(list(ended)) == 4
    assert most[0] <= 2
    model.close()
