import dataclasses

import numpy as np
import pytest

from data_pipeline import raster
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec
from models import zoo
from training import derive, fingerprint
from training.config import TrainConfig
from training.fingerprint import Fingerprint

GIB = 2**30


def found(shape=(300, 260), window=(-900.0, 50.0)):
    return Fingerprint(3, shape, None, window, {"lung": 0.25})


@pytest.mark.parametrize(
    ("shape", "kind", "side"),
    [
        ((180, 150), "CPU", 160),  # the multiple of 32 below the longer side
        ((512, 400), "CPU", 192),  # no more than a CPU trains in minutes
        ((512, 400), "GPU", 512),
        ((2000, 2500), "GPU", 512),
        ((60, 90), "CPU", 128),  # nothing would be left after five halvings
        ((70, 300, 512), "GPU", 512),  # slices of a volume are another axis
    ],
)
def test_the_frame_is_about_as_large_as_a_median_image(shape, kind, side):
    assert derive.side(found(shape), kind) == side


def test_a_given_setting_holds():
    given = TrainConfig(size=96, window="-1000,400")
    assert derive.frame(given, found(), "HU") == given


def test_ct_in_hu_is_windowed_by_what_is_to_be_outlined_and_the_rest_by_its_own_percentiles():
    assert derive.frame(TrainConfig(), found(), "HU").window_limits() == (-900.0, 50.0)
    assert derive.frame(TrainConfig(), found(), "stored").window_limits() is None
    empty = found(window=None)  # nothing outlined in any case
    assert derive.frame(TrainConfig(), empty, "HU").window_limits() == (-1000.0, 400.0)


def test_a_batch_is_the_largest_power_of_two_that_half_of_the_memory_holds():
    assert derive.batch_size(GIB // 8, "CPU", 100 * GIB) == 8
    assert derive.batch_size(GIB // 8, "CPU", 2 * GIB) == 8  # 8 x 1/8 is just a half of 2
    assert derive.batch_size(GIB // 8, "CPU", 2 * GIB - 1) == 4
    assert derive.batch_size(GIB // 8, "GPU", 16 * GIB) == 32
    assert derive.batch_size(GIB, "CPU", GIB // 100) == 1
    assert derive.batch_size(GIB, "GPU", None) == 8


def test_a_resumed_run_keeps_what_was_derived_when_it_was_started(tmp_path):
    (tmp_path / "config.json").write_text('{"size": 160, "batch_size": 4, "window": "-900,50"}')
    resumed = derive.as_before(TrainConfig(batch_size=2), tmp_path)
    assert (resumed.size, resumed.window, resumed.batch_size) == (160, "-900,50", 2)
    assert derive.as_before(TrainConfig(), tmp_path / "elsewhere") == TrainConfig()
    (tmp_path / "config.json").write_text('{"tile": "32,64,64", "window": "-900,50"}')
    volumes = TrainConfig(modality="CT", tile="3d")
    assert derive.as_before(volumes, tmp_path).tile == "32,64,64"


def test_memory_of_a_sample_grows_with_the_area_of_the_tile():
    small, large = (
        derive.sample_bytes(zoo.NETWORKS["unet"](InputSpec("XR", ("lung",), (side, side))))
        for side in (64, 128)
    )
    assert large == 4 * small


@pytest.mark.parametrize(
    ("shape", "most", "sides"),
    [
        ((70.4, 300, 300), 10**9, [64, 288, 288]),  # all of it
        ((20, 100, 100), 10**9, [32, 96, 96]),  # no side below what the networks halve
        # 64 x 96 x 96 = 589,824; rows cover 96 of 100, slices 64 of 70: first rows, then columns.
        ((70, 100, 101), 500_000, [64, 64, 96]),
        ((70, 100, 101), 300_000, [64, 64, 64]),
        ((70, 100, 101), 1, [32, 32, 32]),
    ],
)
def test_a_tile_of_a_volume_keeps_its_proportions_as_far_as_memory_allows(shape, most, sides):
    assert derive.volume_sides(shape, most) == sides


def volumes(shape, spacing_mm):
    return Fingerprint(3, shape, spacing_mm, (-900.0, 50.0), {"lung": 0.25})


def test_memory_and_spacing_decide_the_tile_of_a_volume_and_a_given_one_holds(monkeypatch):
    monkeypatch.setattr(derive.device, "kind", lambda: "CPU")
    asked = TrainConfig(modality="CT", tile="3d", spacing="2,1,1")
    large = volumes((80, 128, 128), (4.0, 1.0, 1.0))  # 160 slices of 2 mm
    assert derive.volume_tile(asked, large, None).tile == "96,64,64"
    assert derive.volume_tile(asked, large, GIB // 16).tile == "32,32,32"
    given = TrainConfig(modality="CT", tile="32,64,64")
    assert derive.volume_tile(given, large, None) == given
    for found in (volumes((512, 512), (1.0, 1.0)), volumes((80, 128, 128), None)):
        with pytest.raises(InputError, match="--tile 3d needs volumes"):
            derive.volume_tile(asked, found, None)


@pytest.fixture
def make_case(tmp_path):
    def make(name, image, mask):
        raster.write(tmp_path / f"{name}.png", image)
        raster.write(tmp_path / f"{name}_mask.png", np.where(mask, 255, 0).astype(np.uint8))
        return Case(name, "XR", tmp_path / f"{name}.png", lung_mask=tmp_path / f"{name}_mask.png")

    return make


def test_a_fingerprint_is_of_medians_and_of_what_lies_inside_the_masks(make_case):
    rows = np.arange(40, dtype=np.uint8)[:, None]
    cases = [
        make_case(f"case{cols}", np.repeat(rows, cols, axis=1), np.repeat(rows >= 30, cols, axis=1))
        for cols in (10, 20, 60)
    ]
    taken = fingerprint.take(cases, ("lung",), seed=0)
    assert (taken.cases, taken.shape, taken.spacing_mm) == (3, (40, 20), None)
    assert taken.foreground_share == {"lung": 0.25}  # 10 of 40 rows
    # The values inside are 30 to 39, equally often.
    assert taken.foreground_window == pytest.approx((30, 39))


def test_a_fingerprint_reads_no_more_cases_than_it_needs(make_case, monkeypatch):
    monkeypatch.setattr(fingerprint, "MOST_CASES", 2)
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)
    cases = [make_case(f"case{number}", image, image > 7) for number in range(5)]
    assert fingerprint.take(cases, ("lung",), seed=1).cases == 2


def test_without_any_foreground_there_is_no_window(make_case):
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)
    taken = fingerprint.take([make_case("empty", image, image > 99)], ("lung",), seed=0)
    assert taken.foreground_window is None
    assert taken.foreground_share == {"lung": 0.0}


def test_a_batch_of_volumes_is_small_where_the_memory_is_not_known():
    asked = TrainConfig(modality="CT")
    spec = InputSpec("CT", ("lung",), (32, 32, 32), window=(0.0, 1.0))
    assert derive.batch(asked, zoo.NETWORKS["light"](spec), None).batch_size == 2
    flat = dataclasses.replace(spec, shape=(32, 32))
    assert derive.batch(asked, zoo.NETWORKS["light"](flat), None).batch_size == 8
