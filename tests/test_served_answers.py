"""Served equals evaluated for all that is done between a network's output and the mask.

Two calibrated runs, averaged with each other and over mirrored and resized views, their masks
cleaned: exported by the command, and asked through a server as evaluation asks them.
"""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
import tiny_network

from data_pipeline import cases, phantom, split, tta
from data_pipeline.spec import Cleaning
from evaluation import ensembles
from models import segmenter
from serving import client, export, saved_model, server_process

# Keras, saving a network; see setup.cfg.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RULES = (Cleaning(fill_holes=True, largest=2), Cleaning(inside="lung", smallest=0.001))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("answers")


@pytest.fixture(scope="module")
def known(folder):
    return cases.load(phantom.write_manifest(folder / "phantoms", count=4, shape=(101, 83)))


@pytest.fixture(scope="module")
def run_paths(folder, known):
    return make_runs(folder, known, RULES)


def make_runs(folder, known, cleaning):
    learnt = [((1.5, 0.8), (0.375, 0.5)), ((2.0, 1.2), (0.3, 0.4))]
    for seed, (temperatures, thresholds) in enumerate(learnt):
        run = folder / f"run{seed}"
        run.mkdir()
        network = tiny_network.build(seed=seed)
        spec = dataclasses.replace(
            network.spec, temperatures=(temperatures,), thresholds=thresholds, cleaning=cleaning
        )
        spec.save(run / "spec.json")
        segmenter.save(run, network.network)
        config = {"data": str(known[0].image.parents[1] / "manifest.csv"), "model": "tiny"}
        (run / "config.json").write_text(json.dumps(config))
        split.save(run / "splits.csv", known, {case.id: "test" for case in known})
    return [folder / "run0", folder / "run1"]


@pytest.fixture(scope="module")
def exported(folder, run_paths):
    flags = ["--tta", "flips+scales", "--out", str(folder / "both"), "--cases", "2"]
    export.main([*map(str, run_paths), *flags])
    return folder / "both"


def test_the_spec_of_an_export_says_all_that_is_done(exported, run_paths):
    served = saved_model.load(exported / "1")
    assert served.spec.temperatures == ((1.5, 0.8), (2.0, 1.2))
    assert served.spec.thresholds == ((0.375 + 0.3) / 2, (0.5 + 0.4) / 2)
    assert served.spec.cleaning == RULES
    assert (served.spec.flips, served.spec.scales) == (((1,),), tta.SCALES)
    proof = json.loads((exported / "1" / "assets.extra" / "parity.json").read_text())
    assert proof["run"] == " ".join(map(str, run_paths))
    assert proof["masks_equal"] is True


def test_masks_from_a_server_are_those_of_the_evaluated_ensemble(exported, run_paths, known):
    entrant = ensembles.load("both", run_paths, "flips+scales")
    with server_process.embedded(exported, "both") as addresses:
        model = client.connect(addresses["grpc"], "both")
        for case in known:
            scan = cases.read_scan(case)
            expected = entrant.answer(case, scan)
            found = model.served.probabilities(scan)
            np.testing.assert_allclose(found, expected.probabilities, atol=1e-6)
            np.testing.assert_array_equal(model.mask(scan).planes, expected.mask.planes)
            assert 0 < expected.mask.planes.mean() < 1
        model.close()


def test_a_cleaned_mask_is_not_offered_by_signatures_that_cannot_clean(exported):
    # A graph has no components, so `encoded` and `masks` would give other masks than clients.
    assert set(tf.saved_model.load(str(exported / "1")).signatures) == {"serving_default", "spec"}


def test_masks_of_files_are_cut_at_the_mean_of_thresholds_that_members_have_learnt(tmp_path, known):
    run_paths = make_runs(tmp_path, known, ())
    network = segmenter.load(*run_paths)
    drawn = saved_model.warm_up_inputs(network.spec, known[0].image.read_bytes())
    saved_model.write(network, tmp_path / "plain" / "1", drawn)
    entrant = ensembles.load("plain", run_paths)
    with server_process.embedded(tmp_path / "plain", "plain") as addresses:
        model = client.connect(addresses["grpc"], "plain")
        for case in known:
            values = entrant.answer(case, cases.read_scan(case)).probabilities
            means = np.float32([(0.375 + 0.3) / 2, (0.5 + 0.4) / 2]).reshape(2, 1, 1)
            found = model.served.mask_of_file(case.image.read_bytes(), "masks")
            np.testing.assert_array_equal(found.planes, values > means)
            # Neither a member's own thresholds nor 0.5 would give these masks.
            for others in ((0.375, 0.5), (0.3, 0.4), (0.5, 0.5)):
                other = values > np.float32(others).reshape(2, 1, 1)
                assert (other != found.planes).any()
        model.close()
