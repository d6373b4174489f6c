import json

import cv2
import fake_server
import numpy as np
import pytest

from data_pipeline.errors import InputError
from serving import load
from serving.load import Trial


@pytest.fixture
def scan(tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3  # 0 to 189; lung is above 100
    path = tmp_path / "scan.png"
    assert cv2.imwrite(str(path), pixels)
    return path


@pytest.mark.parametrize("send", ["voxels", "tile"])
def test_every_client_asks_until_the_time_is_over_and_all_masks_are_one(send, scan):
    with fake_server.over_grpc(fake_server.Fake()) as address:
        told = load.run(Trial(address, "fake", scan, send=send, clients=3, seconds=0.3))
    assert told["masks"] >= 3
    assert told["masks_a_second"] == pytest.approx(told["masks"] / 0.3, rel=0.9)
    assert len(told["different_masks"]) == 1
    assert list(told["latency_ms"]) == ["p50", "p95", "p99"]
    assert told["cpu_ms"] > 0
    assert sum(told["mean_ms"].values()) > 0
    if send == "tile":
        assert told["mean_ms"]["decode"] == told["mean_ms"]["postprocess"] == 0


def test_a_mask_that_changes_is_told_of(scan):
    fake = fake_server.Fake()
    fake.levels = {1: 100.0}
    fake.swap_after = (8, {1: 50.0})  # one version with two answers
    with fake_server.over_grpc(fake) as address:
        told = load.run(Trial(address, "fake", scan, clients=1, seconds=0.3))
    assert len(told["different_masks"]) == 2


def test_a_file_is_not_sent_to_a_model_that_refuses_it(scan):
    with fake_server.over_grpc(fake_server.Fake()) as address:
        trial = Trial(address, "fake", scan, send="file", clients=2, seconds=0.1)
        with pytest.raises(InputError, match=r"a client failed: .*masks.* not found"):
            load.run(trial)


def test_the_command_tells_and_writes_the_numbers(scan, tmp_path, capsys):
    out = tmp_path / "load.json"
    with fake_server.over_grpc(fake_server.Fake()) as address:
        load.main(
            [str(scan), "--server", address, "--model", "fake", "--seconds=0.1", f"--out={out}"]
        )
    assert "every mask the same" in capsys.readouterr().out
    assert json.loads(out.read_text())["clients"] == 1
