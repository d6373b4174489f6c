import dataclasses
import json

import numpy as np
import pytest

from data_pipeline import cases, frames, machine
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec
from evaluation.speed import __main__ as speed
from evaluation.speed import job, loader, memory, pipeline


def test_every_measurement_says_what_it_measures(capsys):
    with pytest.raises(SystemExit) as left:
        speed.main(["--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert all(f"  {name}" in told for name in speed.COMMANDS)


def test_an_unknown_measurement_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as left:
        speed.main(["everything"])
    assert left.value.code == 2
    assert "pipeline" in capsys.readouterr().err


def test_the_rest_of_the_command_line_is_the_measurement_s_own(capsys):
    with pytest.raises(SystemExit) as left:
        speed.main(["pipeline", "--no-such-flag"])
    assert left.value.code == 2
    assert "evaluation.speed pipeline" in capsys.readouterr().err


def test_the_machine_names_versions_of_what_is_installed_only():
    told = machine.describe(["numpy", "no-such-package"])
    assert list(told["versions"]) == ["numpy"]
    assert told["cores"] >= 1


FOUND = [
    pipeline.Measured("train-step", 0, 2, None, [20.0, 20.0, 20.0]),
    pipeline.Measured("ours", 0, 2, 30.0, [90.0, 100.0, 110.0]),
    pipeline.Measured("monai-cache", 0, 2, 10.0, [20.0, 20.0, 20.0]),
    pipeline.Measured("monai-cache", 2, 2, 12.0, [38.0, 40.0, 50.0], 4.44, 1.5, 30.4),
    pipeline.Measured("ours", 0, 1, 30.0, [60.0]),
]


def test_a_rival_is_shown_with_the_number_of_workers_that_is_fastest():
    chosen = pipeline.best(FOUND, "monai-cache", 2)
    assert chosen.workers == 2
    assert pipeline.best(FOUND, "torchio-queue", 2) is None


def test_a_ratio_is_of_medians_and_its_range_of_the_worst_and_best_pairs():
    ours, rival = FOUND[1], FOUND[3]
    assert pipeline.ratio(ours, rival) == (100 / 40, 90 / 50, 110 / 38)


def test_the_table_has_a_row_a_loader_and_number_of_cores():
    told = pipeline.rows(FOUND)
    assert [(row[0].split()[0], row[1], row[2]) for row in told] == [
        ("data_pipeline.batches", "1", "threads"),
        ("data_pipeline.batches", "2", "threads"),
        ("MONAI", "2", "2"),
        ("a", "2", "threads"),
    ]
    assert told[2][3:] == ("4.4", "1.5", "30", "12", "40 (38-50)", "2.5 x (1.8-2.9)")
    assert told[3][3:] == ("-", "-", "-", "-", "20 (20-20)", "5.0 x (4.5-5.5)")


def test_the_command_writes_what_it_measured_and_names_rivals_that_are_missing(
    monkeypatch, tmp_path, capsys
):
    def measured(module, *words):
        if module == "memory":
            return {
                "cases": int(words[0]),
                "frames": 1,
                "resident_mb": 700.0,
                "anonymous_mb": 600.0,
            }
        return dataclasses.asdict(FOUND[1]) | {"name": words[0], "cores": 1}

    monkeypatch.setattr(pipeline, "_run", measured)
    monkeypatch.setattr(pipeline.importlib.util, "find_spec", lambda _: None)
    speed.main(["pipeline", "--cores", "1", "--out", str(tmp_path)])
    told = capsys.readouterr().out
    assert "torchio is not installed (the extra `rivals`)" in told
    report = json.loads((tmp_path / "pipeline.json").read_text())
    assert [m["name"] for m in report["tiles"]] == ["train-step", "ours"]
    assert report["tiles"][0]["cold"] is None
    text = (tmp_path / "pipeline.md").read_text()
    assert "| data_pipeline.batches | 1 | threads | - | - | - | 30 | 100 (90-110) | - |" in text
    assert "| 20,000 | 700 | 600 |" in text


def test_a_first_epoch_is_parted_into_what_is_there_once_and_what_a_case_takes(
    monkeypatch, tmp_path
):
    clock = [0.0]
    monkeypatch.setattr(loader.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(loader, "_imported", lambda name: 4.0)

    def make(work, *, warm):
        clock[0] += 0.0 if warm else 2.0  # a graph is built, say
        while True:
            clock[0] += job.BATCH * (0.001 if warm else 0.010)
            yield None

    monkeypatch.setattr(loader, "_named", lambda name: make)
    work = job.Job(cases.load()[:81], tmp_path, 0, 1)  # 10 batches of 8
    found = loader.measure("ours", work, seconds=0.1, repeats=2)
    assert found["case_ms"] == pytest.approx(10)
    assert found["fixed_s"] == pytest.approx(2)
    assert found["cold"] == pytest.approx(80 / 2.8)
    assert found["warm"] == pytest.approx([1000, 1000])
    assert found["imports_s"] == 4


def test_an_unknown_part_is_refused():
    with pytest.raises(InputError, match="unknown part speed; known: tiles, memory, dicom"):
        speed.main(["pipeline", "--parts", "tiles,speed"])


def test_a_measurement_that_fails_says_why():
    with pytest.raises(InputError, match="measuring loader no-such-loader failed; it said: "):
        pipeline._run("loader", "no-such-loader", "--folder", "nowhere")


def test_a_repeated_store_shows_the_same_frames_again_and_again(phantoms, tmp_path):
    spec = InputSpec("XR", ("lung",), (32, 32))
    known = cases.load(phantoms)
    store = frames.open_store(known, spec, tmp_path / "cache")
    decoded = next((tmp_path / "cache").iterdir())
    (tmp_path / "own").mkdir()
    repeated = frames.Store(memory._repeated_store(decoded, 30, tmp_path / "own"), spec)
    assert (len(store), len(repeated)) == (12, 30)
    np.testing.assert_array_equal(repeated.image(29), store.image(5))
    assert len(cases.load(memory._repeated_manifest(known, 30, tmp_path / "own"))) == 30
    assert memory.resident_mb()["resident_mb"] > 10
