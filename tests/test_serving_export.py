"""The gate of an export, and what it leaves on disk; see also test_served_equals_trained."""

import contextlib
import copy
import dataclasses
import io
import json

import numpy as np
import pytest
import tensorflow as tf
import tiny_network
from rich.console import Console

from data_pipeline import cases, inference, phantom, split
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan
from data_pipeline.spec import InputSpec
from serving import export, gate, golden, parity, saved_model
from serving.parity import Answer, Golden


@pytest.fixture(scope="module")
def network():
    return tiny_network.build()


@pytest.fixture(scope="module")
def one_case(network):
    return [Golden(1, *golden.phantom_of(network.spec, 0))]


@pytest.fixture
def without_processes(monkeypatch, network):
    """Takes the trained network's own answers for those of the SavedModel and the servers."""

    @contextlib.contextmanager
    def embedded(base_path, model):
        assert (base_path / "1" / "saved_model.pb").exists()
        yield {"grpc": "", "rest": ""}

    changes = dict.fromkeys(("saved_model", "grpc", "rest"), lambda planes: planes)

    def answers(way, golden_cases):
        expected = [gate._trained(network, case) for case in golden_cases]
        return [dataclasses.replace(a, planes=changes[way](a.planes)) for a in expected]

    monkeypatch.setattr(gate, "_fresh", lambda _, __, given: answers("saved_model", given))
    monkeypatch.setattr(gate, "_over", lambda api, _, __, given: answers(api, given))
    monkeypatch.setattr(gate.server_process, "embedded", embedded)
    monkeypatch.setattr(export.forward_times, "pass_ms", lambda _: {1: 2.5, 2: 4.0})
    return changes


def one_pixel_off(planes):
    planes = planes.copy()
    planes[0, 3, 4] ^= True
    return planes


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_versions_follow_each_other(network, one_case, without_processes, tmp_path):
    out = tmp_path / "exports" / "tiny"
    assert export.export(network, out, one_case, quiet()) == out / "1"
    (out / "00000007").mkdir()
    (out / "notes").mkdir()
    assert export.export(network, out, one_case, quiet()) == out / "8"
    assert sorted(p.name for p in out.iterdir()) == ["00000007", "1", "8", "notes"]


@pytest.mark.parametrize("way", ["saved_model", "grpc", "rest"])
def test_one_pixel_of_difference_leaves_nothing_behind(
    way, network, one_case, without_processes, tmp_path
):
    without_processes[way] = one_pixel_off
    out = tmp_path / "exports" / "tiny"
    with pytest.raises(parity.NotProven, match=r"not exported: .* differs in 1 of 25414 pixels"):
        export.export(network, out, one_case, quiet())
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_earlier_versions_alone(
    network, one_case, without_processes, tmp_path
):
    out = tmp_path / "tiny"
    export.export(network, out, one_case, quiet())
    without_processes["grpc"] = one_pixel_off
    with pytest.raises(parity.NotProven):
        export.export(network, out, one_case, quiet())
    assert [path.name for path in out.iterdir()] == ["1"]


def test_the_proof_is_kept_without_names_of_cases(network, one_case, without_processes, tmp_path):
    named = [dataclasses.replace(one_case[0], scan=renamed(one_case[0].scan, "/data/MILLER.png"))]
    folder = export.export(network, tmp_path / "tiny", named, quiet(), run="runs/unet")
    text = (folder / "assets.extra" / "parity.json").read_text()
    assert "MILLER" not in text
    proof = json.loads(text)
    assert proof["run"] == "runs/unet"
    assert proof["masks_equal"] is True
    assert proof["onednn"] is True
    assert proof["pass_ms"] == {"1": 2.5, "2": 4.0}
    assert proof["largest_probability_difference"] == {"saved_model": 0, "grpc": 0, "rest": 0}
    [case] = proof["golden_cases"]
    planes = gate._trained(network, named[0]).planes
    assert case["grid"] == [97, 131]
    assert case["masks"]["lung"]["pixels"] == planes[0].sum()
    assert len(case["masks"]["lung"]["sha256"]) == 64


def test_less_precise_masks_are_proven_only_if_they_are_those_of_float32(
    network, one_case, without_processes, tmp_path, monkeypatch
):
    def far_off(*_):
        return {"masks_equal": False, "pixels_that_differ": [3], "smallest_dice": 0.9995}

    monkeypatch.setattr(parity, "compare_closely", far_off)
    monkeypatch.setattr(network, "in_precision", lambda _: copy.copy(network))
    folder = export.export(network, tmp_path / "tiny", one_case, quiet(), precision="bfloat16")
    proof = json.loads((folder / "assets.extra" / "parity.json").read_text())
    assert (proof["precision"], proof["masks_equal"]) == ("bfloat16", False)


def renamed(scan: Scan, source: str) -> Scan:
    return dataclasses.replace(scan, source=source)


def test_the_warm_up_has_a_request_for_each_signature(
    network, one_case, without_processes, tmp_path
):
    log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    folder = export.export(network, tmp_path / "tiny", one_case, quiet())
    path = str(folder / "assets.extra" / "tf_serving_warmup_requests")
    records = [log_pb2.PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(path)]
    requests = [record.predict_log.request for record in records]
    signatures = tf.saved_model.load(str(folder)).signatures
    assert {request.model_spec.signature_name for request in requests} == set(signatures)
    for request in requests:
        inputs = {name: tf.constant(tf.make_ndarray(t)) for name, t in request.inputs.items()}
        signatures[request.model_spec.signature_name](**inputs)


