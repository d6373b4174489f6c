"""One network learns lungs from some cases and infection from others, none of which has both."""

import csv

import numpy as np
import pytest
from rich import console as rich_console

from data_pipeline import cases, phantom
from models import segmenter
from training import config, fit, plan

# A network that says the same everywhere has 0.5 of lungs and 0.1 of infection at best.
BOUNDS = {"lung": 0.8, "infection": 0.5}


@pytest.fixture
def whole(tmp_path):
    """A manifest of phantoms, most of them with both labels annotated."""
    return phantom.write_manifest(tmp_path / "data", count=24)


@pytest.fixture
def mixed(whole):
    """The same images: of every second the lungs are annotated, of the others infection alone."""
    with whole.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["infection_mask" if number % 2 else "lung_mask"] = ""
    path = whole.with_name("mixed.csv")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(row for row in rows if row["lung_mask"] or row["infection_mask"])
    return path


def dice(network, labels, known):
    """The mean Dice of each label over cases."""
    values = {label: [] for label in labels}
    for case in known:
        scan = cases.read_scan(case)
        truth = cases.read_mask(case, labels, scan.shape)
        for label, said in zip(labels, network.probabilities(scan), strict=True):
            if (plane := truth.plane(label)) is not None:
                found = said > 0.5
                values[label].append(2 * (found & plane).sum() / (found.sum() + plane.sum()))
    return {label: np.mean(several) for label, several in values.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_training")
def test_a_mixed_manifest_teaches_one_network_both_labels(whole, mixed, tmp_path):
    labels = ("lung", "infection")
    [planned] = plan.make(
        config.TrainConfig(
            data=mixed, runs=tmp_path / "runs", cache=tmp_path / "cache", name="mixed",
            labels="lung,infection", size=32, batch_size=4, precision="float32",
            epochs=60, learning_rate=2e-2,
        )
    )  # fmt: skip
    assert all(len(case.annotated(labels)) == 1 for case in planned.cases)
    learnt = {case.id for case in planned.part("train")}
    unseen = [case for case in cases.load(whole) if case.id not in learnt]
    before = dice(segmenter.Network(planned.network, planned.spec), labels, unseen)
    fit.train(planned, rich_console.Console(quiet=True))
    after = dice(segmenter.load(planned.directory), labels, unseen)
    for label, bound in BOUNDS.items():
        assert before[label] < bound < after[label]
