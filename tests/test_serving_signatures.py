"""The graph that is exported against the NumPy recipe that evaluation uses."""

import dataclasses
import io

import cv2
import numpy as np
import pytest
import tensorflow as tf
import tiny_network
from PIL import Image

from data_pipeline import cases, geometry, inference, raster, spec
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan
from serving import encoded as masks
from serving import signatures


@pytest.fixture(scope="module")
def network():
    return tiny_network.build(dataclasses.replace(tiny_network.XRAY, thresholds=(0.5, 0.3)))


@pytest.fixture(scope="module")
def served(network):
    return signatures.Served(network.graph, network.spec).functions()


def encoded(served, *files: bytes):
    found = served["encoded"](tf.constant(list(files)))
    return [masks.mask_from_png(png, ("lung", "infection")) for png in found["mask_bytes"].numpy()]


def expected(network, path):
    scan = Scan(raster.read(path).astype(np.float32), "XR", "stored", str(path))
    return inference.mask(network.probabilities(scan), network.spec)


def png(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", **options)
    return file.getvalue()


def jpeg(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **options)
    return file.getvalue()


def chest(rows: int, cols: int, channels: int | None = 3, dtype=np.uint8) -> np.ndarray:
    rng = np.random.default_rng(rows * cols)
    shape = (rows, cols) if channels is None else (rows, cols, channels)
    coarse = rng.integers(0, np.iinfo(dtype).max, (8, 8, *shape[2:]), dtype=dtype)
    return cv2.resize(coarse, (cols, rows), interpolation=cv2.INTER_LINEAR)


FILES = {
    "grey": png(chest(97, 131, None)),
    "rgb": png(chest(300, 211)),
    "rgba": png(np.dstack([chest(64, 64), np.full((64, 64), 255, np.uint8)])),
    "16 bit": png(chest(80, 101, None, np.uint16)),
    "16 bit rgb": cv2.imencode(".png", chest(60, 71, 3, np.uint16))[1].tobytes(),
    "palette": png(chest(50, 40, None), bits=4),
    "1 bit": png(chest(90, 40, None) > 99),
    "one pixel": png(np.full((1, 1), 7, np.uint8)),
    "one row": png(chest(1, 700, None)),
    "constant": png(np.full((70, 60), 128, np.uint8)),
    "jpeg grey": jpeg(chest(97, 131, None)),
    "jpeg 4:4:4": jpeg(chest(65, 83), subsampling=0),
    "jpeg 4:2:2": jpeg(chest(65, 83), subsampling=1),
    "jpeg 4:2:0": jpeg(chest(65, 83), subsampling=2),
    "jpeg progressive": jpeg(chest(65, 83), progressive=True, quality=30),
}


TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
UPRIGHT = TURNED.replace(b"\0\x06\0", b"\0\x01\0")
FILES["jpeg said upright by EXIF"] = jpeg(chest(65, 83), exif=UPRIGHT)


@pytest.mark.parametrize(("says", "inside"), [(12 / 32, False), (12 / 32 + 2**-16, True)])
def test_a_probability_at_its_threshold_is_outside_for_server_and_client(says, inside):
    told = dataclasses.replace(tiny_network.XRAY, labels=("lung",), thresholds=(12 / 32,))
    constant = tf.fill((1, *told.shape, 1), np.float32(says))
    graph = signatures.Served(lambda voxels: constant, told).functions()
    [png_mask] = graph["encoded"](tf.constant([png(chest(*told.shape, None))]))[
        "mask_bytes"
    ].numpy()
    client = inference.mask(np.full((1, *told.shape), says, np.float32), told)
    assert np.unique(masks.mask_from_png(png_mask, told.labels).planes).tolist() == [inside]
    assert np.unique(client.planes).tolist() == [inside]


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_in_the_graph_the_mask_it_gives_in_evaluation(name, network, served, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(FILES[name])
    [found] = encoded(served, FILES[name])
    np.testing.assert_array_equal(found.planes, expected(network, path).planes)


def test_the_masks_compared_above_are_neither_empty_nor_full(served):
    for planes in encoded(served, FILES["grey"])[0].planes:
        assert 0.01 < planes.mean() < 0.99


def test_sample_images_give_the_mask_they_give_in_evaluation(network, served):
    for case in cases.load()[::25]:
        [found] = encoded(served, case.image.read_bytes())
        np.testing.assert_array_equal(found.planes, expected(network, case.image).planes)


def test_files_of_several_sizes_in_one_request_give_their_own_masks(served):
    names = ["grey", "rgb", "jpeg grey", "one pixel"]
    together = encoded(served, *(FILES[name] for name in names))
    for name, mask in zip(names, together, strict=True):
        np.testing.assert_array_equal(mask.planes, encoded(served, FILES[name])[0].planes)


def test_a_row_of_a_batch_has_the_bits_of_a_single_request(served):
    rows = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 1)).astype(np.float32)
    together = served["serving_default"](tf.constant(rows))["probabilities"].numpy()
    for row, probabilities in zip(rows, together, strict=True):
        alone = served["serving_default"](tf.constant(row[None]))["probabilities"].numpy()
        np.testing.assert_array_equal(alone[0], probabilities)


