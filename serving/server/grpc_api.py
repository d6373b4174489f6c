"""The gRPC API: PredictionService, ModelService and the standard health service.

Handlers take raw bytes and run on one event loop; parsing and the graph run on a pool of
threads. A unary call is declared as a stream of one message, which on the wire is the same
and lets `admission` decide when the message is read.
"""

import concurrent.futures
import logging
import time
from collections.abc import AsyncIterator, Callable

import grpc
from google.protobuf import message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server import describe, metrics, status, workers
from serving.server.admission import Admission
from serving.server.answers import Answers
from serving.server.deadline import Deadline

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 2**31 - 1
_DESK_PLACES = 64

Answer = Callable[[message.Message, Deadline], message.Message | bytes]


class Api:
    """The two services, on a given pool of threads."""

    def __init__(
        self,
        answers: Answers,
        admission: Admission,
        threads: concurrent.futures.Executor,
    ) -> None:
        self._answers = answers
        self._admission = admission
        self._threads = threads
        # Questions about models are answered even while every worker runs a graph, and
        # while a new configuration waits for its models.
        self._desk = concurrent.futures.ThreadPoolExecutor(2, "grpc-desk")
        self._reloader = concurrent.futures.ThreadPoolExecutor(1, "grpc-reload")
        self._desk_admission = Admission(_DESK_PLACES)

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """What a grpc.aio server serves."""
        answers, core = self._answers, self._answers.core
        prediction = {
            "Predict": self._call(predict_pb2.PredictRequest, answers.predict, "Predict"),
            "Classify": self._call(
                classification_pb2.ClassificationRequest, answers.classify, "Classify"
            ),
            "Regress": self._call(regression_pb2.RegressionRequest, answers.regress, "Regress"),
            "MultiInference": self._call(
                inference_pb2.MultiInferenceRequest, answers.multi_inference
            ),
            "GetModelMetadata": self._ask(
                get_model_metadata_pb2.GetModelMetadataRequest,
                lambda request, _: describe.model_metadata(core, request),
            ),
        }
        management = {
            "GetModelStatus": self._ask(
                get_model_status_pb2.GetModelStatusRequest,
                lambda request, _: describe.model_status(core, request),
            ),
            "HandleReloadConfigRequest": self._method(
                model_management_pb2.ReloadConfigRequest,
                lambda request, _: answers.reload(request),
                self._reloader,
                Admission(_DESK_PLACES),
            ),
        }
        return [
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.PredictionService", prediction
            ),
            grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", management),
        ]

    def close(self) -> None:
        """Ends the threads that are this object's own."""
        self._desk.shutdown(cancel_futures=True)
        self._reloader.shutdown(cancel_futures=True)

    def _call(
        self, kind: type[message.Message], answer: Answer, metric: str | None = None
    ) -> grpc.RpcMethodHandler:
        return self._method(kind, answer, self._threads, self._admission, metric)

    def _ask(self, kind: type[message.Message], answer: Answer) -> grpc.RpcMethodHandler:
        return self._method(kind, answer, self._desk, self._desk_admission)

    def _method(
        self,
        kind: type[message.Message],
        answer: Answer,
        threads: concurrent.futures.Executor,
        admission: Admission,
        metric: str | None = None,
    ) -> grpc.RpcMethodHandler:
        async def handle(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
            deadline = Deadline.after(context.time_remaining())
            async with admission.body(_one_message(context)) as body:
                try:
                    return await workers.run(
                        threads, deadline, _answer, kind, answer, metric, body, deadline
                    )
                except status.ServingError as error:
                    code, text = error.code, status.cut(error.message)
                finally:
                    del body  # an error may keep this frame for a while
            await context.abort(code, text)
            raise AssertionError("abort raises")

        return grpc.stream_unary_rpc_method_handler(handle)


async def _one_message(context: grpc.aio.ServicerContext) -> bytes:
    received: bytes = await context.read()
    if received is grpc.aio.EOF:
        await context.abort(grpc.StatusCode.INTERNAL, "The call carried no request message")
    return received


def _answer(
    kind: type[message.Message],
    answer: Answer,
    metric: str | None,
    body: bytes,
    deadline: Deadline,
) -> bytes:
    """Runs in a thread: from the request's bytes to the reply's."""
    start = time.perf_counter()
    model, outcome = "", grpc.StatusCode.OK
    try:
        request = _parsed(kind, body)
        del body
        model = request.model_spec.name if metric else ""
        reply = answer(request, deadline)
        serialised: bytes = reply if isinstance(reply, bytes) else reply.SerializeToString()
        return serialised
    except status.ServingError as error:
        outcome = error.code
        raise
    except Exception as error:
        outcome = grpc.StatusCode.INTERNAL
        logger.exception("a request failed in the server itself")
        raise status.internal(f"{type(error).__name__}: {error}") from error
    finally:
        if metric:
            metrics.count_request(model, metric, "GRPC", outcome, time.perf_counter() - start)


def _parsed(kind: type[message.Message], body: bytes) -> message.Message:
    try:
        return kind.FromString(body)
    except message.DecodeError as error:
        raise status.internal(f"The request is not a {kind.DESCRIPTOR.full_name}") from error
