"""The client's own messages against the official ones of tensorflow-serving-api."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from serving import grpc_client, messages, tensors

ARRAYS = [
    np.array([[1.5, -2.0], [0.0, np.inf]], np.float32),
    np.array([1e300, -0.0], np.float64),
    np.array([-7, 2**31 - 1], np.int32),
    np.array([-(2**63), 5], np.int64),
    np.array([0, 255], np.uint8),
    np.array([-128, 127], np.int8),
    np.array([-32768, 3], np.int16),
    np.array([65535, 3], np.uint16),
    np.array([2**32 - 1, 3], np.uint32),
    np.array([2**64 - 1, 3], np.uint64),
    np.array([True, False]),
    np.array([0.5, 65504.0], np.float16),
    np.array([b"\x00\xff", b""], object),
    np.zeros((0, 3), np.float32),
    np.array(2.5, np.float32),
]
by_type = pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")


def official():
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    from tensorflow_serving.apis import get_model_status_pb2, predict_pb2, prediction_log_pb2

    return tf, predict_pb2, get_model_status_pb2, prediction_log_pb2


def tensor_proto():
    official()
    from tensorflow.core.framework import tensor_pb2

    return tensor_pb2.TensorProto


@by_type
def test_a_tensor_comes_back_as_it_was(array):
    back = tensors.decode(tensors.encode(array))
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


@by_type
def test_the_official_parser_reads_our_bytes(array):
    tf, *_ = official()
    theirs = tensor_proto().FromString(tensors.encode(array).SerializeToString())
    np.testing.assert_array_equal(tf.make_ndarray(theirs), array)


@by_type
def test_we_read_the_typed_fields_that_a_server_answers_with(array):
    tf, *_ = official()
    theirs = tensor_proto()(dtype=tf.as_dtype(array.dtype).as_datatype_enum)
    for side in array.shape:
        theirs.tensor_shape.dim.add(size=side)
    field = {
        "float32": "float_val",
        "float64": "double_val",
        "int64": "int64_val",
        "bool": "bool_val",
        "float16": "half_val",
        "uint32": "uint32_val",
        "uint64": "uint64_val",
        "object": "string_val",
    }.get(str(array.dtype), "int_val")
    flat = array.ravel().view(np.uint16) if field == "half_val" else array.ravel()
    getattr(theirs, field).extend(flat.tolist())
    ours = messages.TensorProto.FromString(theirs.SerializeToString())
    np.testing.assert_array_equal(tensors.decode(ours), array)


def reply_of(array, field=None):
    """A serialised reply with one output, x, in a typed field or in raw bytes."""
    reply = messages.PredictResponse()
    reply.model_spec.version.value = 7
    tensor = reply.outputs["x"]
    tensor.CopyFrom(tensors.encode(array))
    if field:
        tensor.ClearField("tensor_content")
        getattr(tensor, field).extend(array.ravel().tolist())
    return reply.SerializeToString()


@by_type
def test_a_reply_in_raw_bytes_is_read_with_its_version(array):
    outputs, version = tensors.decode_reply(reply_of(array))
    np.testing.assert_array_equal(outputs["x"], array)
    assert (outputs["x"].dtype, version) == (array.dtype, 7)


@pytest.mark.parametrize("field", ["float_val", "double_val"])
def test_packed_floats_of_a_reply_are_read_as_they_are(field):
    dtype = {"float_val": np.float32, "double_val": np.float64}[field]
    array = np.array([[1.5, -0.0, np.inf], [np.pi, 1e-40, 3.0]], dtype)
    found = tensors.decode_reply(reply_of(array, field))[0]["x"]
    assert found.tobytes() == array.tobytes()
    assert found.shape == (2, 3)


def test_a_reply_that_is_packed_in_another_way_is_read_all_the_same():
    reply = messages.PredictResponse()
    tensor = reply.outputs["x"]
    tensor.dtype = 1
    tensor.tensor_shape.dim.add(size=4)
    header = tensor.SerializeToString()
    one, two, three, four = (np.float32(n).tobytes() for n in (1, 2, 3, 4))
    unpacked = b"".join(b"\x2d" + value for value in (one, two, three, four))
    pieces = b"\x2a\x08" + one + two + b"\x2a\x08" + three + four
    for values in (unpacked, pieces, b"\x2a\x04" + one + b"\x2d" + two):
        entry = b"\x0a\x01x\x12" + bytes([len(header + values)]) + header + values
        found = tensors.decode_reply(b"\x0a" + bytes([len(entry)]) + entry)[0]["x"]
        expected = [1, 2, 3, 4] if len(values) > 12 else [1, 2, 2, 2]
        assert found.tolist() == expected


def test_what_is_no_reply_is_refused():
    with pytest.raises(ValueError, match="no PredictResponse"):
        tensors.decode_reply(b"\xff")


def test_a_last_value_stands_for_all_that_follow():
    tensor = messages.TensorProto(dtype=1, float_val=[1.0, 3.0])
    tensor.tensor_shape.dim.add(size=4)
    assert tensors.decode(tensor).tolist() == [1.0, 3.0, 3.0, 3.0]
    empty = messages.TensorProto(dtype=3)
    empty.tensor_shape.dim.add(size=2)
    assert tensors.decode(empty).tolist() == [0, 0]


def test_more_values_than_the_shape_holds_are_refused():
    tensor = messages.TensorProto(dtype=1, float_val=[1.0, 2.0, 3.0])
    tensor.tensor_shape.dim.add(size=2)
    with pytest.raises(ValueError, match="reshape"):
        tensors.decode(tensor)


def test_a_type_that_tensorflow_lacks_is_refused():
    with pytest.raises(ValueError, match="no tensor type for <U1"):
        tensors.encode(np.array(["a"]))
    with pytest.raises(ValueError, match="tensor of type 8"):
        tensors.decode(messages.TensorProto(dtype=8))


def test_the_official_parser_reads_our_request_and_writes_the_same_bytes():
    _, predict_pb2, *_ = official()
    voxels = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    ours = grpc_client.request_for(
        "lung", "encoded", {"voxels": voxels}, version=3, outputs=("mask_bytes",)
    )
    theirs = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    assert theirs.model_spec.name == "lung"
    assert theirs.model_spec.version.value == 3
    assert theirs.model_spec.signature_name == "encoded"
    assert list(theirs.output_filter) == ["mask_bytes"]
    assert theirs.inputs["voxels"].tensor_content == voxels.tobytes()
    assert theirs.SerializeToString(deterministic=True) == ours.SerializeToString(
        deterministic=True
    )


def test_version_0_is_said_and_not_taken_for_the_latest():
    _, predict_pb2, *_ = official()
    ours = grpc_client.request_for("m", "s", {}, version=0)
    theirs = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    assert theirs.model_spec.HasField("version")
    latest = grpc_client.request_for("m", "s", {})
    theirs = predict_pb2.PredictRequest.FromString(latest.SerializeToString())
    assert not theirs.model_spec.HasField("version")


def test_a_label_travels_in_its_own_field():
    _, _, status_pb2, _ = official()
    ours = messages.GetModelStatusRequest()
    ours.model_spec.version_label = "stable"
    theirs = status_pb2.GetModelStatusRequest.FromString(ours.SerializeToString())
    assert theirs.model_spec.version_label == "stable"


def test_we_read_an_official_status_and_skip_what_we_do_not_know():
    _, _, status_pb2, _ = official()
    theirs = status_pb2.GetModelStatusResponse()
    for version, state in ((1, 50), (2, 30)):
        told = theirs.model_version_status.add(version=version, state=state)
        told.status.error_message = "gone" if state == 50 else ""
    ours = messages.GetModelStatusResponse.FromString(theirs.SerializeToString())
    assert [(s.version, s.state) for s in ours.model_version_status] == [(1, 50), (2, 30)]
    assert ours.model_version_status[0].status.error_message == "gone"


def test_the_official_parser_reads_our_warm_up_record():
    _, _, _, log_pb2 = official()
    ours = messages.PredictionLog()
    ours.predict_log.request.model_spec.name = "lung"
    theirs = log_pb2.PredictionLog.FromString(ours.SerializeToString())
    assert theirs.WhichOneof("log_type") == "predict_log"
    assert theirs.predict_log.request.model_spec.name == "lung"


# Each costs a start some 20 to 70 ms; `python -m evaluation.speed start` measures the whole. What
# these take along where it is installed (urllib3 its decoders) may be added.
LIGHT = {"cv2", "google", "grpc", "numpy", "rich", "typing_extensions", "urllib3"}


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_the_client_starts_with_few_packages_and_little_memory():
    code = (
        "import json, pathlib, sys; bare = set(sys.modules); from serving import client, segment\n"
        "told = pathlib.Path('/proc/self/status').read_text().splitlines()\n"
        "[peak] = [line.split()[1] for line in told if line.startswith('VmHWM')]\n"
        "print(json.dumps([int(peak), sorted({m.partition('.')[0] for m in {*sys.modules} - bare"
        " if 'site-packages' in (getattr(sys.modules[m], '__file__', None) or '')})]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kibibytes, packages = json.loads(run.stdout)
    assert {"grpc", "numpy"} <= set(packages) <= LIGHT
    assert kibibytes < 100 * 1024