@pytest.mark.parametrize("name", [n for n in FILES if n != "one row"])
def test_decoding_equals_what_raster_reads(name, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(FILES[name])
    decoded = signatures.decode(tf.constant(FILES[name])).numpy()
    np.testing.assert_array_equal(decoded, raster.read(path))


REFUSED = {
    "jpeg turned by EXIF": (jpeg(chest(65, 83), exif=TURNED), "turned"),
    "png turned by EXIF": (png(chest(65, 83), exif=TURNED), "turned"),
    "animated png": (
        png(chest(9, 9), save_all=True, append_images=[Image.fromarray(chest(9, 8))]),
        "animated",
    ),
    "nothing": (b"", "neither a PNG nor a JPEG"),
    "text": (b"patient name " * 9, "neither a PNG nor a JPEG"),
    "half a header": (FILES["grey"][:20], "neither a PNG nor a JPEG"),
    "half a png": (FILES["rgb"][:-400], "Invalid PNG"),
    "half a jpeg": (FILES["jpeg grey"][:-400], "[Ii]nvalid JPEG"),
    "transparent": (png(np.dstack([chest(9, 9), np.full((9, 9), 9, np.uint8)])), "transparent"),
    "transparent 16 bit": (
        cv2.imencode(".png", np.full((5, 5, 4), 65534, np.uint16))[1].tobytes(),
        "transparent",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_raster_refuses_is_an_invalid_argument(name, served, tmp_path):
    file, message = REFUSED[name]
    path = tmp_path / "image"
    path.write_bytes(file)
    with pytest.raises(InputError):
        raster.read(path)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        served["encoded"](tf.constant([file]))


def test_a_cmyk_jpeg_is_refused_because_decoders_differ_on_it(served):
    file = io.BytesIO()
    Image.fromarray(chest(20, 30)).convert("CMYK").save(file, "JPEG")
    with pytest.raises(tf.errors.InvalidArgumentError, match="CMYK"):
        served["encoded"](tf.constant([file.getvalue()]))


def test_an_error_does_not_repeat_the_bytes_of_the_image(served):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        served["encoded"](tf.constant([b"\x89PNG\r\n\x1a\nSECRET"]))
    assert "SECRET" not in str(error.value)


def test_the_spec_signature_answers_once_a_row(network, served):
    told = served["spec"](tf.constant(["a", "b"]))["spec"].numpy()
    assert len(told) == 2
    assert spec.parse(told[1], "signature") == network.spec


@pytest.mark.parametrize(
    "changes",
    [
        {"modality": "CT", "units": "HU", "window": (-1000.0, 400.0)},
        {"shape": (8, 64, 64), "window": (0.0, 255.0)},
        {"neighbours": 1, "window": (0.0, 255.0)},
        {"spacing_mm": (1.0, 1.0), "window": (0.0, 255.0)},
        {"frame": (128, 128), "window": (0.0, 255.0)},
        {"cleaning": (spec.Cleaning(largest=2),)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_model_that_a_file_alone_does_not_suffice_has_no_encoded_signature(changes):
    fields = {"modality": "XR", "labels": ("lung",), "shape": (64, 64)} | changes
    assert not masks.takes_files(spec.InputSpec(**fields))
    assert masks.takes_files(tiny_network.XRAY)


@pytest.mark.parametrize("grid", [(1, 1), (64, 64), (63, 65), (3, 900), (1999, 2500), (129, 128)])
def test_letterboxing_in_the_graph_equals_geometry(grid):
    extent, offset = signatures._letterbox(tf.constant(grid), (64, 96))
    placement = geometry.letterbox(grid, (64, 96))
    assert tuple(extent.numpy()) == placement.extent
    assert tuple(offset.numpy()) == placement.offset


def session_callable(folder, signature: str):
    """Runs a signature as TensorFlow Serving does: without a look at its declared shapes."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
    definition = meta.signature_def[signature]
    from tensorflow.core.protobuf import config_pb2

    wanted = config_pb2.CallableOptions()
    wanted.feed.extend(tensor.name for tensor in definition.inputs.values())
    wanted.fetch.extend(tensor.name for tensor in definition.outputs.values())
    return session._make_callable_from_options(wanted)


@pytest.mark.parametrize(
    "shape", [(64, 64, 1), (1, 64, 64), (1, 64, 64, 3), (1, 32, 64, 1), (), (0,)]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_wrong_shape_is_an_invalid_argument_to_a_server_that_does_not_check(
    shape, network, tmp_path
):
    module = signatures.Served(network.graph, network.spec)
    tf.saved_model.save(module, str(tmp_path), signatures=module.functions())
    run = session_callable(tmp_path, "serving_default")
    with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible"):
        run(np.zeros(shape, np.float32))
    assert run(np.zeros((2, 64, 64, 1), np.float32))[0].shape == (2, 64, 64, 2)
