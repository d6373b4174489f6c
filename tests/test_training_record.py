"""How a run that is resumed knows its data again."""

import json
import os
import types

import pytest

from data_pipeline import cases
from training import record


@pytest.fixture
def plan(phantoms, tmp_path):
    """As far as its data are concerned, a run that was started on copies of two cases."""
    manifest = tmp_path / "manifest.csv"
    head, *rows = phantoms.read_text().splitlines()
    manifest.write_text("\n".join([head, *rows[:2]]) + "\n")
    for path in phantoms.parent.rglob("*.png"):
        copy = tmp_path / path.relative_to(phantoms.parent)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    plan = types.SimpleNamespace(cases=tuple(cases.load(manifest)), directory=tmp_path / "run")
    plan.directory.mkdir()
    (plan.directory / "config.json").write_text(json.dumps(record._identity(plan)))
    record.data_hash.cache_clear()  # as in a process of its own
    return plan


def test_files_of_the_same_size_and_time_are_not_read_again(plan, monkeypatch):
    started = json.loads((plan.directory / "config.json").read_text())

    def contents(path):
        raise AssertionError(path)

    monkeypatch.setattr(record, "_contents", contents)
    assert record._identity(plan) == started


def test_files_that_were_touched_are_read_and_found_the_same(plan):
    started = json.loads((plan.directory / "config.json").read_text())
    os.utime(plan.cases[0].image, (0, 0))
    found = record._identity(plan)
    assert found["data_sha256"] == started["data_sha256"]
    assert found["data_stamps"] != started["data_stamps"]


def test_a_mask_that_was_redrawn_is_other_data(plan):
    started = json.loads((plan.directory / "config.json").read_text())
    plan.cases[1].lung_mask.write_bytes(plan.cases[0].lung_mask.read_bytes())
    assert record._identity(plan)["data_sha256"] != started["data_sha256"]
