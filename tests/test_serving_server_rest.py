"""The REST API, against the contract's own words, and beside gRPC."""

import gzip
import http.client
import json
import math
import socket

import contract_server
import grpc
import numpy as np
import pytest
from contract_server import predict_request, refused
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving.server import rest_api


@pytest.fixture(scope="module")
def prediction(server):
    with contract_server.channel(server) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


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
