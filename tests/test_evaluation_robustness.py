import csv

import numpy as np
import pytest

from data_pipeline import phantom
from data_pipeline.scan import Mask, Scan
from evaluation import damage, robustness

BY_NAME = {one.name: one for one in damage.DAMAGES}


@pytest.fixture
def scan():
    return phantom.xray(3)[0]


@pytest.mark.parametrize("one", damage.DAMAGES, ids=lambda one: one.name)
def test_the_first_level_changes_nothing_and_the_others_do(scan, one):
    assert damage.spoil(scan, one, one.levels[0], seed=0) is scan
    for level in one.levels[1:]:
        worse = damage.spoil(scan, one, level, seed=0)
        assert worse.shape == scan.shape
        assert not np.array_equal(worse.voxels, scan.voxels)


@pytest.mark.parametrize("one", damage.DAMAGES, ids=lambda one: one.name)
def test_a_spoilt_scan_still_holds_whole_numbers_within_its_bounds(scan, one):
    worse = damage.spoil(scan, one, one.levels[-1], seed=0).voxels
    assert worse.dtype == np.float32
    assert np.array_equal(worse, np.rint(worse))
    assert worse.min() >= scan.voxels.min()
    assert worse.max() <= scan.voxels.max()


def test_noise_has_the_strength_that_its_level_says():
    flat = np.tile(np.array([0.0, 1000.0]), (200, 100))
    spoilt = damage.noise(flat, 5.0, np.random.default_rng(0))
    assert (spoilt - flat).std() == pytest.approx(50.0, rel=0.02)


def test_contrast_is_scaled_about_the_median():
    voxels = np.array([[0.0, 100.0, 300.0]])
    half = damage.contrast(voxels, 50.0, np.random.default_rng(0))
    assert half.tolist() == [[50.0, 100.0, 200.0]]


def test_only_rotation_moves_the_mask_and_it_moves_it_with_the_scan():
    square = np.zeros((41, 41), np.float32)
    square[5:15, 18:23] = 100.0
    scan = Scan(square, "XR", "stored", "square")
    truth = Mask(square[None] > 0, ("lung",))
    turned = damage.spoil(scan, BY_NAME["rotation"], 90.0, seed=0)
    moved = damage.spoil_mask(truth, BY_NAME["rotation"], 90.0)
    assert np.array_equal(moved.planes[0], turned.voxels > 50)
    assert moved.planes[0][18:23, 5:15].all()
    assert damage.spoil_mask(truth, BY_NAME["blur"], 2.0) is truth


def test_a_volume_is_spoilt_slice_by_slice():
    volume = phantom.ct(1)[0]
    worse = damage.spoil(volume, BY_NAME["fewer pixels"], 2, seed=0)
    assert worse.shape == volume.shape


def test_the_command_writes_every_level_and_a_figure(tmp_path):
    manifest = phantom.write_manifest(tmp_path / "data", count=3)
    flags = ["--data", str(manifest), "--split", "all", "--cases", "2", "--out", str(tmp_path)]
    assert robustness.main(["threshold", *flags]) == 0
    with (tmp_path / "robustness.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * sum(len(one.levels) for one in damage.DAMAGES)
    unspoilt = {
        r["dice"] for r in rows if r["case_id"] == "phantom-0" and r["level"] in ("0", "0.0")
    }
    assert len(unspoilt) == 1
    assert (tmp_path / "figures" / "robustness.png").stat().st_size > 10_000
