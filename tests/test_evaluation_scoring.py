"""Cases that fail in ways nobody foresaw: each is listed, and the others are scored."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import pytest

from data_pipeline import cases, phantom
from evaluation import scoring
from evaluation.entrants import MaskFolder
from evaluation.journal import Journal
from evaluation.selection import Trial


@dataclasses.dataclass(frozen=True)
class Fragile(MaskFolder):
    """Gives the true masks, but for one case on which it fails and one that ends the process."""

    fails_on: str = ""
    dies_on: str = ""

    def answer(self, case, scan):
        if case.id == self.dies_on:
            os._exit(9)
        if case.id == self.fails_on:
            raise ZeroDivisionError("no lung")
        return super().answer(case, scan)


@pytest.fixture
def outcome(tmp_path):
    def score(helpers, **when):
        manifest = phantom.write_manifest(tmp_path / "data", count=6)
        folder = manifest.parent / "lung_masks"
        entrant = Fragile("fragile", pathlib.Path(folder), "XR", ("lung",), **when)
        trials = [Trial(entrant, case) for case in cases.load(manifest)]
        return scoring.run(trials, Journal(tmp_path / "journal", trials), helpers)

    return score


@pytest.mark.parametrize("helpers", [0, 2])
def test_an_unforeseen_error_is_listed_with_its_type_and_the_rest_go_on(outcome, helpers):
    found = outcome(helpers, fails_on="phantom-2")
    assert [f.case_id for f in found.failures] == ["phantom-2"]
    assert found.failures[0].reason == "ZeroDivisionError: no lung"
    assert len(found.scored) == 5


def test_a_helper_that_dies_costs_only_the_case_that_killed_it(outcome):
    found = outcome(2, dies_on="phantom-1")
    assert [f.case_id for f in found.failures] == ["phantom-1"]
    assert "process that scored it died" in found.failures[0].reason
    assert [s.case.case_id for s in found.scored] == [f"phantom-{n}" for n in (0, 2, 3, 4, 5)]


KILLED = """
import concurrent.futures, multiprocessing, time
from evaluation import scoring
if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn, scoring.end_with_parent) as pool:
        pool.submit(abs, -1).result()
        print("started", flush=True)
        time.sleep(3600)
"""


def test_helpers_end_when_the_main_process_is_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = pathlib.Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert process.stdout.readline() == "started\n"
    process.kill()
    # The helper has the same standard output, which ends only when both have.
    assert process.communicate(timeout=120)[0] == ""
