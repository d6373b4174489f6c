import dataclasses
import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from data_pipeline import augment, batches, cases, frames, phantom, read
from data_pipeline.spec import InputSpec

SPEC = InputSpec("XR", ("lung", "infection"), (32, 32))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    return frames.open_store(
        cases.load(phantom.write_manifest(folder / "data", count=6)), SPEC, folder / "cache"
    )


def stream(store, count, *, seed=5, policy=augment.NONE, spec=SPEC, batch_size=2, **options):
    epoch = np.arange(len(store))
    dataset = batches.training(
        store, spec, policy, epoch=epoch, batch_size=batch_size, seed=seed, **options
    )
    return [
        (np.asarray(images), np.asarray(targets))
        for images, targets in itertools.islice(dataset, count)
    ]


def which(store, image):
    distances = [np.abs(store.image(n).astype(np.float32) - image).max() for n in range(len(store))]
    return int(np.argmin(distances))


def test_each_epoch_shows_each_frame_once_in_an_order_of_its_own(store):
    shown = [which(store, image) for images, _ in stream(store, 9) for image in images]
    epochs = [tuple(shown[i : i + 6]) for i in (0, 6, 12)]
    assert [sorted(epoch) for epoch in epochs] == [[0, 1, 2, 3, 4, 5]] * 3
    assert len(set(epochs)) > 1


def test_a_resumed_stream_goes_on_with_the_very_next_batch(store):
    whole = stream(store, 5, policy=augment.XRAY)
    rest = stream(store, 2, first_sample=6, policy=augment.XRAY)
    for expected, got in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(expected[0], got[0])
        np.testing.assert_array_equal(expected[1], got[1])


def test_no_epoch_reads_a_file_of_a_case(store, monkeypatch):
    for reader in ("scan", "placed_classes"):
        monkeypatch.setattr(read, reader, lambda *args: pytest.fail("decoded again"))
    assert len(stream(store, 7)) == 7  # 14 samples of 6 frames


def test_another_seed_gives_other_batches(store):
    assert not np.array_equal(stream(store, 1)[0][0], stream(store, 1, seed=6)[0][0])


def test_labels_that_nobody_annotated_stay_marked_through_augmentation(store):
    unannotated = {0, 3}
    for images, targets in stream(store, 3):
        for image, target in zip(images, targets, strict=True):
            marked = (target[..., 1] == batches.NOT_ANNOTATED).all()
            assert marked == (which(store, image) in unannotated)
            assert target[..., 0].min() == 0
    for _, targets in stream(store, 3, policy=augment.XRAY):
        assert set(np.unique(targets[..., 1] < 0)) <= {False, True}
        assert all(len(np.unique(t[..., 1] < 0)) == 1 for t in targets)


