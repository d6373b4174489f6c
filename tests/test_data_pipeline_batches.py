import itertools

import numpy as np
import pytest

from data_pipeline import augment, batches, cases, frames, phantom
from data_pipeline.spec import InputSpec

SPEC = InputSpec("XR", ("lung", "infection"), (32, 32))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    return frames.open_store(
        cases.load(phantom.write_manifest(folder / "data", count=6)), SPEC, folder / "cache"
    )


def stream(store, count, *, first_sample=0, seed=5, policy=augment.NONE, spec=SPEC):
    dataset = batches.training(
        store,
        spec,
        policy,
        epoch=list(range(len(store))),
        batch_size=2,
        seed=seed,
        first_sample=first_sample,
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


def test_tiles_of_a_larger_frame_lie_inside_it_and_often_on_foreground(tmp_path):
    folder = tmp_path
    spec = InputSpec("XR", ("lung",), (16, 16), frame=(96, 96), window=(0.0, 255.0))
    chest = cases.load(phantom.write_manifest(folder / "data", count=3))
    store = frames.open_store(chest, spec, folder / "cache")
    tiles = [t for _, targets in stream(store, 30, spec=spec) for t in targets]
    covered = np.mean([t.mean() for t in tiles])
    lung = np.mean([store.target(n).mean() / frames.FULL for n in range(3)])
    assert all(t.shape == (16, 16, 1) for t in tiles)
    # A third of the tiles is centred on lung, so more of a tile is lung than of a frame.
    assert covered > lung + 0.1


def test_small_data_sets_are_repeated_towards_the_size_of_the_largest():
    # a: 6 frames, b: 2 (three times as few), c: 1 (six times as few, but at most thrice), d: 4
    datasets = ["a"] * 6 + ["b"] * 2 + ["c"] + ["d"] * 4
    epoch = batches.balanced(datasets)
    assert [epoch.count(frame) for frame in range(13)] == [1] * 6 + [3] * 2 + [3] + [1] * 4


def test_an_epoch_shows_a_repeated_frame_as_often_as_it_is_listed(store):
    dataset = batches.training(
        store, SPEC, augment.NONE, epoch=[0, 4, 4, 4, 2, 2], batch_size=2, seed=1
    )
    shown = [which(store, image) for images, _ in dataset.take(3) for image in images]
    assert sorted(shown) == [0, 2, 2, 4, 4, 4]
