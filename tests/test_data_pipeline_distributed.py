"""Under a strategy each worker reads its own samples, and all together those of one device."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from data_pipeline import augment, batches, cases, frames, phantom, ports
from data_pipeline.spec import InputSpec

SPEC = InputSpec("XR", ("lung", "infection"), (16, 16))
STEPS, BATCH = 3, 4

# What each process runs: three steps of four tiles, and a note of each sample that was read.
STREAM = """
    import pathlib, sys
    import numpy as np
    import tensorflow as tf
    {devices}
    from data_pipeline import augment, batches, cases, frames
    from data_pipeline.spec import InputSpec
    strategy = tf.distribute.{strategy}()
    folder = pathlib.Path(sys.argv[1])
    spec = InputSpec("XR", ("lung", "infection"), (16, 16))
    store = frames.open_store(cases.load(folder / "data"), spec, folder / "cache")
    read, random = [], np.random.default_rng
    np.random.default_rng = lambda key: read.append(key[1]) or random(key)  # (seed, sample)
    stream = batches.distributed(strategy, lambda shard: batches.training(
        store, spec, augment.XRAY, epoch=np.arange(6), batch_size=4, seed=3, shard=shard))
    steps = []
    for images, targets in stream:
        local = zip(*map(strategy.experimental_local_results, (images, targets)))
        steps.append([np.concatenate([i, t], axis=-1) for i, t in local])
        if len(steps) == 3:
            break
    np.savez(sys.argv[2], steps=np.array(steps), read=read)
"""


@pytest.fixture
def folder(tmp_path):
    cases_of = cases.load(phantom.write_manifest(tmp_path / "data", count=6))
    frames.open_store(cases_of, SPEC, tmp_path / "cache")
    return tmp_path


@pytest.fixture
def on_one_device(folder):
    """Three batches: images and targets side by side, (4, 16, 16, channels + labels)."""
    store = frames.open_store(cases.load(folder / "data"), SPEC, folder / "cache")
    stream = batches.training(
        store, SPEC, augment.XRAY, epoch=np.arange(6), batch_size=BATCH, seed=3
    )
    return [np.concatenate(pair, axis=-1) for pair in stream.take(STEPS)]


def start(folder, out, strategy, devices="", **environment):
    script = textwrap.dedent(STREAM).format(strategy=strategy, devices=devices)
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder), str(out)],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told[-3000:]


def test_replicas_of_a_machine_are_given_one_devices_batches_and_each_sample_is_read_once(
    folder, on_one_device
):
    two = "tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0],"
    two += " [tf.config.LogicalDeviceConfiguration()] * 2)"
    finished(start(folder, folder / "out.npz", "MirroredStrategy", two))
    with np.load(folder / "out.npz") as found:
        assert found["steps"].shape == (STEPS, 2, BATCH // 2, 16, 16, 3)
        for step, expected in zip(found["steps"], on_one_device, strict=True):
            np.testing.assert_array_equal(np.concatenate(step), expected)
        assert len(set(found["read"])) == len(found["read"])


@pytest.mark.slow
def test_workers_on_two_machines_read_disjoint_halves_of_each_batch(folder, on_one_device):
    cluster = {"worker": [f"localhost:{port}" for port in ports.free_ports(2)]}
    outs = [folder / f"{index}.npz" for index in range(2)]
    workers = [
        start(folder, out, "MultiWorkerMirroredStrategy", TF_CONFIG=json.dumps(
            {"cluster": cluster, "task": {"type": "worker", "index": index}}))
        for index, out in enumerate(outs)
    ]  # fmt: skip
    for worker in workers:
        finished(worker)
    parts = [np.load(out)["steps"] for out in outs]
    for step, expected in enumerate(on_one_device):
        together = np.concatenate([part[step][0] for part in parts])
        np.testing.assert_array_equal(together, expected)
    # Of samples 0, 1, 2, 3 of a batch worker 0 reads the first two, worker 1 the others.
    for worker, out in enumerate(outs):
        assert set(np.load(out)["read"] % BATCH // 2) == {worker}
