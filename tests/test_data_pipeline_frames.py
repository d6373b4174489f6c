import dataclasses

import numpy as np
import pytest

from data_pipeline import cases, frames, inference, intensity, phantom, raster
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec

SPEC = InputSpec("XR", ("lung", "infection"), (32, 32))


@pytest.fixture
def chest_cases(tmp_path):
    return cases.load(phantom.write_manifest(tmp_path / "data", count=6))


def test_a_frame_is_what_inference_shows_the_network_normalised(chest_cases, tmp_path):
    store = frames.open_store(chest_cases, SPEC, tmp_path / "cache")
    scan = cases.read_scan(chest_cases[2])
    _, shown = next(inference.frames(scan, SPEC))
    expected = np.asarray(intensity.normalise(shown[None], SPEC))[0]
    assert len(store) == 6
    np.testing.assert_array_equal(store.image(2), expected.astype(np.float16))


def test_a_label_that_nobody_annotated_is_marked_so_everywhere(chest_cases, tmp_path):
    store = frames.open_store(chest_cases, SPEC, tmp_path / "cache")
    assert chest_cases[0].infection_mask is None
    assert (store.target(0)[..., 1] == frames.NOT_ANNOTATED).all()
    assert (store.target(1)[..., 1] != frames.NOT_ANNOTATED).all()
    assert store.target(1)[..., 1].max() == frames.FULL


def test_the_second_opening_reads_no_image(chest_cases, tmp_path, monkeypatch):
    first = frames.open_store(chest_cases, SPEC, tmp_path / "cache")
    monkeypatch.setattr(raster, "read", lambda path: pytest.fail("decoded again"))
    second = frames.open_store(chest_cases, SPEC, tmp_path / "cache")
    np.testing.assert_array_equal(first.image(5), second.image(5))


def test_another_spec_or_a_changed_mask_is_decoded_anew(chest_cases, tmp_path):
    cache = tmp_path / "cache"
    frames.open_store(chest_cases, SPEC, cache)
    frames.open_store(chest_cases, dataclasses.replace(SPEC, clahe=True), cache)
    mask = chest_cases[0].lung_mask
    raster.write(mask, np.zeros_like(raster.read(mask)))
    emptied = frames.open_store(chest_cases, SPEC, cache)
    assert emptied.target(0)[..., 0].max() == 0
    assert len(list(cache.iterdir())) == 3


def test_a_mask_moved_to_another_label_is_decoded_anew(chest_cases, tmp_path):
    lung = dataclasses.replace(chest_cases[0], infection_mask=None)
    infection = dataclasses.replace(lung, lung_mask=None, infection_mask=lung.lung_mask)
    stores = [frames.open_store([case], SPEC, tmp_path / "cache") for case in (lung, infection)]
    annotated = [store.target(0).max(axis=(0, 1)) != frames.NOT_ANNOTATED for store in stores]
    assert [a.tolist() for a in annotated] == [[True, False], [False, True]]


def test_two_series_of_a_folder_and_a_changed_slice_do_not_share_frames(tmp_path):
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "1.dcm").write_bytes(b"one")
    first, second = (cases.Case("a", "CT", tmp_path / f"ct#{number}") for number in (1, 2))
    before = frames._fingerprint([first], SPEC)
    assert before != frames._fingerprint([second], SPEC)
    (tmp_path / "ct" / "1.dcm").write_bytes(b"another")
    assert before != frames._fingerprint([first], SPEC)


def test_frames_that_another_run_wrote_meanwhile_are_taken(tmp_path):
    for name in ("unfinished", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.json").write_text(name)
    frames._settle(tmp_path / "unfinished", tmp_path / "there")
    assert (tmp_path / "there" / "index.json").read_text() == "there"


def test_a_mask_of_another_size_is_named_and_leaves_no_half_written_store(chest_cases, tmp_path):
    raster.write(chest_cases[3].lung_mask, np.zeros((5, 5), np.uint8))
    with pytest.raises(InputError, match=r"case phantom-3: .*3\.png is \(5, 5\)"):
        frames.open_store(chest_cases, SPEC, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_volume_gives_a_2d_network_one_frame_a_slice(chest_cases, monkeypatch):
    scan, mask = phantom.ct(0)
    monkeypatch.setattr(cases, "read_scan", lambda case: scan)
    monkeypatch.setattr(cases, "read_mask", lambda case, labels, grid: mask)
    spec = InputSpec("CT", ("lung",), (64, 72), units="HU", window=(-1000.0, 400.0))
    lung = dataclasses.replace(mask, planes=mask.planes[:1], labels=("lung",))
    monkeypatch.setattr(cases, "read_mask", lambda case, labels, grid: lung)
    shown = list(frames.case_frames(chest_cases[0], spec))
    assert len(shown) == 12
    np.testing.assert_array_equal(
        np.stack([target[..., 0] for _, target in shown]), frames.FULL * mask.planes[0]
    )
