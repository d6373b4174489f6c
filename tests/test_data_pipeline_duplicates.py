import cv2
import numpy as np
import pytest

from data_pipeline import cases, duplicates
from data_pipeline.scan import Scan


def scan(voxels):
    return Scan(np.asarray(voxels, np.float32), "XR", "stored", "some scan")


@pytest.fixture(scope="module")
def images():
    """Forty real X-rays of forty patients."""
    chosen = [case for case in cases.load() if case.modality == "XR"]
    different = {case.patient: case for case in chosen}.values()
    return [cases.read_scan(case).voxels for case in list(different)[::3][:40]]


def near(one, other):
    prints = [duplicates.fingerprint(scan(one)), duplicates.fingerprint(scan(other))]
    return duplicates.pairs(prints)


def test_the_same_numbers_are_an_exact_copy(images):
    assert near(images[0], images[0].copy()) == [(0, 1, True)]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [1, 60])[1], -1),
        lambda image: cv2.resize(image, (256, 256)),
        lambda image: cv2.resize(image, (500, 611), interpolation=cv2.INTER_CUBIC),
        lambda image: 255 * (image / 255.0) ** 0.7,
        lambda image: np.clip((image - 25.0) * 1.2, 0, 255),
        lambda image: image[2:-2, 2:-2],
    ],
    ids=["recompressed", "shrunk", "enlarged", "gamma", "windowed", "cropped"],
)
def test_a_changed_copy_is_a_near_copy(images, change):
    for image in images[:10]:
        assert near(image, change(image.astype(np.uint8))) == [(0, 1, False)]


def test_different_patients_are_no_copies(images):
    assert duplicates.pairs([duplicates.fingerprint(scan(image)) for image in images]) == []


def test_pairs_are_found_across_the_chunks_of_a_large_set(images, monkeypatch):
    monkeypatch.setattr(duplicates, "_CHUNK", 3)
    prints = [duplicates.fingerprint(scan(image)) for image in [*images[:9], images[1], images[0]]]
    assert duplicates.pairs(prints) == [(0, 10, True), (1, 9, True)]


def test_volumes_are_compared_with_volumes(images):
    volume = np.stack([image[:150, :150] for image in images[:8]])
    prints = [duplicates.fingerprint(scan(v)) for v in (volume, volume * 2, images[0])]
    assert duplicates.pairs(prints) == [(0, 1, False)]
