"""The embedded server as a client sees it, over both APIs, against the contract's own words."""

import gzip
import http.client
import json
import math
import signal
import socket
import subprocess
import sys

import grpc
import numpy as np
import pytest
import served_models
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.server import rest_api
from serving.server.protos import HealthCheckRequest, HealthCheckResponse

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    served_models.half_plus(base / "half" / "1", 2.0)
    served_models.half_plus(base / "half" / "00000002", 3.0)
    served_models.strings(base / "text" / "1")
    served_models.examples_tf1(base / "examples" / "1")
    (base / "models.config").write_text(
        "model_config_list {"
        f'config {{ name: "half" base_path: "{base}/half" model_platform: "tensorflow"'
        '  version_labels { key: "stable" value: 1 }'
        "  model_version_policy { all {} } }"
        f'config {{ name: "text" base_path: "{base}/text" model_platform: "tensorflow" }}'
        f'config {{ name: "examples" base_path: "{base}/examples" model_platform: "tensorflow" }}'
        "}"
    )
    (base / "monitoring.config").write_text("prometheus_config { enable: true }")
    return base


@pytest.fixture(scope="module")
def server(models):
    with served_models.serving(
        f"--model_config_file={models}/models.config",
        f"--monitoring_config_file={models}/monitoring.config",
        "--allow_version_labels_for_unavailable_models",
        "--enable_grpc_healthcheck_service=true",
        "--rest_api_enable_cors_support",
        log=models / "server.log",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address, options=UNLIMITED) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def management(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def predict_request(name="half", signature="", version=None, label="", **arrays):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label:
        request.model_spec.version_label = label
    for key, array in arrays.items():
        request.inputs[key].CopyFrom(served_models.tensor(array))
    return request


def refused(call, request):
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=120)
    return caught.value.code().name, caught.value.details()


# gRPC Predict.


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


# gRPC Classify, Regress, MultiInference.


def examples(*values):
    given = input_pb2.Input()
    for value in values:
        example = example_pb2.Example()
        example.features.feature["x"].float_list.value.append(value)
        given.example_list.examples.append(example)
    return given


def test_regress_answers_a_value_an_example(prediction):
    request = regression_pb2.RegressionRequest(input=examples(1, 4))
    request.model_spec.name = "examples"
    request.model_spec.signature_name = "regress"
    reply = prediction.Regress(request)
    assert [one.value for one in reply.result.regressions] == [2.5, 4.0]
    assert reply.model_spec.version.value == 1


def test_classify_answers_labels_and_scores(prediction):
    request = classification_pb2.ClassificationRequest(input=examples(1))
    request.model_spec.name = "examples"
    request.model_spec.signature_name = "classify"
    (result,) = prediction.Classify(request).result.classifications
    assert [(one.label, one.score) for one in result.classes] == [("even", 1.0), ("odd", 2.0)]


def test_a_context_is_part_of_every_example(prediction):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name = "examples"
    request.model_spec.signature_name = "regress"
    listed = request.input.example_list_with_context
    listed.context.CopyFrom(examples(8).example_list.examples[0])
    listed.examples.add()
    assert prediction.Regress(request).result.regressions[0].value == 6.0


def test_classify_refuses_what_it_cannot_answer(prediction):
    request = classification_pb2.ClassificationRequest(input=examples(1))
    request.model_spec.name = "examples"
    request.model_spec.signature_name = "no"
    assert refused(prediction.Classify, request) == (
        "INVALID_ARGUMENT",
        "No signature was found with the name: no",
    )
    request.model_spec.signature_name = "regress"
    assert refused(prediction.Classify, request)[0] == "INVALID_ARGUMENT"
    request.model_spec.signature_name = "classify"
    request.ClearField("input")
    assert refused(prediction.Classify, request) == ("INVALID_ARGUMENT", "Input is empty.")