def test_validation_shows_every_frame_once_and_unchanged(store):
    images = np.concatenate([np.asarray(x) for x, _ in batches.whole(store, SPEC, batch_size=4)])
    np.testing.assert_array_equal(images, np.stack([store.image(n) for n in range(6)]))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Opens two phantom CT volumes of 12 x 64 x 72 voxels and 5 x 1.5 x 1.25 mm as a spec says."""
    folder = tmp_path_factory.mktemp("volumes")
    made = []
    for seed in range(2):
        scan, mask = phantom.ct(seed)
        paths = [folder / f"{seed}{name}.nrrd" for name in ("", "_lung", "_infection")]
        for path, values in zip(paths, (scan.voxels, *mask.planes), strict=True):
            write_nrrd(path, values, scan.spacing_mm)
        made.append(cases.Case(f"ct-{seed}", "CT", *paths))
    return lambda spec: frames.open_store(made, spec, folder / "cache")


def write_nrrd(path, values, spacing_mm):
    image = sitk.GetImageFromArray(values.astype(np.int16))
    image.SetSpacing(spacing_mm[::-1])
    sitk.WriteImage(image, str(path))


CT = InputSpec("CT", ("lung", "infection"), (64, 72), units="HU", window=(-1000.0, 400.0))
SPECS = {
    "2.5D tiles": dataclasses.replace(CT, shape=(16, 16), frame=(64, 72), neighbours=1),
    "3D": dataclasses.replace(CT, shape=(4, 16, 16), spacing_mm=(5.0, 1.5, 1.25)),
}


def centres(store, name, share):
    """Returns which labels are foreground in the middle of 400 tiles: bool (400, labels)."""
    spec = SPECS[name]
    drawn = stream(store, 25, spec=spec, batch_size=16, foreground_share=share)
    centre = (slice(None), *(side // 2 for side in spec.shape))
    return np.concatenate([targets for _, targets in drawn])[centre] > 0


@pytest.mark.parametrize("name", ["2.5D tiles", "3D"])
def test_the_set_share_of_tiles_is_centred_on_foreground_each_label_as_often(volumes, name):
    lung, infection = centres(volumes(SPECS[name]), name, share=1.0).mean(axis=0)
    # Half of the centres are drawn from infection, and of those from lung a few lie in it too.
    assert lung == 1
    assert 0.45 < infection < 0.7


def test_without_a_share_on_foreground_tiles_lie_anywhere(volumes):
    lung, infection = centres(volumes(SPECS["3D"]), "3D", share=0.0).mean(axis=0)
    assert 0.1 < lung < 0.5
    assert infection < 0.08


@pytest.mark.parametrize("name", ["2.5D tiles", "3D"])
def test_a_tile_is_what_inference_would_show_of_that_place(volumes, name):
    spec = SPECS[name]
    store = volumes(spec)
    shown = np.concatenate([images for images, _ in stream(store, 4, spec=spec)])
    whole = [store.image(number).astype(np.float32) for number in range(len(store))]
    for image in shown:
        assert any(holds(frame, image) for frame in whole)


def holds(frame, tile):
    windows = np.lib.stride_tricks.sliding_window_view(frame, tile.shape)
    first = windows[(..., *[0] * tile.ndim)]
    like = np.argwhere(np.abs(first - tile[(0,) * tile.ndim]) < 1e-4)
    # Sampling at whole pixels and a contrast times one may round in the last place.
    return any(np.abs(windows[tuple(place)] - tile).max() < 1e-4 for place in like)


def test_rotated_tiles_of_a_larger_frame_have_no_blank_corners(volumes):
    spec = dataclasses.replace(
        CT, labels=("infection",), shape=(12, 12), frame=(64, 72), window=(-1200.0, 400.0)
    )
    turning = dataclasses.replace(augment.NONE, rotate_degrees=45.0)
    store = volumes(spec)
    everywhere = np.concatenate([images for images, _ in stream(
        store, 20, spec=spec, policy=turning, batch_size=4, foreground_share=1.0)])  # fmt: skip
    # Air is 0.13 in this window, and infection lies far from the frame's border.
    assert everywhere.min() > 0


def test_a_2d_network_is_shown_slices_with_infection_more_often_than_there_are(volumes):
    store = volumes(CT)
    with_infection = np.mean([store.target(n)[..., 1].any() for n in range(len(store))])
    drawn = stream(store, 120, spec=CT, foreground_share=1.0)
    shown = np.mean([(t[..., 1] > 0).any() for _, targets in drawn for t in targets])
    assert shown > with_infection + 0.1


def test_validation_shows_a_few_tiles_of_a_larger_frame_the_same_each_time(volumes):
    store = volumes(SPECS["3D"])
    first, again = (list(batches.whole(store, SPECS["3D"], batch_size=4)) for _ in range(2))
    assert [len(images) for images, _ in first] == [4, 4]  # of two cases
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    assert len({np.asarray(image).tobytes() for images, _ in first for image in images}) == 8


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_together_read_the_samples_of_one_device_in_its_order_and_each_once(store, workers):
    expected = stream(store, 3, batch_size=8, policy=augment.XRAY, first_sample=8)
    shards = []
    for worker in range(workers):
        shard = batches.Shard(worker, workers, replicas=2)
        count = 3 * 2 // workers
        shards.append(stream(store, count, batch_size=8, policy=augment.XRAY, first_sample=8,
                             shard=shard))  # fmt: skip
        assert {len(images) for images, _ in shards[-1]} == {4}
    for step, (images, targets) in enumerate(expected):
        own = 2 // workers  # replicas of a worker
        parts = [part for shard in shards for part in shard[step * own : (step + 1) * own]]
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), images)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), targets)


def test_shards_of_validation_show_every_annotated_frame_once(store):
    everything = list(batches.whole(store, SPEC, batch_size=4))
    shards = [
        list(batches.whole(store, SPEC, batch_size=4, shard=shard))
        for shard in (batches.Shard(0, 2, 2), batches.Shard(1, 2, 2))
    ]
    assert [[len(x) for x, _ in shard] for shard in shards] == [[2, 2], [2, 2]]  # of 6 frames
    in_order = [shards[0][0], shards[1][0], shards[0][1], shards[1][1]]
    for part, expected in enumerate(zip(*everything, strict=True)):
        together = np.concatenate([batch[part] for batch in in_order])
        np.testing.assert_array_equal(together[:6], np.concatenate(expected))
    # The second worker would have had none of the last batch: what it gets is annotated nowhere.
    assert np.all(shards[1][1][1] == batches.NOT_ANNOTATED)


def test_a_batch_that_replicas_cannot_share_is_refused():
    with pytest.raises(ValueError, match="a batch of 6 cannot be divided among 4 replicas"):
        batches.Shard(0, 1, 4).sizes(6)


def test_small_data_sets_are_repeated_towards_the_size_of_the_largest():
    # a: 6 frames, b: 2 (three times as few), c: 1 (six times as few, but at most thrice), d: 4
    datasets = ["a"] * 6 + ["b"] * 2 + ["c"] + ["d"] * 4
    epoch = batches.balanced(datasets)
    assert np.bincount(epoch).tolist() == [1] * 6 + [3] * 2 + [3] + [1] * 4


def test_an_epoch_shows_a_repeated_frame_as_often_as_it_is_listed(store):
    dataset = batches.training(
        store, SPEC, augment.NONE, epoch=np.array([0, 4, 4, 4, 2, 2]), batch_size=2, seed=1
    )
    shown = [which(store, image) for images, _ in dataset.take(3) for image in images]
    assert sorted(shown) == [0, 2, 2, 4, 4, 4]
