"""The examples of docs/serving.md and docs/serving_server.md are run, not only written."""

import json
import pathlib
import shutil

import cv2
import documented
import numpy as np
import pytest
import served_models
import tiny_network

from serving import client, golden, saved_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
    # Keras, saving a network; see setup.cfg.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """With the models that the examples ask for, and scan.png."""
    folder = tmp_path_factory.mktemp("docs")
    network = tiny_network.build()
    _, png = golden.phantom_of(network.spec, 0)
    (folder / "scan.png").write_bytes(png)
    inputs = saved_model.warm_up_inputs(network.spec, png)
    saved_model.write(network, folder / "lung_unet" / "1", inputs)
    served_models.half_plus(folder / "half" / "1")
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{folder}/{name}" model_platform: "tensorflow" }}'
        for name in ("lung_unet", "half")
    )
    (folder / "models.config").write_text(f"model_config_list {{ {entries} }}")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    flag = f"--model_config_file={folder}/models.config"
    with served_models.serving(flag, log=folder / "log") as running:
        yield running


def run(page: str, holds: str, folder: pathlib.Path, server) -> list[str]:
    """Runs an example; returns what each command printed, which is what is shown there."""
    here = {"localhost:8501": f"127.0.0.1:{server.rest_port}"}
    outputs = []
    for command, shown in documented.commands(documented.example(page, holds)):
        outputs.append(documented.run(command, folder, **here))
        assert not shown or documented.agrees(shown, outputs[-1]), outputs[-1]
    return outputs


def test_curl_gets_status_spec_and_a_mask(folder, server):
    [printed] = run("serving.md", "base64 -w0 scan.png", folder, server)
    decoder = json.JSONDecoder()
    status, end = decoder.raw_decode(printed)
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    spec, _ = decoder.raw_decode(printed[end:].lstrip())
    assert json.loads(spec["outputs"][0])["modality"] == "XR"
    mask = cv2.imread(str(folder / "mask.png"), cv2.IMREAD_UNCHANGED)
    model = client.connect(server.address, "lung_unet")
    expected = model.segment(cv2.imread(str(folder / "scan.png"), cv2.IMREAD_UNCHANGED)).planes
    model.close()
    lung, infection = np.moveaxis(mask[..., ::-1], -1, 0)[:2]  # red and green; OpenCV has BGR
    np.testing.assert_array_equal([lung > 0, infection > 0], expected)


def test_curl_shows_what_a_bad_request_gets(folder, server):
    [printed] = run("serving.md", "aGVsbG8=", folder, server)
    assert list(json.loads(printed)) == ["error"]


def test_curl_asks_the_server_as_its_page_shows(folder, server):
    status, metadata, answer = run("serving_server.md", "half:predict", folder, server)
    assert json.loads(status)["model_version_status"][0]["version"] == "1"
    assert "voxels" in metadata
    assert json.loads(answer)["predictions"] == [2.5, 3.0, 4.5]


def test_three_lines_of_python_make_a_mask(folder, server):
    code = documented.example("serving.md", "model.segment(array)")
    assert len(code.splitlines()) == 3
    array = cv2.imread(str(folder / "scan.png"), cv2.IMREAD_UNCHANGED)
    names = {"array": array}
    exec(code.replace("localhost:8500", server.address), names)
    names["model"].close()
    assert names["mask"].planes.shape == (2, *array.shape)
    assert names["mask"].planes.any()
