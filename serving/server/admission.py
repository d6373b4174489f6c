"""How many requests are in memory at once, whoever sends them and however slowly.

Bodies are read only by requests that were admitted; the others wait with their bytes still
in the kernel and on the client's side. A sender who dawdles loses the place after a moment,
so that slow clients cannot keep quick ones out, and takes a new one when the body is there.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

# A place is kept for a body this long; a megabyte over a local network takes 10 ms.
PATIENCE_S = 1.0

_SMALLEST_BUDGET = 1 << 30
_SHARE_OF_MEMORY = 0.125

Body = TypeVar("Body")


class Admission:
    """Bounds requests in memory by number, and by the bytes of those already read."""

    def __init__(self, places: int, budget_bytes: int | None = None) -> None:
        self._places = asyncio.Semaphore(places)
        self._budget = budget_bytes or _default_budget()
        self._held = 0
        self._freed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def body(self, receive: Awaitable[bytes]) -> AsyncIterator[bytes]:
        """Reads a body once there is room, and holds the room while it is in use."""
        reading = None
        await self._enter()
        holding, size = True, 0
        try:
            reading = asyncio.ensure_future(receive)
            await asyncio.wait({reading}, timeout=PATIENCE_S)
            if not reading.done():
                self._places.release()
                holding = False
                await asyncio.wait({reading})
                await self._enter()
                holding = True
            received = reading.result()
            size = len(received)
            self._held += size
            yield received
        finally:
            if reading is None:
                getattr(receive, "close", lambda: None)()
            elif not reading.done():
                reading.cancel()
            if holding:
                self._places.release()
            if size:
                await self._give_back(size)

    async def _enter(self) -> None:
        await self._places.acquire()
        if self._held < self._budget:
            return
        try:
            async with self._freed:
                await self._freed.wait_for(lambda: self._held < self._budget)
        except BaseException:
            self._places.release()
            raise

    async def _give_back(self, size: int) -> None:
        full = self._held >= self._budget
        self._held -= size
        if full:
            async with self._freed:
                self._freed.notify_all()


def _default_budget() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(_SMALLEST_BUDGET, int(memory * _SHARE_OF_MEMORY))
