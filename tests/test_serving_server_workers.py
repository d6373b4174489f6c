"""What is kept of a request whose client has gone while a thread works on it."""

import asyncio
import concurrent.futures
import gc
import threading
import types
import weakref

import pytest
from tensorflow_serving.apis import classification_pb2

from serving.server import grpc_api, rest_api, status, workers
from serving.server.admission import Admission
from serving.server.deadline import Deadline


class Work:
    """Classifies once it is told to, and fails at it."""

    def __init__(self) -> None:
        self.core = None
        self.begun = threading.Event()
        self.end = threading.Event()
        self.deadlines: list[Deadline] = []
        self.predict = self.regress = self.multi_inference = self.reload = self.classify

    def classify(self, request: object, deadline: Deadline) -> None:
        self.deadlines.append(deadline)
        self.begun.set()
        assert self.end.wait(60)
        raise status.invalid("as told")


class Aborted(Exception):
    pass


class Client:
    """Sends one request over either API, and notes when its body is asked for."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def over_rest(self, work: Work, room: Admission, pool: concurrent.futures.Executor):
        async def read(request: object, limit: int) -> bytes:
            self.asked.set()
            return b'{"examples": [{"x": 1}]}'

        api = rest_api.Api(work, rest_api.RestOptions(), room, pool)
        request = types.SimpleNamespace(
            raw_path="/v1/models/m:classify",
            method="POST",
            content_length=24,
            headers={},
            protocol=types.SimpleNamespace(read=read),
        )
        try:
            await api.handle(request)
        finally:
            api.close()

    async def over_grpc(self, work: Work, room: Admission, pool: concurrent.futures.Executor):
        async def read() -> bytes:
            self.asked.set()
            return classification_pb2.ClassificationRequest().SerializeToString()

        async def abort(code: object, text: str) -> None:
            raise Aborted(text)

        api = grpc_api.Api(work, room, pool)
        method = "/tensorflow.serving.PredictionService/Classify"
        handler = api.handlers()[0].service(types.SimpleNamespace(method=method))
        context = types.SimpleNamespace(time_remaining=lambda: None, read=read, abort=abort)
        try:
            await handler.stream_unary(None, context)
        except Aborted:
            pass
        finally:
            api.close()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("over", [Client.over_rest, Client.over_grpc], ids=["REST", "gRPC"])
def test_a_client_that_goes_keeps_its_place_while_its_body_is_worked_on(over):
    async def scene():
        work, room = Work(), Admission(1)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            try:
                going = asyncio.create_task(over(Client(), work, room, pool))
                assert await asyncio.to_thread(work.begun.wait, 60)
                going.cancel()
                following = Client()
                follower = asyncio.create_task(over(following, work, room, pool))
                await settle()
                assert work.deadlines[0].is_over
                assert not following.asked.is_set()
            finally:
                work.end.set()
            with pytest.raises(asyncio.CancelledError):
                await going
            await follower
            assert len(work.deadlines) == 2

    asyncio.run(scene())


def test_what_is_given_up_before_its_turn_is_neither_done_nor_kept():
    class Body:
        """As large as you like."""

    done: list[Body] = []

    async def scene():
        end = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            try:
                pool.submit(end.wait, 60)
                body = Body()
                kept = weakref.ref(body)
                deadline = Deadline()
                waiting = asyncio.create_task(workers.run(pool, deadline, done.append, body))
                del body
                await settle()
                waiting.cancel()
                await asyncio.wait({waiting})
                assert waiting.cancelled()
                del waiting
                gc.collect()
                assert kept() is None
                assert deadline.is_over
            finally:
                end.set()
        assert not done

    asyncio.run(scene())


def test_what_the_thread_returns_or_raises_reaches_the_caller():
    async def scene():
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert await workers.run(pool, Deadline(), divmod, 7, 2) == (3, 1)
            with pytest.raises(ZeroDivisionError):
                await workers.run(pool, Deadline(), divmod, 7, 0)

    asyncio.run(scene())