def test_a_file_in_the_way_is_told_of(network, one_case, tmp_path):
    (tmp_path / "tiny").touch()
    with pytest.raises(InputError, match="is a file"):
        export.export(network, tmp_path / "tiny", one_case, quiet())


def test_what_is_no_run_is_told_of(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        export.main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_export_read_back_gives_the_masks_of_the_network(network, one_case, tmp_path):
    folder = tmp_path / "tiny" / "3"
    _, png = golden.phantom_of(network.spec, 0)
    saved_model.write(network, folder, saved_model.warm_up_inputs(network.spec, png))
    served = saved_model.load(folder)
    assert (served.name, served.version, served.spec) == ("tiny", 3, network.spec)
    [answer] = parity.answers(served, one_case)
    expected = gate._trained(network, one_case[0])
    assert parity.compare("it", [expected], [answer], one_case) == 0.0
    parity.check_batches(served, one_case)


def answer(probabilities, planes=None, **of_file):
    probabilities = np.asarray(probabilities, np.float32)
    planes = probabilities > 0.5 if planes is None else np.asarray(planes)
    return Answer(probabilities, planes, of_file)


CASE = [Golden(4, Scan(np.zeros((1, 2), np.float32), "XR", "stored", "test"))]


def test_the_largest_difference_of_a_probability_is_told():
    found = parity.compare("it", [answer([[[0.9, 0.1]]])], [answer([[[0.9, 0.100005]]])], CASE)
    assert found == pytest.approx(5e-6, rel=0.01)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (answer([[[0.9, 0.2]]]), r"golden case 4 a probability of it is off by 0\.1, more than"),
        (answer([[[0.9, np.nan]]], [[[True, False]]]), "is off by nan"),
        (answer([[[0.9, 0.1]]], [[[True, True]]]), "mask of it differs in 1 of 2 pixels"),
        (answer([[[0.9]]]), r"mask of it has shape \(1, 1, 1\) instead of \(1, 1, 2\)"),
        (
            answer([[[0.9, 0.1]]], encoded=np.array([[[False, False]]])),
            r"mask of it \(encoded\) differs in 1 of 2 pixels",
        ),
    ],
)
def test_what_is_not_equal_is_not_exported(found, message):
    with pytest.raises(parity.NotProven, match=message):
        parity.compare("it", [answer([[[0.9, 0.1]]])], [found], CASE)


def test_a_row_that_depends_on_its_batch_is_not_exported(network, one_case):
    class Moody:
        spec = network.spec

        def predict(self, voxels):
            return np.full((len(voxels), 64, 64, 2), 1.0 / len(voxels))

    several = [Golden(n, *golden.phantom_of(network.spec, n)) for n in range(3)]
    with pytest.raises(parity.NotProven, match="a batch of 3 differs from single requests"):
        parity.check_batches(Moody(), several)


@pytest.fixture
def run_of_phantoms(tmp_path):
    manifest = phantom.write_manifest(tmp_path / "data", count=9)
    known = cases.load(manifest)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"data": str(manifest)}))
    splits = {c.id: "test" if n > 3 else "train" for n, c in enumerate(known)}
    split.save(run / "splits.csv", known, splits)
    return run


def test_golden_cases_are_the_runs_own_test_cases(run_of_phantoms):
    chosen = golden.choose([run_of_phantoms], tiny_network.XRAY, 3)
    assert [case.number for case in chosen] == [1, 2, 3]
    sources = [case.scan.source.rpartition("/")[2] for case in chosen]
    assert sources == ["4.png", "5.png", "7.png"]  # of 4 to 8, spread
    assert all(case.image_bytes.startswith(b"\x89PNG") for case in chosen)


def test_golden_cases_are_phantoms_where_the_data_have_moved(run_of_phantoms):
    (run_of_phantoms / "config.json").write_text(json.dumps({"data": "/nowhere/manifest.csv"}))
    chosen = golden.choose([run_of_phantoms], tiny_network.XRAY, 2)
    assert [case.scan.source for case in chosen] == ["phantom 0", "phantom 1"]


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec("CT", ("lung",), (32, 32), "HU", window=(-1000.0, 400.0)),
        InputSpec("CT", ("infection",), (32, 32)),
        InputSpec("CT", ("lung",), (8, 32, 32), "HU", window=(-1000.0, 400.0)),
        InputSpec("CT", ("lung",), (32, 32), "HU", window=(-1.0, 4.0), spacing_mm=(2.0, 2.0)),
        InputSpec("XR", ("lung",), (32, 32), frame=(64, 64), window=(0.0, 255.0)),
    ],
    ids=["slices in HU", "slices as stored", "volumes", "by spacing", "in tiles"],
)
def test_every_kind_of_model_has_golden_cases_that_suit_it(spec, tmp_path):
    network = tiny_network.build(spec)
    [case, _] = golden.choose([tmp_path], spec, 2)
    folder = tmp_path / "m" / "1"
    saved_model.write(network, folder, saved_model.warm_up_inputs(spec, case.image_bytes))
    [found] = parity.answers(saved_model.load(folder), [case])
    assert parity.compare("it", [gate._trained(network, case)], [found], [case]) == 0.0


def test_phantoms_for_a_network_that_sees_neighbours_are_volumes():
    spec = InputSpec("CT", ("lung",), (64, 64), "HU", neighbours=1, window=(-1000.0, 400.0))
    scan, _ = golden.phantom_of(spec, 0)
    assert len(scan.shape) == 3
    assert len(list(inference.cut(scan, spec))) == len(scan.voxels)
