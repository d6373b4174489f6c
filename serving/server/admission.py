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


class _Guest:
    """One request, and what it takes up while it is inside."""

    def __init__(self, size: int) -> None:
        self.size = size  # bytes
        self.is_inside = False


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
        self._freed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def body(self, receive: Awaitable[bytes], expected: int = 0) -> AsyncIterator[bytes]:
        """Reads a body once there is room, and holds the room while it is in use.

        Args:
          receive: reads the body; not begun before there is room.
          expected: the size of the body in bytes, where it is known beforehand.
        """
        guest = _Guest(expected * self._growth)
        try:
            await self._enter(guest)
        except BaseException:
            getattr(receive, "close", lambda: None)()
            raise
        # Most bodies are there at once: a timer costs them less than a task for the reading.
        patience = asyncio.get_running_loop().call_later(PATIENCE_S, self._leave, guest)
        try:
            received = await receive
            patience.cancel()
            if not guest.is_inside:
                await self._enter(guest)
            size = len(received) * self._growth
            self._held += size - guest.size
            guest.size = size
            try:
                yield received
            finally:
                del received  # an error may keep this frame for a while
        finally:
            patience.cancel()
            self._leave(guest)

    async def _enter(self, guest: _Guest) -> None:
        await self._places.acquire()
        try:
            while self._is_full(guest.size):
                self._freed.clear()
                await self._freed.wait()
        except BaseException:
            self._places.release()
            raise
        self._held += guest.size
        guest.is_inside = True

    def _is_full(self, size: int) -> bool:
        """Whether one more has to wait; a body larger than the budget gets in alone."""
        return self._held > 0 and self._held + size > self._budget

    def _leave(self, guest: _Guest) -> None:
        if guest.is_inside:
            guest.is_inside = False
            self._held -= guest.size
            self._places.release()
            self._freed.set()


def _default_budget() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(_SMALLEST_BUDGET, int(memory * _SHARE_OF_MEMORY))
