"""Several requests at once: the same mask, never more than agreed, nothing left after a failure."""

import dataclasses
import threading
import time
from concurrent import futures

import fake_server
import numpy as np
import pytest

from data_pipeline import inference
from data_pipeline.scan import Scan
from data_pipeline.spec import InputSpec
from serving import client, in_flight

SLICES = InputSpec("CT", ("lung",), (8, 8), units="HU", window=(0.0, 1.0))
TILES_3D = dataclasses.replace(SLICES, shape=(4, 8, 8), frame=(9, 20, 12))


class Slow:
    """A network whose earlier answers take longer, and which knows how many it made at once."""

    def __init__(self):
        self.lock = threading.Lock()
        self.at_once = self.most = self.calls = 0

    def __call__(self, tiles):
        with self.lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            self.calls += 1
            call = self.calls
        time.sleep(0.004 * (4 - call % 4))
        with self.lock:
            self.at_once -= 1
        return np.stack([tiles[..., 0] / 17, np.sqrt(tiles[..., 0]) / 5], axis=-1)


@pytest.fixture
def pool():
    with futures.ThreadPoolExecutor(4) as pool:
        yield pool


def volume(*shape) -> Scan:
    voxels = np.random.default_rng(3).integers(0, 17, shape).astype(np.float32)
    return Scan(voxels, "CT", "HU", "ct.nii.gz", (5.0, 1.5, 1.25)[-len(shape) :])


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (SLICES, (9, 8, 8)),
        (dataclasses.replace(SLICES, frame=(20, 12)), (3, 31, 17)),
        (TILES_3D, (9, 20, 12)),
    ],
    ids=["slices", "tiles of slices", "tiles of a volume"],
)
def test_tiles_asked_for_at_once_give_the_bits_of_tiles_asked_for_in_turn(spec, shape, pool):
    spec = dataclasses.replace(spec, labels=("lung", "infection"))
    in_turn, at_once = Slow(), Slow()
    expected = inference.probabilities(volume(*shape), spec, in_turn)
    for _ in range(3):
        each = in_flight.in_order(pool, 4)
        got = inference.probabilities(volume(*shape), spec, at_once, each=each)
        np.testing.assert_array_equal(got, expected)
    assert in_turn.most == 1
    assert 1 < at_once.most <= 4


def test_scans_that_share_a_pool_share_its_limit(pool):
    network = Slow()
    spec = dataclasses.replace(SLICES, labels=("lung", "infection"))
    each = in_flight.in_order(pool, 4)

    def ask(_):
        return inference.probabilities(volume(9, 8, 8), spec, network, each=each)

    with futures.ThreadPoolExecutor(3) as scans:
        assert len(list(scans.map(ask, range(3)))) == 3
    assert network.calls == 27
    assert network.most <= 4


def test_no_batch_is_cut_before_there_is_room_for_it(pool):
    cut = []

    def batches():
        for number in range(50):
            cut.append(number)
            yield np.full(1, number)

    answers = in_flight.in_order(pool, 4)(lambda batch: batch, batches())
    for taken in range(3):
        assert next(answers) == taken
        assert len(cut) == taken + 5  # four on their way, and the one that was taken
    answers.close()


def test_a_failure_ends_what_waits_behind_it():
    asked = []

    def fails(batch):
        asked.append(int(batch[0]))
        raise ConnectionError("gone")

    with futures.ThreadPoolExecutor(1) as pool:
        answers = in_flight.in_order(pool, 8)(fails, (np.full(1, n) for n in range(100)))
        with pytest.raises(ConnectionError, match="gone"):
            list(answers)
    assert len(asked) <= 9
    assert asked == list(range(len(asked)))


def test_a_stopwatch_tells_preparing_from_waiting(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(in_flight.time, "perf_counter", lambda: now[0])

    def batches():
        for _ in range(3):
            now[0] += 2.0
            yield np.zeros(1)

    def predict(batch):
        now[0] += 5.0
        return batch

    watch = in_flight.Stopwatch()
    for _ in watch.timed(map)(predict, batches()):
        now[0] += 100.0  # what is done with an answer is neither
    assert (watch.preprocess_s, watch.server_s, watch.requests) == (6.0, 15.0, 3)


def test_a_model_asks_for_as_many_slices_at_once_as_it_was_told():
    fake = fake_server.Fake()
    fake.delay_s = 0.03
    scan = Scan(np.full((12, 8, 8), 200, np.float32), "XR", "stored", "test")
    with fake_server.over_grpc(fake) as address:
        for parallel in (1, 3):
            fake.most = 0
            model = client.connect(address, "fake", parallel=parallel)
            assert model.mask(scan).planes.all()
            model.close()
            assert fake.most == parallel
