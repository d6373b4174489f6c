import json

import numpy as np
import pytest

from data_pipeline import cases, phantom
from data_pipeline.spec import InputSpec
from evaluation import scoring, selection
from evaluation.entrants import Classical
from evaluation.journal import Journal


class Half:
    """Calls the left half lung, and counts how often it was asked."""

    def __init__(self):
        self.spec = InputSpec("XR", ("lung",), (32, 32))
        self.asked = 0

    def probabilities(self, scan):
        self.asked += 1
        values = np.zeros((1, *scan.shape), np.float32)
        values[..., : scan.shape[1] // 2] = 0.75
        return values


@pytest.fixture
def trials(tmp_path):
    manifest = phantom.write_manifest(tmp_path / "data", count=5)
    return selection.trials([Classical("half", Half())], cases.load(manifest), "all")


def asked(trials):
    return trials[0].entrant.model.asked


def test_an_interrupted_evaluation_goes_on_where_it_was(trials, tmp_path):
    folder = tmp_path / "unfinished"
    whole = scoring.run(trials, Journal(folder, trials))
    assert asked(trials) == 5
    # As a power cut leaves it: two trials written, the third one cut in its line.
    path = folder / "journal.jsonl"
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:3], lines[3][:40]]))
    journal = Journal(folder, trials)
    assert len(journal.done) == 2
    again = scoring.run(trials, journal)
    assert asked(trials) == 5 + 3
    assert [s.case.case_id for s in again.scored] == [t.case.id for t in trials]
    for old, new in zip(whole.scored, again.scored, strict=True):
        assert old.rows[0].dice == new.rows[0].dice
        assert np.array_equal(old.reliability["lung"].said, new.reliability["lung"].said)


def test_undefined_values_survive_the_journal(trials, tmp_path):
    first = scoring.run(trials, Journal(tmp_path / "u", trials)).scored[0].rows[0]
    stored = Journal(tmp_path / "u", trials).done["half", "phantom-0"].rows[0]
    assert np.isnan(first.hd95_mm)
    assert np.isnan(stored.hd95_mm)
    assert stored.model == "half"


def test_a_journal_of_other_cases_is_not_gone_on_with(trials, tmp_path):
    scoring.run(trials, Journal(tmp_path / "u", trials))
    fewer = trials[:3]
    assert Journal(tmp_path / "u", fewer).done == {}


def test_the_journal_holds_no_nan_that_other_readers_would_choke_on(trials, tmp_path):
    scoring.run(trials, Journal(tmp_path / "u", trials))

    def refuse(name):
        raise ValueError(name)

    for line in (tmp_path / "u" / "journal.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
