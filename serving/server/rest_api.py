"""The REST API below /v1/, with the bodies, codes and order of checks of TensorFlow Serving."""

import concurrent.futures
import dataclasses
import logging
import re
import time
import urllib.parse
import zlib
from collections.abc import Awaitable
from typing import Any, cast

import grpc
from aiohttp import web
from google.protobuf import json_format, message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server import (
    connections,
    describe,
    json_examples,
    json_reply,
    json_request,
    json_text,
    metrics,
    predict,
    status,
    workers,
)
from serving.server.admission import Admission
from serving.server.answers import Answers
from serving.server.deadline import Deadline
from serving.server.servable import DEFAULT_SIGNATURE

logger = logging.getLogger(__name__)

HTTP_CODES = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"
MAX_INFLATED_BYTES = 100 * 1024 * 1024
# Larger tensors belong to gRPC.
MAX_BODY_BYTES = 256 * 1024 * 1024
_DESK_PLACES = 64

_ANY = re.compile(r"/v1/.*", re.IGNORECASE)
_MODEL = r"([^/:]+)"
_VERSION = r"(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
_POST = re.compile(
    rf"/v1/models/{_MODEL}{_VERSION}:(classify|regress|predict)", re.IGNORECASE | re.ASCII
)
_GET = re.compile(rf"/v1/models(?:/{_MODEL})?{_VERSION}(?:/(metadata))?", re.IGNORECASE | re.ASCII)
_NOT_FOUND_PAGE = "<HTML><HEAD><TITLE>404 Not Found</TITLE></HEAD><BODY>Not Found</BODY></HTML>\n"


@dataclasses.dataclass(frozen=True)
class RestOptions:
    """Settings of the command line for REST."""

    timeout_s: float | None = 30.0
    cors: bool = False
    metrics_path: str | None = None  # None: no metrics page


@dataclasses.dataclass(frozen=True)
class Target:
    """What a path asks for, of which model."""

    spec: model_pb2.ModelSpec
    action: str  # classify, regress, predict, metadata, or empty for the status


