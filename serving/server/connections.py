"""HTTP connections that outlive a client's half-close, and do not wait for ever.

A client may shut its sending side once its request is out and still wait for the answer;
aiohttp would drop it. One that stops in the middle of a request is dropped.
"""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import StreamReader, web

# Between two pieces of a request; seconds.
PIECE_TIMEOUT_S = 60.0

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Connection(web.RequestHandler):
    """One client."""

    def __init__(self, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]
        )
        self._half_closed = False
        self._reading: StreamReader | None = None
        self._first_request: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Gives the client a while to send its first request."""
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self._first_request = loop.call_later(PIECE_TIMEOUT_S, transport.close)

    def connection_lost(self, error: BaseException | None) -> None:
        """Forgets the client."""
        self._in_time()
        super().connection_lost(error)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio reads what it returns
        """Keeps the connection open for the answer to a request that came whole."""
        self._half_closed = True
        if self._reading is not None and not self._reading.is_eof():
            return False
        self.close()
        return True

    async def read(self, request: web.BaseRequest, limit: int) -> bytes:
        """The body of a request.

        Raises:
          web.HTTPException: if it stops, stalls or is longer than `limit` bytes.
        """
        self._in_time()
        content = request.content
        if self._half_closed and not content.is_eof():
            raise web.HTTPBadRequest(text="the request ends before its body does")
        self._reading = content
        try:
            return await _pieces(content, limit)
        finally:
            self._reading = None

    def _in_time(self) -> None:
        if self._first_request is not None:
            self._first_request.cancel()
            self._first_request = None


async def _pieces(content: StreamReader, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    try:
        while piece := await _piece(content):
            size += len(piece)
            if size > limit:
                raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=size)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    finally:
        # What ends a request that breaks off refers to this frame, and the frame to it: without
        # this, what came of its body stays until Python looks for circles, which may be never.
        pieces.clear()


async def _piece(content: StreamReader) -> bytes:
    """What has come of a body since the last piece; empty at its end."""
    while True:
        try:
            piece = await asyncio.wait_for(content.readany(), PIECE_TIMEOUT_S)
        except asyncio.TimeoutError as error:
            raise web.HTTPRequestTimeout(text="the body stalled") from error
        if piece or content.at_eof():
            return piece


class Server(web.Server):
    """Makes a `Connection` for each client."""

    def __call__(self) -> Connection:
        """A connection, as asyncio asks for it."""
        return Connection(self)
