import dataclasses
import tracemalloc

import numpy as np
import pytest

from data_pipeline import inference
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan
from data_pipeline.spec import InputSpec

SLICES = InputSpec("CT", ("lung",), (8, 8), units="HU", window=(0.0, 1.0))
SPACING_MM = (5.0, 1.5, 1.25)


def volume(*shape, spacing_mm=SPACING_MM):
    voxels = np.random.default_rng(5).integers(0, 17, shape).astype(np.float32)
    return Scan(voxels, "CT", "HU", "ct.nii.gz", spacing_mm and spacing_mm[-len(shape) :])


class Sixteenth:
    """Stands in for a network: a voxel's probability is a sixteenth of its value."""

    def __init__(self):
        self.batches = []

    def __call__(self, tiles):
        self.batches.append(tiles.shape)
        return tiles[..., :1] / 16


def test_one_frame_as_large_as_the_scan_gives_what_the_network_says():
    scan = volume(8, 8)
    got = inference.probabilities(scan, SLICES, Sixteenth())
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, scan.voxels[None] / 16)


def test_a_2d_network_sees_a_volume_slice_by_slice():
    scan, network = volume(3, 8, 8), Sixteenth()
    got = inference.probabilities(scan, SLICES, network)
    np.testing.assert_array_equal(got, scan.voxels[None] / 16)
    assert network.batches == [(1, 8, 8, 1)] * 3


def test_neighbouring_slices_are_channels_and_the_end_slices_stand_in_beyond_the_volume():
    voxels = np.zeros((3, 8, 8), np.float32) + np.arange(3, dtype=np.float32)[:, None, None]
    scan = Scan(voxels, "CT", "HU", "ct.nii.gz")
    spec = dataclasses.replace(SLICES, neighbours=1)
    seen = [tile[0, 0].tolist() for _, tile in inference.cut(scan, spec)]
    assert seen == [[0, 0, 1], [0, 1, 2], [1, 2, 2]]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_frame_larger_than_the_tile_is_cut_and_stitched_without_a_trace(batch_size):
    scan, network = volume(20, 12), Sixteenth()
    spec = dataclasses.replace(SLICES, frame=(20, 12))
    got = inference.probabilities(scan, spec, network, batch_size=batch_size)
    np.testing.assert_array_equal(got, scan.voxels[None] / 16)
    # Tiles of 8 that share half: 4 down, 2 across.
    assert network.batches == [(batch_size, 8, 8, 1)] * (8 // batch_size)


def test_a_3d_network_is_given_tiles_of_the_volume():
    scan, network = volume(6, 8, 12), Sixteenth()
    spec = dataclasses.replace(SLICES, shape=(4, 8, 8), frame=(6, 8, 12))
    got = inference.probabilities(scan, spec, network, overlap=0.5)
    np.testing.assert_array_equal(got, scan.voxels[None] / 16)
    assert network.batches == [(1, 4, 8, 8, 1)] * 4


def test_tiles_of_several_slices_are_asked_for_together():
    scan, network = volume(5, 8, 8), Sixteenth()
    got = inference.probabilities(scan, SLICES, network, batch_size=2)
    np.testing.assert_array_equal(got, scan.voxels[None] / 16)
    assert network.batches == [(2, 8, 8, 1), (2, 8, 8, 1), (1, 8, 8, 1)]


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (64, 64), "neighbours": 1},
        {"frame": (64, 64), "shape": (48, 48)},
        {"shape": (8, 48, 48), "spacing_mm": (4.0, 1.5, 1.5)},
    ],
    ids=["2.5D", "2D tiles", "3D tiles"],
)
def test_memory_beyond_the_scan_and_its_answer_does_not_grow_with_the_slices(change):
    spec = dataclasses.replace(SLICES, labels=("lung", "infection"), **change)

    def beyond(slices):
        scan = volume(slices, 64, 64)
        tracemalloc.start()
        answer = inference.probabilities(
            scan, spec, lambda tiles: np.repeat(tiles[..., :1] / 16, 2, axis=-1)
        )
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak - answer.nbytes

    beyond(10)  # what is made once and kept, such as imports
    slice_bytes = 4 * 64 * 64
    # What grows is a tile's corner and a row of resampling weights a slice.
    assert beyond(80) - beyond(20) < 60 * slice_bytes / 2


def test_a_spec_with_a_spacing_brings_each_scan_to_it_and_back():
    network = Sixteenth()
    spec = dataclasses.replace(SLICES, spacing_mm=(0.75, 1.25))
    scan = Scan(np.full((4, 8), 8, np.float32), "CT", "HU", "ct.nii.gz", (1.5, 1.25))
    got = inference.probabilities(scan, spec, network)
    assert network.batches == [(1, 8, 8, 1)]  # rows of 1.5 mm became twice as many of 0.75 mm
    np.testing.assert_array_equal(got, np.full((1, 4, 8), 0.5))


@pytest.mark.parametrize(
    ("scan", "change", "message"),
    [
        (
            Scan(np.zeros((8, 8), np.float32), "XR", "stored", "a.png"),
            {},
            "a.png: it is XR, the model was trained on CT",
        ),
        (
            Scan(np.zeros((8, 8), np.float32), "CT", "stored", "a.png"),
            {},
            "a.png: its intensities are stored, the model was trained on HU; give rescale_slope",
        ),
        (
            volume(8, 8),
            {"units": "stored", "window": None},
            "ct.nii.gz: its intensities are HU, the model was trained on stored; a scan in HU",
        ),
        (
            volume(8, 8),
            {"shape": (4, 8, 8)},
            "ct.nii.gz: it is one slice, the model needs volumes",
        ),
        (
            volume(8, 8),
            {"neighbours": 2},
            "ct.nii.gz: it is one slice, the model looks at 2 on either side too",
        ),
        (
            volume(8, 8, spacing_mm=None),
            {"spacing_mm": (1.5, 1.5)},
            r"ct.nii.gz: its spacing is unknown, and the model works at \(1.5, 1.5\) mm",
        ),
    ],
    ids=["modality", "stored for HU", "HU for stored", "rank", "neighbours", "spacing"],
)
def test_a_scan_that_the_model_was_not_made_for_is_refused(scan, change, message):
    network = Sixteenth()
    with pytest.raises(InputError, match=message):
        inference.probabilities(scan, dataclasses.replace(SLICES, **change), network)
    assert not network.batches


def test_a_voxel_belongs_to_the_mask_above_one_half_and_not_at_it():
    mask = inference.mask(np.array([[[0.49, 0.5, 0.51]]], np.float32), SLICES)
    assert mask.planes.tolist() == [[[False, False, True]]]
    assert mask.labels == ("lung",)


def test_each_label_has_its_own_threshold():
    spec = dataclasses.replace(SLICES, labels=("lung", "infection"), thresholds=(0.5, 0.375))
    values = np.array([[[0.45, 0.55]], [[0.375, 0.45]]], np.float32)
    assert inference.mask(values, spec).planes.tolist() == [[[False, True]], [[False, True]]]