class Api:
    """Answers HTTP requests, on a given pool of threads."""

    def __init__(
        self,
        answers: Answers,
        options: RestOptions,
        admission: Admission,
        threads: concurrent.futures.Executor,
    ) -> None:
        self._answers = answers
        self._options = options
        self._admission = admission
        self._threads = threads
        # Questions about models are answered even while every worker runs a graph.
        self._desk = concurrent.futures.ThreadPoolExecutor(2, "rest-desk")
        self._desk_admission = Admission(_DESK_PLACES)

    def close(self) -> None:
        """Ends the threads that are this object's own."""
        self._desk.shutdown(cancel_futures=True)

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answers one request."""
        path = request.raw_path
        if self._options.metrics_path is not None and path == self._options.metrics_path:
            return web.Response(text=metrics.page(), content_type="text/plain")
        if not _ANY.fullmatch(path):
            return web.Response(status=404, text=_NOT_FOUND_PAGE, content_type="text/html")
        if request.method == "OPTIONS":
            return self._preflight(request)
        if (request.content_length or 0) > MAX_BODY_BYTES:
            return self._too_large()
        deadline = Deadline.after(self._options.timeout_s)
        posted = request.method == "POST"
        threads = self._threads if posted else self._desk
        admission = self._admission if posted else self._desk_admission
        async with admission.body(_read(request), request.content_length or 0) as body:
            code, reply = await workers.run(
                threads,
                deadline,
                self._answer,
                request.method,
                path,
                _Body(request, body),
                deadline,
            )
        return web.Response(
            status=HTTP_CODES[code],
            body=reply,
            headers=self._headers({"Content-Type": "application/json"}),
        )

    def _preflight(self, request: web.BaseRequest) -> web.Response:
        known = re.search("https?://", request.headers.get("Origin", ""))
        return web.Response(status=200 if known else 400, headers=self._headers({}))

    def _too_large(self) -> web.Response:
        limit = f"The body is larger than {MAX_BODY_BYTES} bytes; send large tensors over gRPC"
        response = web.Response(
            status=413,
            body=json_text.error_body(limit),
            headers=self._headers({"Content-Type": "application/json"}),
        )
        response.force_close()  # the body is not read
        return response

    def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        return {**headers, **CORS_HEADERS} if self._options.cors else headers

    def _answer(
        self, method: str, path: str, body: "_Body", deadline: Deadline
    ) -> tuple[grpc.StatusCode, bytes]:
        """Runs in a thread: from path and body to code and body."""
        start = time.perf_counter()
        target = Target(model_pb2.ModelSpec(), "")
        code = grpc.StatusCode.OK
        try:
            target = parse_path(method, path)
            reply = self._reply(method, target, body, deadline)
        except status.ServingError as error:
            code, reply = error.code, json_text.error_body(error.message)
        except Exception as error:
            logger.exception("a request failed in the server itself")
            code = grpc.StatusCode.INTERNAL
            reply = json_text.error_body(f"{type(error).__name__}: {error}")
        seconds = time.perf_counter() - start
        action = target.action if method == "POST" else ""
        metrics.count_request(target.spec.name, action, "REST", code, seconds)
        return code, reply

    def _reply(self, method: str, target: Target, body: "_Body", deadline: Deadline) -> bytes:
        if method == "GET":
            if not target.spec.name:
                raise status.invalid("Missing model name in request.")
            return self._metadata(target) if target.action else self._status(target)
        document = json_request.document_of(body.inflated())
        signature = json_request.signature_name(document)
        target.spec.signature_name = signature
        if target.action == "predict":
            return self._predict(target.spec, document, deadline)
        examples = json_examples.examples(document)
        if target.action == "classify":
            return self._classify(target.spec, examples, deadline)
        return self._regress(target.spec, examples, deadline)

    def _predict(self, spec: model_pb2.ModelSpec, document: dict, deadline: Deadline) -> bytes:
        name = spec.signature_name or DEFAULT_SIGNATURE
        with self._answers.core.acquire(spec) as servable:
            signature = servable.signatures.get(name)
            if signature is None:
                raise status.invalid(f'Serving signature name: "{name}" not found in signature def')
            body = json_request.predict_inputs(document, signature.inputs, spec.signature_name)
            document.clear()
            answer = predict.predict(
                servable,
                predict_pb2.PredictRequest(model_spec=spec),
                self._answers.run,
                self._answers.options,
                deadline,
                body.inputs,
            )
        write = json_reply.rows if body.rows else json_reply.columns
        return write(answer.outputs)

    def _classify(
        self, spec: model_pb2.ModelSpec, examples: message.Message, deadline: Deadline
    ) -> bytes:
        request = classification_pb2.ClassificationRequest(model_spec=spec, input=examples)
        result = self._answers.classify(request, deadline).result
        return json_reply.classifications(
            [[(item.label, item.score) for item in one.classes] for one in result.classifications]
        )

    def _regress(
        self, spec: model_pb2.ModelSpec, examples: message.Message, deadline: Deadline
    ) -> bytes:
        request = regression_pb2.RegressionRequest(model_spec=spec, input=examples)
        result = self._answers.regress(request, deadline).result
        return json_reply.regressions([one.value for one in result.regressions])

    def _status(self, target: Target) -> bytes:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=target.spec)
        response = describe.model_status(self._answers.core, request)
        return _as_json(response, proto_names=False).encode() + b"\n"

    def _metadata(self, target: Target) -> bytes:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=target.spec, metadata_field=[describe.SIGNATURES_FIELD]
        )
        response = describe.model_metadata(self._answers.core, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[describe.SIGNATURES_FIELD].Unpack(signatures)
        spec = _as_json(response.model_spec, proto_names=True)
        definitions = _as_json(signatures, proto_names=True)
        return (
            f'{{\n"model_spec":{spec}\n,\n"metadata": {{"signature_def": {definitions}\n}}\n}}\n'
        ).encode()


@dataclasses.dataclass(frozen=True)
class _Body:
    """A request body as it came, and what tells how it is packed."""

    request: web.BaseRequest
    raw: bytes

    def inflated(self) -> bytes:
        """The body's text.

        Raises:
          ServingError: if it is called gzip and is not, or is too large.
        """
        if "gzip" not in self.request.headers.get("Content-Encoding", "").lower():
            return self.raw
        inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            body = inflater.decompress(self.raw, MAX_INFLATED_BYTES)
        except zlib.error as error:
            raise status.invalid("Failed to uncompress the gzipped body") from error
        if inflater.unconsumed_tail or not inflater.eof:
            raise status.invalid(
                "Failed to uncompress the gzipped body: it is cut short or larger than "
                f"{MAX_INFLATED_BYTES} bytes"
            )
        return body


def _read(request: web.BaseRequest) -> Awaitable[bytes]:
    connection = cast(connections.Connection, request.protocol)
    return connection.read(request, MAX_BODY_BYTES)


def parse_path(method: str, path: str) -> Target:
    """What a request under /v1/ asks for.

    Raises:
      ServingError: INVALID_ARGUMENT if the path fits no call of that method.
    """
    pattern = {"POST": _POST, "GET": _GET}.get(method)
    match = pattern.fullmatch(path) if pattern else None
    if match is None:
        raise status.invalid(f"Malformed request: {method} {path}")
    name, version, label, action = match.groups()
    spec = model_pb2.ModelSpec(name=_unescaped(name or ""))
    if version:
        if int(version) >= 2**63:
            raise status.invalid(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    if label:
        spec.version_label = _unescaped(label)
    return Target(spec, (action or "").lower())


def _unescaped(text: str) -> str:
    return urllib.parse.unquote(text, errors="replace")


def _as_json(proto: message.Message, *, proto_names: bool) -> str:
    options: dict[str, Any] = {"preserving_proto_field_name": proto_names, "indent": 1}
    try:
        return str(
            json_format.MessageToJson(proto, always_print_fields_with_no_presence=True, **options)
        )
    except TypeError:  # protobuf 4 has it under another name
        return str(json_format.MessageToJson(proto, including_default_value_fields=True, **options))
