"""Who is let in, and who waits outside with their bytes."""

import asyncio

import pytest

from serving.server import admission
from serving.server.admission import Admission


class Sender:
    """A client whose body arrives when told."""

    def __init__(self, size: int = 1) -> None:
        self.asked = asyncio.Event()
        self.sent = asyncio.Event()
        self._size = size

    async def __call__(self) -> bytes:
        self.asked.set()
        await self.sent.wait()
        return bytes(self._size)


async def hold(room: Admission, sender: Sender, leave: asyncio.Event, expected: int = 0) -> None:
    async with room.body(sender(), expected):
        await leave.wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_one_more_than_there_are_places_is_not_even_read():
    async def scene():
        room, leave = Admission(1), asyncio.Event()
        first, second = Sender(), Sender()
        first.sent.set()
        second.sent.set()
        tasks = [asyncio.create_task(hold(room, one, leave)) for one in (first, second)]
        await settle()
        assert first.asked.is_set()
        assert not second.asked.is_set()
        leave.set()
        await asyncio.gather(*tasks)
        assert second.asked.is_set()

    asyncio.run(scene())


def test_bodies_wait_while_those_inside_fill_the_budget():
    async def scene():
        room, leave = Admission(10, budget_bytes=100, growth=2), asyncio.Event()
        senders = [Sender(40), Sender(40), Sender(40)]
        for one in senders:
            one.sent.set()
        tasks = [asyncio.create_task(hold(room, one, leave, 40)) for one in senders]
        await settle()
        assert [one.asked.is_set() for one in senders] == [True, False, False]
        leave.set()
        await asyncio.gather(*tasks)
        assert all(one.asked.is_set() for one in senders)

    asyncio.run(scene())


def test_a_body_larger_than_the_budget_gets_in_alone():
    async def scene():
        room, leave = Admission(10, budget_bytes=10), asyncio.Event()
        large = Sender(1000)
        large.sent.set()
        leave.set()
        await asyncio.wait_for(hold(room, large, leave, 1000), 5)

    asyncio.run(scene())


def test_a_slow_sender_loses_its_place_to_others(monkeypatch):
    monkeypatch.setattr(admission, "PATIENCE_S", 0.05)

    async def scene():
        room, leave = Admission(1), asyncio.Event()
        slow, quick = Sender(), Sender()
        quick.sent.set()
        leave.set()
        waiting = asyncio.create_task(hold(room, slow, leave))
        await settle()
        await asyncio.wait_for(hold(room, quick, leave), 5)
        assert not waiting.done()
        slow.sent.set()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scene())


@pytest.mark.parametrize("when", ["outside", "reading", "inside"])
def test_a_client_that_goes_gives_its_place_back(when):
    async def scene():
        room, leave = Admission(1), asyncio.Event()
        blocker, sender = Sender(), Sender()
        blocker.sent.set()
        tasks = []
        if when == "outside":
            tasks.append(asyncio.create_task(hold(room, blocker, leave)))
            await settle()
        if when == "inside":
            sender.sent.set()
        going = asyncio.create_task(hold(room, sender, leave))
        await settle()
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        leave.set()
        await asyncio.gather(*tasks)
        last = Sender()
        last.sent.set()
        await asyncio.wait_for(hold(room, last, leave), 5)

    asyncio.run(scene())