def test_multi_inference_runs_several_signatures_on_the_same_examples(prediction):
    request = inference_pb2.MultiInferenceRequest(input=examples(2))
    for method in ("regress", "classify"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name = "examples"
        task.model_spec.signature_name = method
    regressed, classified = prediction.MultiInference(request).results
    assert regressed.regression_result.regressions[0].value == 3.0
    assert classified.classification_result.classifications[0].classes[1].score == 3.0
    request.tasks[1].CopyFrom(request.tasks[0])
    assert refused(prediction.MultiInference, request) == (
        "INVALID_ARGUMENT",
        "Duplicate evaluation of signature: regress",
    )
    request.tasks[1].model_spec.name = "half"
    assert "same model name" in refused(prediction.MultiInference, request)[1]


# gRPC status, metadata, health.


def test_status_lists_versions_newest_first(management):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "half"
    reply = management.GetModelStatus(request)
    assert [(one.version, one.state) for one in reply.model_version_status] == [(2, 30), (1, 30)]
    request.model_spec.version.value = 9
    assert refused(management.GetModelStatus, request) == (
        "NOT_FOUND",
        "Could not find version 9 of model half",
    )


def test_metadata_describes_the_signatures(prediction):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "half"
    reply = prediction.GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert reply.metadata["signature_def"].Unpack(signatures)
    assert sorted(signatures.signature_def) == ["pair", "serving_default"]
    assert signatures.signature_def["pair"].inputs["b"].dtype == types_pb2.DT_INT64
    assert reply.model_spec.version.value == 2
    request.metadata_field[:] = []
    assert "at least one metadata_field" in refused(prediction.GetModelMetadata, request)[1]


def test_reload_refuses_an_empty_configuration(management):
    assert refused(
        management.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest()
    )[0] == ("INVALID_ARGUMENT")


@pytest.mark.parametrize("name", ["", "PredictionService", "ModelService"])
def test_health_is_serving(channel, name):
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        lambda message: message.SerializeToString(),
        HealthCheckResponse.FromString,
    )
    assert check(HealthCheckRequest(service=name)).status == 1
    assert refused(check, HealthCheckRequest(service="other"))[0] == "NOT_FOUND"


# REST.


@pytest.mark.parametrize(
    ("path", "body", "reply"),
    [
        ("half:predict", {"instances": [1.0, 2, 5]}, {"predictions": [3.5, 4.0, 5.5]}),
        ("half/versions/1:predict", {"inputs": [[2]]}, {"outputs": [[3.0]]}),
        ("half/labels/stable:predict", {"inputs": 4}, {"outputs": 4.0}),
        (
            "half:predict",
            {"signature_name": "pair", "instances": [{"a": 1, "b": 2}]},
            {"predictions": [{"sum": 3.0, "twice": 4}]},
        ),
        (
            "half:predict",
            {"signature_name": "pair", "inputs": {"a": [1], "b": [2], "more": 3}},
            {"outputs": {"sum": [3.0], "twice": [4]}},
        ),
        (
            "examples:classify",
            {"signature_name": "classify", "examples": [{"x": 1.0}]},
            {"results": [[["even", 1.0], ["odd", 2.0]]]},
        ),
        (
            "examples:regress",
            {"signature_name": "regress", "examples": [{"x": 1.0}, {"x": [4.0]}]},
            {"results": [2.5, 4.0]},
        ),
        (
            "text:predict",
            {"signature_name": "echo", "instances": [{"b64": "AAH/"}]},
            {"predictions": [{"b64": "AAH/"}]},
        ),
    ],
)
def test_rest_answers(server, path, body, reply):
    status, text = server.post(f"/v1/models/{path}", json.dumps(body))
    assert (status, json.loads(text)) == (200, reply)


def test_rest_paths_are_read_without_case_and_with_escapes(server):
    status, _ = server.post("/V1/Models/h%61lf/Versions/1:Predict", '{"inputs": 1}')
    assert status == 200


