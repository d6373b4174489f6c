"""A gRPC and REST server of one made-up model, with failures to order; no TensorFlow."""

import concurrent.futures
import contextlib
import http.server
import json
import threading
import time

import grpc
import numpy as np

from data_pipeline.spec import InputSpec
from serving import messages, tensors

SPEC = InputSpec("XR", ("lung",), (8, 8))


class Fake:
    """Says of each voxel that it is lung if it is above `level`."""

    def __init__(self):
        self.levels = {1: 100.0}  # version -> level
        self.labels = {}
        self.failures = []  # (gRPC status, text) of the next calls
        self.requests = []  # (signature, version) of the calls that were answered
        self.metadata = {}
        self.delay_s = 0.0
        self.swap_after = None  # (requests, levels): what is served after so many
        self.knows_itself = True
        self.at_once = self.most = 0  # calls under way, and how many there were at most
        self._lock = threading.Lock()

    def predict(self, request, context):
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        try:
            return self._answer(request, context)
        finally:
            with self._lock:
                self.at_once -= 1

    def _answer(self, request, context):
        self.metadata = dict(context.invocation_metadata())
        time.sleep(self.delay_s)
        if self.failures:
            context.abort(*self.failures.pop(0))
        if self.swap_after and len(self.requests) == self.swap_after[0]:
            self.levels = self.swap_after[1]
        wanted = request.model_spec
        version = wanted.version.value if wanted.HasField("version") else max(self.levels)
        version = self.labels.get(wanted.version_label, version)
        if wanted.name != "fake" or version not in self.levels:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found: {wanted.name}")
        self.requests.append((wanted.signature_name, version))
        response = messages.PredictResponse()
        response.model_spec.version.value = version
        if wanted.signature_name == "spec" and self.knows_itself:
            spec = np.array([SPEC.to_json().encode()], object)
            response.outputs["spec"].CopyFrom(tensors.encode(spec))
        elif wanted.signature_name == "serving_default":
            voxels = tensors.decode(request.inputs["voxels"])
            answer = (voxels > self.levels[version]).astype(np.float32)
            response.outputs["probabilities"].CopyFrom(tensors.encode(answer))
        else:
            code = grpc.StatusCode.FAILED_PRECONDITION
            context.abort(code, f'Serving signature key "{wanted.signature_name}" not found.')
        return response

    def status(self, request, context):
        if request.model_spec.name != "fake":
            context.abort(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model")
        response = messages.GetModelStatusResponse()
        for version in self.levels:
            response.model_version_status.add(version=version, state=messages.AVAILABLE)
        response.model_version_status.add(version=99, state=50)  # ended
        return response


@contextlib.contextmanager
def over_grpc(fake, port=0):
    """Yields the address of a gRPC server."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), options=[
        ("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)])  # fmt: skip
    for service, method, function, request in (
        ("PredictionService", "Predict", fake.predict, messages.PredictRequest),
        ("ModelService", "GetModelStatus", fake.status, messages.GetModelStatusRequest),
    ):
        handler = grpc.unary_unary_rpc_method_handler(
            function, request.FromString, lambda message: message.SerializeToString()
        )
        server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    f"tensorflow.serving.{service}", {method: handler}
                )
            ]
        )
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextlib.contextmanager
def over_http(answers):
    """Yields the address of an HTTP server that gives these (status, body) in turn.

    A body that is no bytes is sent as JSON. Requests are kept in `answers.requests`.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append((self.path, dict(self.headers), json.loads(body) if body else None))
            status, content = left.pop(0) if len(left) > 1 else left[0]
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    left, seen = list(answers), []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
