import numpy as np

from data_pipeline import batches, cases, frames, phantom
from data_pipeline.spec import InputSpec
from evaluation.speed import store

XRAY = InputSpec("XR", ("lung",), (32, 32))
VOLUME = InputSpec(
    "CT", ("lung",), (4, 16, 16), "HU", spacing_mm=(5.0, 1.5, 1.5), window=(-1000.0, 400.0)
)


def test_frames_and_tiles_are_measured_from_each_kind_of_file(tmp_path):
    xrays = cases.load(phantom.write_manifest(tmp_path / "data", count=3))
    volumes = store._volumes(tmp_path, 2, (8, 24, 24))
    found = store.measure("frame", xrays, XRAY, tmp_path / "frames", 1)
    found += store.measure("tile", volumes, VOLUME, tmp_path / "tiles", 1)
    ways = ["mapped", "TFRecord", "TFRecord GZIP"]
    assert [one.way for one in found] == 2 * ways
    assert all(one.cold > 0 and one.warm > 0 and one.megabytes > 0 for one in found)
    assert store._table(found).row_count == 6


def test_where_pages_cannot_be_dropped_nothing_is_called_cold(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_CAN_FORGET", False)
    monkeypatch.delattr("os.posix_fadvise", raising=False)
    measured = store._measured("frames", tmp_path, lambda: [(np.zeros(3), None)], passes=1)
    assert np.isnan(measured.cold)
    assert measured.warm > 0
    assert list(store._table([measured]).columns[3].cells) == ["-"]


def test_the_records_hold_what_the_store_holds(tmp_path):
    xrays = cases.load(phantom.write_manifest(tmp_path / "data", count=3))
    kept = frames.open_store(xrays, XRAY, tmp_path / "cache")
    store._write_records(xrays, XRAY, tmp_path / "frames", "GZIP")
    [(images, targets)] = store._records(tmp_path / "frames", XRAY, "GZIP")()
    [(expected, expected_targets)] = batches.whole(kept, XRAY, batch_size=8)
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(targets, expected_targets)