def test_rest_takes_and_gives_nan_and_infinity(server):
    _, text = server.post("/v1/models/half:predict", '{"instances": [NaN, Infinity, -Infinity]}')
    nan, *infinities = json.loads(text)["predictions"]
    assert math.isnan(nan)
    assert infinities == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "message"),
    [
        ("POST", "/v1/models/no:predict", "{", 400, None),
        (
            "POST",
            "/v1/models/no:predict",
            "{}",
            404,
            "Servable not found for request: Latest(no)",
        ),
        (
            "POST",
            "/v1/models/half/versions/9:predict",
            "{}",
            404,
            "Servable not found for request: Specific(half, 9)",
        ),
        (
            "POST",
            "/v1/models/half/labels/L:predict",
            "{}",
            400,
            "Unrecognized servable version label: L",
        ),
        (
            "POST",
            "/v1/models/half:predict",
            '{"signature_name": "s"}',
            400,
            'Serving signature name: "s" not found in signature def',
        ),
        ("POST", "/v1/models/half:predict", "{}", 400, "Missing 'inputs' or 'instances' key"),
        (
            "POST",
            "/v1/models/half:guess",
            "{}",
            400,
            "Malformed request: POST /v1/models/half:guess",
        ),
        (
            "POST",
            "/v1/models/half:predict?a=1",
            "{}",
            400,
            "Malformed request: POST /v1/models/half:predict?a=1",
        ),
        (
            "POST",
            f"/v1/models/half/versions/{2**63}:predict",
            "{}",
            400,
            f"Failed to convert version: {2**63} to numeric.",
        ),
        ("PUT", "/v1/models/half", None, 400, "Malformed request: PUT /v1/models/half"),
        ("DELETE", "/v1/x", None, 400, "Malformed request: DELETE /v1/x"),
        ("GET", "/v1/models", None, 400, "Missing model name in request."),
        ("GET", "/v1/models/no", None, 404, "Could not find any versions of model no"),
        (
            "GET",
            "/v1/models/half/versions/9",
            None,
            404,
            "Could not find version 9 of model half",
        ),
        (
            "GET",
            "/v1/models/no/metadata",
            None,
            404,
            "Servable not found for request: Latest(no)",
        ),
    ],
)
def test_rest_refuses_with_the_code_and_the_words_of_the_contract(
    server, method, path, body, code, message
):
    status, text = server.send(method, path, body.encode() if body is not None else None)
    assert status == code
    error = json.loads(text)
    assert list(error) == ["error"]
    if message is not None:
        assert error["error"] == message


def test_rest_outside_v1_is_a_404_that_is_no_json(server):
    status, text = server.get("/")
    assert status == 404
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_rest_status_has_strings_for_numbers_and_names_for_states(server):
    status, text = server.get("/v1/models/half/versions/1")
    assert status == 200
    assert json.loads(text) == {
        "model_version_status": [
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }


def test_rest_metadata_has_the_layout_of_the_contract(server):
    status, text = server.get("/v1/models/half/metadata")
    assert status == 200
    reply = json.loads(text)
    assert reply["model_spec"] == {"name": "half", "signature_name": "", "version": "2"}
    signatures = reply["metadata"]["signature_def"]["signature_def"]
    assert signatures["pair"]["defaults"] == {}
    assert signatures["pair"]["inputs"]["b"]["dtype"] == "DT_INT64"
    assert signatures["pair"]["inputs"]["b"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]


def test_rest_inflates_gzip_and_never_deflates(server):
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    body = gzip.compress(b'{"inputs": 1}')
    status, text = server.send("POST", "/v1/models/half:predict", body, headers)
    assert (status, json.loads(text)) == (200, {"outputs": 3.5})
    status, text = server.send("POST", "/v1/models/half:predict", b"no gzip", headers)
    assert status == 400


def test_rest_refuses_a_gzip_bomb(server):
    bomb = gzip.compress(bytes(101 * 1024 * 1024))
    status, text = server.send(
        "POST", "/v1/models/half:predict", bomb, {"Content-Encoding": "gzip"}
    )
    assert status == 400
    assert "uncompress" in json.loads(text)["error"]


def connection(server):
    return http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=120)


