import dataclasses
import tracemalloc

import numpy as np
import pytest

from data_pipeline import cases, frames, inference, intensity, nifti, phantom, raster
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec

SPEC = InputSpec("XR", ("lung", "infection"), (32, 32))


@pytest.fixture
def chest_cases(tmp_path):
    return cases.load(phantom.write_manifest(tmp_path / "data", count=6))


def test_a_frame_is_what_inference_shows_the_network_normalised(chest_cases, tmp_path):
    store = frames.open_store(chest_cases, SPEC, tmp_path / "cache")
    scan = cases.read_scan(chest_cases[2])
    _, shown = next(inference.cut(scan, SPEC))
    expected = np.asarray(intensity.normalise(shown[None], SPEC))[0]
    assert len(store) == 6
    np.testing.assert_array_equal(store.image(2), expected.astype(np.float16))


@pytest.mark.parametrize("clahe", [False, True])
def test_intensity_is_traced_once_whatever_the_sizes_of_images(tmp_path, monkeypatch, clahe):
    made = [phantom.write_manifest(tmp_path / f"{n}", 2, (70 + n, 90)) for n in range(4)]
    several = [
        dataclasses.replace(case, id=f"{n}-{case.id}")
        for n, path in enumerate(made)
        for case in cases.load(path)
    ]
    traced, normalise = [], intensity.normalise
    monkeypatch.setattr(
        intensity, "normalise", lambda *told: (traced.append(1), normalise(*told))[1]
    )
    monkeypatch.setattr(frames.os, "cpu_count", lambda: 1)  # threads that begin at once each trace
    frames._normaliser.cache_clear()
    frames.open_store(several, dataclasses.replace(SPEC, clahe=clahe), tmp_path / "cache")
    assert len(traced) == 1


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


def test_what_inference_does_with_an_answer_decodes_nothing_anew(chest_cases, tmp_path):
    cache = tmp_path / "cache"
    frames.open_store(chest_cases, SPEC, cache)
    frames.open_store(chest_cases, dataclasses.replace(SPEC, flips=((1,),)), cache)
    assert len(list(cache.iterdir())) == 1


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


SLICES = InputSpec("CT", ("lung", "infection"), (64, 72), units="HU", window=(-1000.0, 400.0))


@pytest.fixture
def volume(chest_cases, monkeypatch):
    """A CT case of 12 x 64 x 72 voxels with lung alone annotated: its scan and plane."""
    scan, mask = phantom.ct(0)
    lung = dataclasses.replace(mask, planes=mask.planes[:1], labels=("lung",))
    monkeypatch.setattr(cases, "read_scan", lambda case: scan)
    monkeypatch.setattr(cases, "read_mask", lambda case, labels, grid: lung)
    return scan, lung.planes[0]


def windowed(voxels):
    return np.clip((voxels + 1000) / 1400, 0, 1).astype(np.float16)


def test_a_volume_gives_a_2d_network_one_frame_a_slice(chest_cases, volume, tmp_path):
    scan, lung = volume
    store = frames.open_store(chest_cases[:2], SLICES, tmp_path / "cache")
    assert len(store) == 24
    assert [store.where(n) for n in (0, 11, 12, 23)] == [(0, 0), (0, 11), (1, 0), (1, 11)]
    assert list(store.case_ids()) == ["phantom-0"] * 12 + ["phantom-1"] * 12
    for index in range(12):
        target = store.target(12 + index)
        np.testing.assert_array_equal(target[..., 0], frames.FULL * lung[index])
        assert (target[..., 1] == frames.NOT_ANNOTATED).all()
        image = store.image(12 + index).astype(np.float32)
        np.testing.assert_allclose(image[..., 0], windowed(scan.voxels[index]), atol=1e-3)


