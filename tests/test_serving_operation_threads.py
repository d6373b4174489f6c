"""How many threads an operation gets: measured at export, chosen at launch."""

import json
import subprocess
import sys

import pytest
import served_models
import tiny_network

from data_pipeline import ports
from data_pipeline.spec import InputSpec
from models import segmenter, zoo
from serving import forward_times, golden, launch, operation_threads, proof, saved_model

CORES = 4


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(operation_threads.machine, "cores", lambda: [0, 2, 4, 6])


@pytest.mark.parametrize(
    ("passes_ms", "best"),
    [
        ([{1: 1.4, CORES: 2.3}], 1),
        ([{1: 2.3, CORES: 2.0}], 1),  # 1.15 times as fast: less than requests side by side lose
        ([{1: 900.0, CORES: 300.0}], CORES),
        ([{1: 1.4, CORES: 2.3}, {1: 900.0, CORES: 300.0}], CORES),  # what is waited for counts
        ([{1: 1.4, CORES: 2.3}, {1: 2.0, 2: 3.0}], None),  # one of another machine
        ([{}], None),
        ([], None),
    ],
)
def test_operations_are_shared_where_a_lone_request_gains(passes_ms, best, four_cores):
    assert operation_threads.best(passes_ms) == best


def version(folder, **told):
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "saved_model.pb").touch()
    (folder / proof.PLACE).write_text(json.dumps({"masks_equal": True} | told))


def planned_threads(folder, *more):
    port, rest_port = ports.free_ports(2)
    flags = [f"--port={port}", f"--rest_api_port={rest_port}", f"--model_base_path={folder}"]
    planned = launch.plan([*flags, *more], "embedded")
    given = planned.flags.tensorflow_intra_op_parallelism
    told = [word for word in planned.command if "intra_op" in word]
    assert told == ([f"--tensorflow_intra_op_parallelism={given}"] if given else [])
    return given


def test_a_server_gets_the_threads_that_were_best_at_export(tmp_path, four_cores):
    version(tmp_path / "m" / "1", pass_ms={"1": 1.4, "4": 2.3})
    assert planned_threads(tmp_path / "m") == 1
    version(tmp_path / "m" / "2", pass_ms={"1": 9.0, "4": 3.0})
    assert planned_threads(tmp_path / "m") == 4


@pytest.mark.parametrize(
    ("flag", "threads"),
    [
        ("--tensorflow_intra_op_parallelism=3", 3),
        ("--tensorflow_inter_op_parallelism=3", 0),
        ("--tensorflow_session_parallelism=3", 0),
        ("--enable_batching", 0),
    ],
)
def test_what_somebody_chose_is_left_alone(flag, threads, tmp_path, four_cores):
    version(tmp_path / "m" / "1", pass_ms={"1": 1.4, "4": 2.3})
    assert planned_threads(tmp_path / "m", flag) == threads


def test_a_model_that_was_not_measured_here_gets_what_the_server_chooses(tmp_path, four_cores):
    version(tmp_path / "m" / "1", pass_ms={"1": 1.4, "64": 2.3})
    assert planned_threads(tmp_path / "m") == 0
    version(tmp_path / "old" / "1")
    assert planned_threads(tmp_path / "old") == 0
    version(tmp_path / "other" / "1")
    (tmp_path / "other" / "1" / proof.PLACE).unlink()
    assert planned_threads(tmp_path / "other") == 0


def test_passes_are_measured_in_a_process_with_threads_of_its_own(tmp_path):
    network = tiny_network.build()
    folder = tmp_path / "m" / "1"
    _, png = golden.phantom_of(network.spec, 0)
    saved_model.write(network, folder, saved_model.warm_up_inputs(network.spec, png))
    measured = forward_times.measure_s(folder, [1, 2], threads=1)
    assert list(measured) == [1, 2]
    assert min(measured.values()) > 0
    one_alone = forward_times.measure_s(folder, [1, 2], threads=1, longest_s=0.0)
    assert list(one_alone) == [1]


ANSWER = """
import sys
from data_pipeline import onednn, quiet_tensorflow
import numpy as np
from tensorflow.core.protobuf import config_pb2
from serving.server import servable
config = config_pb2.ConfigProto(intra_op_parallelism_threads=int(sys.argv[2]))
model = servable.Servable("m", 1, sys.argv[1], servable.LoadOptions(session_config=config))
signature = model.signatures[servable.DEFAULT_SIGNATURE]
voxels = np.random.default_rng(0).random((2, 64, 64, 1), np.float32)
[answer] = model.run({signature.inputs["voxels"].name: voxels},
                     [signature.outputs["probabilities"].name])
sys.stdout.buffer.write(answer.tobytes())
"""


def test_no_bit_of_an_answer_depends_on_the_threads(tmp_path):
    spec = InputSpec("XR", ("lung",), (64, 64), window=(0.0, 1.0))
    network = segmenter.Network(zoo.NETWORKS["light"](spec), spec)
    saved_model.write(network, tmp_path / "1", saved_model.warm_up_inputs(spec, None))
    said = [
        subprocess.run(
            [sys.executable, "-c", ANSWER, tmp_path / "1", str(threads)],
            cwd=served_models.ROOT,
            capture_output=True,
            check=True,
        ).stdout
        for threads in (1, 3)
    ]
    assert len(said[0]) == 2 * 64 * 64 * 4
    assert said[0] == said[1]