def test_rest_sends_cors_headers_when_told_to(server):
    client = connection(server)
    client.request("OPTIONS", "/v1/models/half:predict", headers={"Origin": "https://a.org"})
    reply = client.getresponse()
    assert reply.status == 200
    assert reply.read() == b""
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert reply.headers["Access-Control-Allow-Methods"] == "POST, GET"
    client.request("OPTIONS", "/v1/models/half:predict")
    reply = client.getresponse()
    reply.read()
    assert reply.status == 400
    client.request("GET", "/v1/models/half")
    reply = client.getresponse()
    reply.read()
    assert reply.headers["Access-Control-Allow-Headers"] == "Content-Type"
    assert reply.headers["Content-Type"] == "application/json"
    client.close()


def test_rest_takes_any_content_type_and_chunked_bodies(server):
    client = connection(server)
    client.request(
        "POST",
        "/v1/models/half:predict",
        iter([b'{"inp', b'uts": 1}']),
        {"Content-Type": "text/plain"},
        encode_chunked=True,
    )
    assert json.load(client.getresponse()) == {"outputs": 3.5}
    client.close()


def test_a_client_that_closes_its_half_still_gets_its_answer(server):
    body = b'{"inputs": 1}'
    with socket.create_connection(("127.0.0.1", server.rest_port), 60) as client:
        client.sendall(
            b"POST /v1/models/half:predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
            % len(body)
            + body
        )
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_metrics_count_what_was_asked(server, prediction):
    refused(prediction.Predict, predict_request("counted"))
    prediction.Predict(predict_request(x=np.float32([1])))
    server.post("/v1/models/half:predict", '{"inputs": 1}')
    status, text = server.get("/monitoring/prometheus/metrics")
    assert status == 200
    assert (
        ':tensorflow:serving:request_count{model_name="counted",status="NOT_FOUND"} 1'
        in text.splitlines()
    )
    assert "# TYPE :tensorflow:serving:request_latency histogram" in text
    labels = 'model_name="half",API="Predict",entrypoint="GRPC"'
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="10"}}' in text
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="18"}}' in text
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="+Inf"}}' in text
    assert ':tensorflow:serving:request_latency_count{model_name="half",API="predict"' in text
    assert ':tensorflow:serving:runtime_latency_sum{model_name="half"' in text


def test_grpc_and_rest_give_the_same_numbers(server, prediction):
    x = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    over_grpc = np.array(prediction.Predict(predict_request(x=x)).outputs["y"].float_val)
    _, text = server.post("/v1/models/half:predict", json.dumps({"instances": x.tolist()}))
    over_rest = np.array(json.loads(text)["predictions"], np.float32)
    np.testing.assert_array_equal(over_grpc.reshape(2, 5).astype(np.float32), over_rest)


# The process.