def test_neighbouring_slices_are_channels_as_inference_shows_them(chest_cases, volume, tmp_path):
    spec = dataclasses.replace(SLICES, neighbours=2)
    store = frames.open_store(chest_cases[:1], spec, tmp_path / "cache")
    assert store.image(0).shape == (64, 72, 5)
    for number, (_, shown) in enumerate(inference.cut(volume[0], spec)):
        expected = np.asarray(intensity.normalise(shown[None], spec))[0].astype(np.float16)
        np.testing.assert_array_equal(store.image(number), expected)
    # They are the frames that a network of slices has: no slice is stored twice.
    frames.open_store(chest_cases[:1], SLICES, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_3d_network_has_a_frame_a_case_on_the_spacing_it_works_at(chest_cases, volume, tmp_path):
    scan, lung = volume  # of 5 x 1.5 x 1.25 mm
    spec = dataclasses.replace(SLICES, shape=(8, 32, 32), spacing_mm=(2.5, 3.0, 2.5))
    store = frames.open_store(chest_cases[:1], spec, tmp_path / "cache")
    placement = inference.place(scan, spec)
    assert (len(store), store.shape(0)) == (1, (24, 32, 36))
    expected = windowed(placement.forward(scan.voxels))
    image = store.image(0)[..., 0].astype(np.float32)
    np.testing.assert_allclose(image, expected, atol=1e-3)
    share = np.rint(placement.forward_mask(lung[None])[0] * frames.FULL)
    np.testing.assert_array_equal(store.target(0)[..., 0], share)


def test_a_tile_may_reach_beyond_the_frame_where_it_is_blank(chest_cases, volume, tmp_path):
    spec = dataclasses.replace(SLICES, shape=(8, 32, 32), spacing_mm=(5.0, 1.5, 1.25))
    store = frames.open_store(chest_cases[:1], spec, tmp_path / "cache")
    image, target = store.tile(0, (-2, 40, 10), (6, 32, 32))
    whole, targets = store.image(0), store.target(0)
    np.testing.assert_array_equal(image[2:, :24], whole[:4, 40:, 10:42])
    np.testing.assert_array_equal(target[2:, :24], targets[:4, 40:, 10:42])
    assert not image[:2].any()
    assert not image[:, 24:].any()
    assert not target[:, 24:].any()


def test_places_lie_on_foreground_and_labels_without_any_have_none(chest_cases, volume, tmp_path):
    store = frames.open_store(chest_cases[:2], SLICES, tmp_path / "cache")
    (places,) = store.places(1)  # of lung; infection is not annotated
    voxels = np.unravel_index(places, store.shape(1))
    assert volume[1][voxels].all()
    assert len(np.unique(places)) == len(places) == min(10_000, volume[1].sum())


def test_where_a_tile_is_all_of_an_image_no_places_are_kept(chest_cases, tmp_path):
    store = frames.open_store(chest_cases, SPEC, tmp_path / "cache")
    assert store.places(1) == []


def test_a_store_does_not_grow_in_memory_with_its_cases(chest_cases, volume, tmp_path):
    def opened(count):
        many = [dataclasses.replace(chest_cases[0], id=f"{n:06}") for n in range(count)]
        frames.open_store(many, tiny, tmp_path / "cache")
        tracemalloc.start()
        store = frames.open_store(many, tiny, tmp_path / "cache")
        for number in range(0, len(store), 7):
            store.tile(store.where(number)[0], (0, 0, 0), (1, 8, 8))
        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return kept

    tiny = dataclasses.replace(SLICES, shape=(8, 8))
    opened(2)
    # Its id and the number of its first frame; 12 slices of 8 x 8 pixels are 3 kB of the files.
    assert opened(60) - opened(10) < 50 * 500


@pytest.mark.parametrize("threads", [1, 3])
def test_a_store_holds_the_same_bytes_however_many_threads_decode(
    chest_cases, tmp_path, monkeypatch, threads
):
    by_hand = [list(frames.case_slices(case, SPEC)) for case in chest_cases]
    monkeypatch.setattr(frames, "_MOST_THREADS", threads)
    monkeypatch.setattr(frames.os, "cpu_count", lambda: 4)
    store = frames.open_store(chest_cases, SPEC, tmp_path / "cache")
    assert store.ids == [case.id for case in chest_cases]
    for number, [(image, target)] in enumerate(by_hand):
        np.testing.assert_array_equal(store.image(number)[..., 0], image)
        np.testing.assert_array_equal(store.target(number), target)


def drawn(folder, number, slices):
    """Writes a CT case of 64 x 72 pixels, a PNG where it has one slice: with voxels and lung."""
    rng = np.random.default_rng(number)
    hu = rng.integers(-1000, 400, (slices, 64, 72)).astype(np.int16)
    lung = rng.random(hu.shape) < 0.5
    paths = [folder / f"{number}{what}{'.png' if slices == 1 else '.nii'}" for what in ("", "m")]
    if slices == 1:
        raster.write(paths[0], (hu[0] + 1000).astype(np.uint16))
        raster.write(paths[1], np.uint8(255) * lung[0])
        told = {"rescale_slope": 1.0, "rescale_intercept": -1000.0}
    else:
        affine = np.array([[0, 0, 0.7, -9], [0, 0.6, 0, 8], [5.0, 0, 0, 7], [0, 0, 0, 1]])
        nifti.write(paths[0], hu, affine)
        nifti.write(paths[1], lung.astype(np.uint8), affine)
        told = {}
    return cases.Case(f"{number}", "CT", *paths, **told), hu, lung


@pytest.mark.parametrize("threads", [1, 3])
def test_single_images_and_volumes_lie_in_one_store_in_the_order_of_cases(
    tmp_path, monkeypatch, threads
):
    counts = [1, 1, 3, 1, 2, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]  # more than are decoded ahead
    chests = [drawn(tmp_path, number, slices) for number, slices in enumerate(counts)]
    monkeypatch.setattr(frames.os, "cpu_count", lambda: threads)
    store = frames.open_store([case for case, _, _ in chests], SLICES, tmp_path / "cache")
    assert store.ids == [str(number) for number in range(len(counts))]
    number = 0
    for index, (_, hu, lung) in enumerate(chests):
        assert store.shape(index) == hu.shape
        for voxels, plane in zip(hu, lung, strict=True):
            image = store.image(number)[..., 0].astype(np.float32)
            np.testing.assert_allclose(image, windowed(voxels), atol=1e-3)
            np.testing.assert_array_equal(store.target(number)[..., 0], frames.FULL * plane)
            assert (store.target(number)[..., 1] == frames.NOT_ANNOTATED).all()
            number += 1
        places = store.places(index)  # of lung, where there is more than one tile
        assert len(places) == (len(hu) > 1)
        assert all(lung.ravel()[one].all() for one in places)
    assert len(store) == number


def test_threads_are_only_a_few_images_ahead_of_what_is_written(chest_cases, tmp_path, monkeypatch):
    asked, written = [], []
    append = frames._write_case
    monkeypatch.setattr(frames.os, "cpu_count", lambda: 1)  # so that two may wait
    monkeypatch.setattr(
        frames, "_write_case", lambda *args: (written.append(len(asked)), append(*args))[1]
    )

    def counted(cases):
        for case in cases:
            asked.append(case)
            yield case

    frames.open_store(chest_cases, SPEC, tmp_path / "cache", progress=counted)
    assert written == [3, 4, 5, 6, 6, 6]


def test_of_several_broken_cases_the_first_is_named(chest_cases, tmp_path):
    for number in (3, 1, 4):
        chest_cases[number].image.write_bytes(b"no image")
    with pytest.raises(InputError, match=f"^case {chest_cases[1].id}: "):
        frames.open_store(chest_cases, SPEC, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
