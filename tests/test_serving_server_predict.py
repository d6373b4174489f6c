"""Predict over gRPC, against the contract's own words."""

import numpy as np
import pytest
from contract_server import predict_request, refused
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2


def test_predict_answers_in_the_typed_field_and_says_what_answered(prediction):
    reply = prediction.Predict(predict_request(x=np.float32([1, 2, 5])))
    assert list(reply.outputs["y"].float_val) == [3.5, 4.0, 5.5]
    assert reply.model_spec.name == "half"
    assert reply.model_spec.version.value == 2
    assert reply.model_spec.signature_name == "serving_default"


def test_predict_reads_every_form_of_tensor(prediction):
    forms = {
        "values": tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[2, 4]),
        "last value repeated": tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[2]),
        "content": tensor_pb2.TensorProto(
            dtype=types_pb2.DT_FLOAT, tensor_content=np.float32([2, 4]).tobytes()
        ),
        "zeros": tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT),
    }
    expected = {
        "values": [4, 5],
        "last value repeated": [4, 4],
        "content": [4, 5],
        "zeros": [3, 3],
    }
    for form, tensor in forms.items():
        tensor.tensor_shape.dim.add(size=2)
        request = predict_request()
        request.inputs["x"].CopyFrom(tensor)
        assert list(prediction.Predict(request).outputs["y"].float_val) == expected[form], form


def test_predict_takes_a_version_or_a_label(prediction):
    x = np.float32([0])
    assert prediction.Predict(predict_request(version=1, x=x)).outputs["y"].float_val == [2.0]
    reply = prediction.Predict(predict_request(label="stable", x=x))
    assert reply.outputs["y"].float_val == [2.0]
    assert reply.model_spec.version.value == 1


def test_predict_filters_outputs(prediction):
    request = predict_request(signature="pair", a=np.float32([1]), b=np.int64([2]))
    assert sorted(prediction.Predict(request).outputs) == ["sum", "twice"]
    request.output_filter.append("twice")
    reply = prediction.Predict(request)
    assert sorted(reply.outputs) == ["twice"]
    assert reply.outputs["twice"].int64_val == [4]


def test_predict_serves_strings_and_tf1_models(prediction):
    request = predict_request("text", text=np.array([b"ab\xff"], object))
    reply = prediction.Predict(request)
    assert reply.outputs["text"].string_val == [b"AB\xff"]
    assert reply.outputs["raw_bytes"].string_val == [b"ab\xff"]
    reply = prediction.Predict(predict_request("examples", x=np.float32([[4]])))
    assert reply.outputs["y"].float_val == [5.0]


def test_predict_hands_shapes_to_the_graph_that_its_placeholder_does_not_have(prediction):
    # The placeholder of this TF1 model is (None, 1); a product does not mind three columns.
    reply = prediction.Predict(predict_request("examples", x=np.float32([[0, 2, 4]])))
    assert list(reply.outputs["y"].float_val) == [3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (predict_request(""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (predict_request("no"), "NOT_FOUND", "Servable not found for request: Latest(no)"),
        (
            predict_request(version=9),
            "NOT_FOUND",
            "Servable not found for request: Specific(half, 9)",
        ),
        (
            predict_request(label="no"),
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: no",
        ),
        (
            predict_request(signature="s"),
            "FAILED_PRECONDITION",
            'Serving signature key "s" not found.',
        ),
        (
            predict_request(),
            "INVALID_ARGUMENT",
            "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. "
            "Missing but required: {x}.",
        ),
        (
            predict_request(x=np.float64([1])),
            "INVALID_ARGUMENT",
            "Expects arg[0] to be float but double is provided",
        ),
    ],
)
def test_predict_refuses_with_the_code_and_the_words_of_the_contract(
    prediction, request_, code, text
):
    assert refused(prediction.Predict, request_) == (code, text)


def test_predict_refuses_a_wrong_output_filter(prediction):
    request = predict_request(x=np.float32([1]))
    request.output_filter.append("q")
    code, text = refused(prediction.Predict, request)
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("output tensor alias not found in signature: q")
    del request.output_filter[:]
    request.output_filter.extend(["y", "y"])
    assert refused(prediction.Predict, request) == (
        "INVALID_ARGUMENT",
        "duplicate output tensor alias: y",
    )


@pytest.mark.parametrize(
    "tensor",
    [
        tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_content=b"abc"),
        tensor_pb2.TensorProto(float_val=[1]),
        tensor_pb2.TensorProto(dtype=types_pb2.DT_RESOURCE),
        tensor_pb2.TensorProto(
            dtype=types_pb2.DT_FLOAT,
            tensor_shape={"dim": [{"size": -1}]},
            float_val=[1],
        ),
        tensor_pb2.TensorProto(
            dtype=types_pb2.DT_FLOAT,
            tensor_shape={"dim": [{"size": 2**40}]},
            float_val=[1],
        ),
    ],
)
def test_predict_refuses_what_is_no_tensor(prediction, tensor):
    request = predict_request()
    request.inputs["x"].CopyFrom(tensor)
    assert refused(prediction.Predict, request) == (
        "INVALID_ARGUMENT",
        "tensor parsing error: x",
    )


def test_long_errors_are_cut(prediction):
    code, text = refused(prediction.Predict, predict_request("m" * 5000))
    assert code == "NOT_FOUND"
    assert len(text) == 1024 + len("...TRUNCATED")
    assert text.endswith("...TRUNCATED")


def test_bytes_that_are_no_request_get_an_error(channel):
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    code, _ = refused(call, b"\xff\xff\xff")
    assert code == "INTERNAL"


def test_a_method_that_does_not_exist_is_unimplemented(channel):
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Guess")
    assert refused(call, b"")[0] == "UNIMPLEMENTED"


def test_messages_above_the_usual_4_mib_pass(prediction):
    x = np.arange(6_000_000, dtype=np.float32)  # 24 MB each way
    reply = prediction.Predict(predict_request(x=x))
    assert reply.outputs["y"].float_val[5_000_000] == np.float32(5_000_000 / 2 + 3)
