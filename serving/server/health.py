"""The standard health service, grpc.health.v1, with the names that TensorFlow Serving uses."""

import asyncio
from collections.abc import AsyncIterator

import grpc
from google.protobuf.message import Message

from serving.server.protos import HealthCheckRequest, HealthCheckResponse

NAMES = ("", "PredictionService", "ModelService")

_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3


class Health:
    """Says SERVING from the moment it exists until the server is told to stop."""

    def __init__(self) -> None:
        self._status = _SERVING
        self._changed = asyncio.Event()

    def stopping(self) -> None:
        """From now on the answer is NOT_SERVING, so that balancers turn elsewhere."""
        self._status = _NOT_SERVING
        self._changed.set()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a grpc.aio server serves."""
        codec = {
            "request_deserializer": HealthCheckRequest.FromString,
            "response_serializer": lambda reply: reply.SerializeToString(),
        }
        return grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health",
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check, **codec),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch, **codec),
            },
        )

    async def _check(self, request: Message, context: grpc.aio.ServicerContext) -> Message:
        if request.service not in NAMES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "service name unknown")
        return HealthCheckResponse(status=self._status)

    async def _watch(self, request: Message, _: grpc.aio.ServicerContext) -> AsyncIterator[Message]:
        known = request.service in NAMES
        yield HealthCheckResponse(status=self._status if known else _SERVICE_UNKNOWN)
        await self._changed.wait()
        if known:
            yield HealthCheckResponse(status=self._status)
