"""The promise: the mask that is served is the mask that was evaluated.

A tiny network goes the whole way: run directory, `serving.export` with its own proof, the
embedded server, and `serving.segment` over gRPC and over REST.
"""

import json
import pathlib
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pandas as pd
import pytest
import tiny_network

from data_pipeline import cases, inference, phantom, ports, split
from evaluation import run
from models import segmenter
from serving import client, connection, export, segment, server_process
from serving.connection import Access

# Keras, saving a network; see setup.cfg.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ROOT = pathlib.Path(__file__).parent.parent
NAME = "tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def known(folder) -> list[cases.Case]:
    return cases.load(phantom.write_manifest(folder / "phantoms", count=8, shape=(101, 83)))


@pytest.fixture(scope="module")
def trained(folder, known) -> segmenter.Network:
    """A network as it is read from a run directory."""
    path = folder / "run"
    path.mkdir()
    network = tiny_network.build()
    network.spec.save(path / "spec.json")
    segmenter.save(path, network.network)
    config = {"data": str(folder / "phantoms" / "manifest.csv"), "model": "tiny"}
    (path / "config.json").write_text(json.dumps(config))
    split.save(path / "splits.csv", known, {case.id: "test" for case in known})
    return segmenter.load(path)


@pytest.fixture(scope="module")
def exported(folder, trained) -> pathlib.Path:
    """The folder of an export that proved itself, by the command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        export.main(["run", "--out", f"exports/{NAME}", "--cases", "2"])
    return folder / "exports" / NAME


@pytest.fixture(scope="module")
def addresses(exported):
    with server_process.embedded(exported, NAME) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def evaluated(trained, known) -> dict[str, np.ndarray]:
    """Stem of the image -> planes, as evaluation makes them."""
    return {
        case.image.stem: inference.mask(
            trained.probabilities(cases.read_scan(case)), trained.spec
        ).planes
        for case in known
    }


def written(out: pathlib.Path, stem: str) -> np.ndarray:
    planes = [
        cv2.imread(str(out / f"{stem}_{label}.png"), cv2.IMREAD_UNCHANGED)
        for label in ("lung", "infection")
    ]
    assert set(np.unique(planes)) <= {0, 255}
    return np.stack(planes) > 0


def test_the_masks_compared_are_neither_empty_nor_full(evaluated):
    share = np.mean([planes.mean(axis=(1, 2)) for planes in evaluated.values()], axis=0)
    assert ((share > 0.02) & (share < 0.98)).all()


def test_the_export_carries_its_proof(exported):
    extra = exported / "1" / "assets.extra"
    proof = json.loads((extra / "parity.json").read_text())
    assert proof["masks_equal"] is True
    assert set(proof["largest_probability_difference"]) == {"saved_model", "grpc", "rest"}
    assert [case["grid"] for case in proof["golden_cases"]] == [[101, 83]] * 2
    assert (extra / "spec.json").exists()
    assert [path.name for path in exported.iterdir()] == ["1"]


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_segmented_masks_are_the_evaluated_ones(api, addresses, folder, evaluated):
    out = folder / f"out-{api}"
    flags = ["--server", addresses[api], "--api", api, "--model", NAME, "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        segment.main([str(folder / "phantoms" / "images"), *flags])
    assert not ended.value.code
    for stem, planes in evaluated.items():
        np.testing.assert_array_equal(written(out, stem), planes)
    content = json.loads((out / "report.json").read_text())
    assert (content["done"], content["failed"], content["versions"]) == (8, 0, [1])


def test_the_served_masks_score_exactly_as_the_trained_run_does(addresses, folder):
    out = folder / "out-scored"
    images = str(folder / "phantoms" / "images")
    flags = ["--server", addresses["grpc"], "--model", NAME, "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        segment.main([images, *flags])
    assert not ended.value.code
    results = folder / "results"
    assert not run.main([str(folder / "run"), "--masks", f"served={out}", "--out", str(results)])
    rows = pd.read_csv(results / "scores.csv").set_index("model")
    # A folder of masks has no probabilities, so no loss and no calibration.
    rows = rows.drop(columns=["loss", "ece", "brier"])
    trained, served = (rows.loc[name].reset_index(drop=True) for name in ("run", "served"))
    assert len(trained) == 8 + 5  # lungs, and infection where it is annotated
    assert trained["dice"].nunique() > 8
    pd.testing.assert_frame_equal(trained, served, check_exact=True)
    means = {
        (item["model"], item["label"]): item["metrics"]["dice"]["mean"]
        for item in json.loads((results / "summary.json").read_text())["labels"]
    }
    for label in ("lung", "infection"):
        assert means["run", label] == means["served", label]


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_probabilities_over_the_wire_are_those_of_the_trained_network(
    api, addresses, trained, known
):
    model = client.connect(addresses[api], NAME, api=api)
    scan = cases.read_scan(known[3])
    found = model.served.probabilities(scan)
    np.testing.assert_array_equal(found, trained.probabilities(scan))
    model.close()


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_an_array_gives_the_evaluated_mask_in_three_lines(api, addresses, known, evaluated):
    voxels = cases.read_scan(known[1]).voxels
    model = client.connect(addresses[api], NAME, api=api)
    mask = model.segment(voxels)
    np.testing.assert_array_equal(mask.planes, evaluated[known[1].image.stem])
    model.close()


@pytest.mark.parametrize("signature", ["encoded", "masks"])
@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_a_file_that_the_server_decodes_gives_the_evaluated_mask(
    api, signature, addresses, known, evaluated
):
    model = client.connect(addresses[api], NAME, api=api)
    mask = model.served.mask_of_file(known[2].image.read_bytes(), signature)
    np.testing.assert_array_equal(mask.planes, evaluated[known[2].image.stem])
    model.close()


@pytest.mark.parametrize("api", ["grpc", "rest"])
@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        ("serving_default", {"voxels": np.zeros((64, 64, 1), np.float32)}, "voxels"),
        ("serving_default", {"voxels": np.zeros((1, 32, 64, 1), np.float32)}, "voxels"),
        ("encoded", {"image_bytes": np.array([b"no image"], object)}, "neither a PNG nor a JPEG"),
        ("nothing", {"voxels": np.zeros((1, 64, 64, 1), np.float32)}, "nothing"),
    ],
    ids=["rank 3", "another size", "no image", "no such signature"],
)
def test_a_bad_request_is_refused_and_the_next_is_answered(
    api, signature, inputs, message, addresses
):
    server = client.APIS[api](Access(addresses[api]))
    with pytest.raises(connection.Refused, match=message):
        server.predict(NAME, signature, inputs)
    good = {"voxels": np.zeros((1, 64, 64, 1), np.float32)}
    reply = server.predict(NAME, "serving_default", good, outputs=("probabilities",))
    assert reply.outputs["probabilities"].shape == (1, 64, 64, 2)
    server.close()


def serve(exported: pathlib.Path, port: int) -> subprocess.Popen:
    flags = (f"--port={port}", f"--model_name={NAME}", f"--model_base_path={exported}")
    return subprocess.Popen(
        [sys.executable, "-m", "serving.model_server", *flags],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_a_server_killed_in_mid_request_and_restarted_costs_no_scan(exported, folder, trained):
    count = 60
    phantoms = cases.load(phantom.write_manifest(folder / "many", count, shape=(301, 283)))
    [port] = ports.free_ports(1)
    server = serve(exported, port)
    out = folder / "out-killed"
    flags = [f"--server=127.0.0.1:{port}", f"--model={NAME}", f"--out={out}", "--outage=300"]
    try:
        wait_for(lambda: client.connect(f"127.0.0.1:{port}", NAME).close())
        segmenting = subprocess.Popen(
            [sys.executable, "-m", "serving.segment", str(folder / "many" / "images"), *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        journal = out / ".segment.jsonl"
        for done in (5, 25):
            wait_for(lambda done=done: journal.read_text().splitlines()[done])
            server.send_signal(signal.SIGSTOP)  # it takes requests in and answers none
            time.sleep(1)
            before = journal.read_text()
            server.kill()
            server.wait()
            time.sleep(1)
            assert journal.read_text() == before
            assert before.count("\n") < count
            assert segmenting.poll() is None
            server = serve(exported, port)
        told, _ = segmenting.communicate(timeout=400)
    finally:
        server.kill()
        server.wait()
    assert segmenting.returncode == 0, told
    assert f"{count} of {count} scans done" in told
    lines = [json.loads(line)["case"] for line in journal.read_text().splitlines()]
    assert sorted(lines) == sorted(case.image.stem for case in phantoms)  # each exactly once
    for case in phantoms[::7]:
        expected = inference.mask(trained.probabilities(cases.read_scan(case)), trained.spec)
        np.testing.assert_array_equal(written(out, case.image.stem), expected.planes)


def wait_for(attempt, timeout_s: float = 300.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while True:
        try:
            attempt()
            return
        except (ValueError, IndexError, OSError):
            if time.monotonic() > give_up_at:
                raise
        time.sleep(0.05)