def run_server(*flags):
    return subprocess.run(  # a busy machine may take minutes to import TensorFlow
        [sys.executable, "-m", "serving.model_server", *flags],
        cwd=served_models.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model_base_path=/x", "--prot=1"], "--prot"),
        ([], "--model_base_path"),
        (["--model_base_path=/x", "--port=0"], "--port"),
        (["--model_base_path=/x", "--use_alts_credentials"], "cannot be honoured"),
        (["--model_base_path=/x", "--batching_parameters_file=/y"], "--enable_batching"),
        (["--model_base_path=/x", "--port=9", "--rest_api_port=9"], "must differ"),
        (["--model_base_path=/x", "--enable_batching=maybe"], "not true or false"),
    ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(flags, words):
    result = run_server(*flags)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert words in line


@pytest.mark.parametrize("mistake", ["port", "models"])
def test_a_mistake_is_told_before_tensorflow_is_imported(mistake, tmp_path, server):
    config = tmp_path / "models.config"
    config.write_text("model_config_list { confg {} }")
    flags = {
        "port": [f"--port={server.port}", "--model_base_path=/x"],
        "models": [f"--port={served_models.free_port()}", f"--model_config_file={config}"],
    }[mistake]
    code = (
        "import sys; from serving import model_server\n"
        f"try: model_server.main({flags})\n"
        "except SystemExit as end: print(end.code, 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=served_models.ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "2 False"


def test_a_broken_config_file_is_told_in_the_words_people_search_for(tmp_path):
    config = tmp_path / "models.config"
    config.write_text("model_config_list { confg {} }")
    result = run_server(f"--model_config_file={config}")
    assert result.returncode == 2
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in result.stderr


def test_a_port_in_use_is_one_line_and_exit_code_2(server):
    result = run_server(f"--port={server.port}", "--model_base_path=/x")
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1:{server.port}: Address already in use" in result.stderr


def test_a_model_that_does_not_load_ends_the_server_with_its_name(tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "saved_model.pb").write_bytes(b"no model")
    port = served_models.free_port()
    result = run_server(
        f"--port={port}", f"--model_base_path={tmp_path}/m", "--max_num_load_retries=0"
    )
    assert result.returncode == 2
    assert "Failed to start server. Error: UNKNOWN: 1 model(s) did not become available" in (
        result.stderr
    )


FOREVER = 2_000_000_000  # steps: minutes


@pytest.fixture(scope="module")
def spin(tmp_path_factory):
    return served_models.spinning(tmp_path_factory.mktemp("spin") / "spin" / "1").parent


def spin_request(steps):
    return predict_request("spin", steps=np.int32(steps))


def test_a_run_may_take_so_long_and_sigterm_waits_for_those_under_way(spin):
    with served_models.serving(
        f"--model_base_path={spin}",
        "--model_name=spin",
        "--rest_api_timeout_in_ms=300",
        "--drain_seconds=120",
    ) as running:
        status, text = running.post("/v1/models/spin:predict", f'{{"inputs": {FOREVER}}}')
        assert (status, list(json.loads(text))) == (504, ["error"])
        with grpc.insecure_channel(running.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            with pytest.raises(grpc.RpcError) as late:
                stub.Predict(spin_request(FOREVER), timeout=0.5)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            steps = [10_000 + n for n in range(8)]
            pending = [stub.Predict.future(spin_request(n)) for n in steps]
            pending[0].result()
            running.process.send_signal(signal.SIGTERM)
            assert [call.result().outputs["y"].int_val[0] for call in pending] == steps
        assert running.process.wait(200) == 0


@pytest.mark.slow
def test_sigterm_waits_for_a_run_without_end_only_as_long_as_it_was_told(spin, tmp_path):
    with served_models.serving(
        f"--model_base_path={spin}", "--model_name=spin", "--drain_seconds=1", log=tmp_path / "log"
    ) as running:
        with grpc.insecure_channel(running.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            endless = stub.Predict.future(spin_request(FOREVER))
            assert stub.Predict(spin_request(7)).outputs["y"].int_val == [7]
            running.process.send_signal(signal.SIGTERM)
            assert endless.exception() is not None
        assert running.process.wait(200) == 0
    assert "still running after --drain_seconds" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("code", "http"),
    [
        ("INVALID_ARGUMENT", 400), ("FAILED_PRECONDITION", 400), ("OUT_OF_RANGE", 400),
        ("UNAUTHENTICATED", 401), ("PERMISSION_DENIED", 403), ("NOT_FOUND", 404),
        ("ALREADY_EXISTS", 409), ("ABORTED", 409), ("RESOURCE_EXHAUSTED", 429),
        ("CANCELLED", 499), ("UNKNOWN", 500), ("INTERNAL", 500), ("DATA_LOSS", 500),
        ("UNIMPLEMENTED", 501), ("UNAVAILABLE", 503), ("DEADLINE_EXCEEDED", 504),
    ],
)  # fmt: skip
def test_each_code_has_the_http_status_of_the_contract(code, http):
    assert rest_api.HTTP_CODES[grpc.StatusCode[code]] == http


def test_the_server_listens_on_loopback_only(server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # The address this host would use to go elsewhere; nothing is sent.
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has no address but loopback")
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this host has no address but loopback")
    for port in (server.port, server.rest_port):
        with pytest.raises(OSError, match=r"refused|timed out"):
            socket.create_connection((address, port), 2)


def test_descriptors_of_our_own_are_not_in_the_common_pool():
    from google.protobuf import descriptor_pool

    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("tensorflow.serving.SSLConfig")
