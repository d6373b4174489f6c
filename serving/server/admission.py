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
    """Bounds requests in memory by number, and by what those already read take up."""

    def __init__(self, places: int, budget_bytes: int | None = None, growth: int = 1) -> None:
        """An empty room.

        Args:
          places: how many requests may be inside.
          budget_bytes: what they may take up together; None takes a share of the memory.
          growth: how many times as large a body becomes while it is worked on.
        """
        self._places = asyncio.Semaphore(places)
        self._budget = budget_bytes or _default_budget()
        self._growth = growth
        self._held = 0
        self._freed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def body(self, receive: Awaitable[bytes], expected: int = 0) -> AsyncIterator[bytes]:
        """Reads a body once there is room, and holds the room while it is in use.

        Args:
          receive: reads the body; not begun before there is room.
          expected: the size of the body in bytes, where it is known beforehand.
        """
        held = expected * self._growth
        reading: asyncio.Future[bytes] | None = None
        placed = False
        try:
            placed = await self._enter(held)
            reading = asyncio.ensure_future(receive)
            await asyncio.wait({reading}, timeout=PATIENCE_S)
            if not reading.done():
                placed = await self._leave(held)
                await asyncio.wait({reading})
                placed = await self._enter(held)
            received = reading.result()
            self._held += len(received) * self._growth - held
            held = len(received) * self._growth
            yield received
        finally:
            if reading is None:
                getattr(receive, "close", lambda: None)()
            elif not reading.done():
                reading.cancel()
            if placed:
                await self._leave(held)

    async def _enter(self, size: int) -> bool:
        await self._places.acquire()
        try:
            if self._is_full(size):
                async with self._freed:
                    await self._freed.wait_for(lambda: not self._is_full(size))
        except BaseException:
            self._places.release()
            raise
        self._held += size
        return True

    def _is_full(self, size: int) -> bool:
        """Whether one more has to wait; a body larger than the budget gets in alone."""
        return self._held > 0 and self._held + size > self._budget

    async def _leave(self, size: int) -> bool:
        self._held -= size
        self._places.release()
        if size:
            async with self._freed:
                self._freed.notify_all()
        return False


def _default_budget() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(_SMALLEST_BUDGET, int(memory * _SHARE_OF_MEMORY))
