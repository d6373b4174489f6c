"""What report.json says of a case, and the journal it is made from."""

import json

import numpy as np
import pytest

from data_pipeline.scan import Mask, Scan
from serving import collect, report


def test_extent_is_in_ml_where_spacing_is_known():
    planes = np.zeros((2, 3, 4, 5), bool)
    planes[0, :, :2] = True  # 30 voxels
    planes[1, 0, 1:3] = True  # 10 voxels, 5 of them in the lung
    mask = Mask(planes, ("lung", "infection"))
    scan = Scan(np.zeros((3, 4, 5), np.float32), "CT", "HU", "test", (5.0, 2.0, 1.5))
    found = report.measure(mask, scan)  # 15 cubic millimetres a voxel
    assert found == {
        "lung": {"pixels": 30, "volume_ml": 0.45},
        "infection": {"pixels": 10, "volume_ml": 0.15},
    }
    assert report.infected_share(mask) == pytest.approx(5 / 30, abs=1e-6)


def test_extent_is_in_square_centimetres_for_an_x_ray():
    mask = Mask(np.ones((1, 10, 10), bool), ("lung",))
    scan = Scan(np.zeros((10, 10), np.float32), "XR", "stored", "test", (2.0, 0.5))
    assert report.measure(mask, scan) == {"lung": {"pixels": 100, "area_cm2": 1.0}}


def test_no_lung_means_no_infected_share():
    assert report.infected_share(Mask(np.zeros((2, 3, 3), bool), ("lung", "infection"))) is None
    assert report.infected_share(Mask(np.ones((1, 3, 3), bool), ("infection",))) is None


def result_of(item: collect.Item, version: int = 1) -> report.Result:
    return report.Result(
        item.name, str(item.path), "m", version, [2, 2], {}, None, [], {}, 1, item.fingerprint()
    )


def test_a_journal_survives_a_line_that_was_cut_short(tmp_path):
    a, c = (collect.Item(name, tmp_path / f"{name}.png") for name in "ac")
    journal = report.Journal(tmp_path)
    journal.add(result_of(a))
    with (tmp_path / ".segment.jsonl").open("a") as file:
        file.write('{"case": "b", "sour')
    after = report.Journal(tmp_path)
    assert (after.find("a"), after.find("b")) == (result_of(a), None)
    after.add(result_of(c))
    after = report.Journal(tmp_path)
    assert (after.find("a"), after.find("c")) == (result_of(a), result_of(c))
    assert after.has(a, "m", 1)
    assert not after.has(a, "m", 2)
    assert not after.has(a, "other", 1)
    a.path.touch()
    assert not after.has(a, "m", 1)  # it is another file now


def test_the_last_result_of_a_case_is_the_one_that_counts(tmp_path):
    items = [collect.Item(f"case {n}", tmp_path / str(n)) for n in range(3)]
    journal = report.Journal(tmp_path)
    for version in (1, 2):
        for item in items[: 4 - version]:
            journal.add(result_of(item, version))
    for known in (journal, report.Journal(tmp_path)):
        known.write_report([item.name for item in items], [], {"model": "m"})
        content = json.loads((tmp_path / "report.json").read_text())
        assert (content["versions"], content["done"], content["failed"]) == ([1, 2], 3, 0)
        assert [result["version"] for result in content["results"]] == [2, 2, 1]
        assert content["failures"] == []
