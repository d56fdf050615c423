"""One request to an ASGI application in this process, and its response.

The application runs in an event loop, and its client may be in another thread. So both sides of an
exchange meet under a mutex and wake each other. The bytes between them are bounded: the side that
is ahead waits for the other, as over a connection.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final, TypeAlias

import httpx

logger = logging.getLogger("durable_streams_client")

Message: TypeAlias = MutableMapping[str, Any]
App: TypeAlias = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[Message]],
        Callable[[Message], Awaitable[None]],
    ],
    Awaitable[None],
]
"""An ASGI 3 application."""

HIGH_WATER: Final = 256 * 1024
"""Bytes that may wait between the two sides, in each direction; one piece may be larger."""

NO_BODY: Final = frozenset({204, 304})


def is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this thread is in a turn of that loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


class Exchange:
    """A request and its response.

    The application's side is :meth:`run`, in its loop. All other methods are for the client's side,
    in any thread, and never wait. ``changed`` is called in the application's loop whenever there is
    something new for the client.
    """

    def __init__(
        self, scope: dict[str, Any], loop: asyncio.AbstractEventLoop, changed: Callable[[], None]
    ) -> None:
        self.scope = scope
        self.status: int | None = None
        """Status of the response, once its head is there."""
        self.headers: list[tuple[bytes, bytes]] = []
        self.ended = False
        """Whether there is nothing more to come, apart from what waits to be taken."""
        self.fault: str | None = None
        """Why the response is not whole, if it ended too early."""
        self.unsent = False
        """Whether the application could not be asked at all."""
        self._loop = loop
        self._changed = changed
        self._mutex = threading.Lock()
        self._for_app = asyncio.Event()
        """Set when something changed for the application's side."""
        self._request: deque[bytes] = deque()
        self._request_size = 0
        self._request_whole = False
        self._request_told = False
        self._response: deque[bytes] = deque()
        self._response_size = 0
        self._left: int | None = None
        """Bytes that the response's ``Content-Length`` still promises."""
        self._gone = False

    # The side of the client.

    @property
    def loop_has_ended(self) -> bool:
        """Whether the application's event loop is closed, so that nothing will happen any more."""
        return self._loop.is_closed()

    @property
    def takes_more(self) -> bool:
        """Whether the next piece of the request's body may be offered, or need not be any more."""
        return self._request_size < HIGH_WATER or self.ended

    def offer(self, piece: bytes) -> None:
        """Add a piece to the request's body."""
        with self._mutex:
            self._request.append(piece)
            self._request_size += len(piece)
        self._wake_app()

    def end_request(self) -> None:
        """Say that the request's body is complete."""
        self._request_whole = True
        self._wake_app()

    @property
    def readable(self) -> bool:
        """Whether there is something to take, or the end."""
        return bool(self._response) or self.ended

    def take(self) -> bytes | None:
        """The part of the response's body that has come, or None at its end; see ``fault`` then."""
        with self._mutex:
            if not self._response and self.ended:
                return None
            data = b"".join(self._response)
            self._response.clear()
            self._response_size = 0
        self._wake_app()
        return data

    def leave(self) -> None:
        """Go away before the end: the application gets a disconnect."""
        with self._mutex:
            self._response.clear()
            self._response_size = 0
            if not self.ended:
                self._gone = True
                self._end("the connection was closed")
        self._wake_app()
        self._call(self._changed)

    def _wake_app(self) -> None:
        self._call(self._for_app.set)

    def _call(self, function: Callable[[], None]) -> None:
        """Call a function in the application's loop, at once if this is that loop."""
        if is_running(self._loop):
            function()
            return
        with suppress(RuntimeError):  # the loop is closed, and the application has ended with it
            self._loop.call_soon_threadsafe(function)

    # The side of the application.

    async def run(self, app: App) -> None:
        """Have the application answer; raises nothing that it raises, as no server does."""
        try:
            await app(self.scope, self._receive, self._send)
        except Exception:
            if not self._gone:
                logger.exception("the application failed at %s", self.scope["path"])
        except BaseException:
            self.fail("the application was stopped")
            raise
        self._finish()

    def fail(self, fault: str, *, unsent: bool = False) -> None:
        """End the response early, if it has not ended."""
        with self._mutex:
            if not self.ended:
                self.unsent = unsent
                self._end(fault)
        self._changed()

    def _finish(self) -> None:
        """Do what a server does for an application that has returned."""
        with self._mutex:
            if self.ended:
                return
            if self.status is not None:
                self._end("the application ended before its response did")
            else:
                text = b"Internal Server Error"
                self.status = 500
                self.headers = [
                    (b"content-type", b"text/plain; charset=utf-8"),
                    (b"content-length", b"%d" % len(text)),
                ]
                self._response.append(text)
                self._end(None)
        self._changed()

    def _end(self, fault: str | None) -> None:
        self.ended = True
        self.fault = fault

    async def _receive(self) -> Message:
        while True:
            self._for_app.clear()
            with self._mutex:
                if self._gone or (self.ended and self._request_told):
                    return {"type": "http.disconnect"}
                if self._request or (self._request_whole and not self._request_told):
                    return self._next_request()
            await self._for_app.wait()

    def _next_request(self) -> Message:
        body = self._request.popleft() if self._request else b""
        self._request_size -= len(body)
        more = bool(self._request) or not self._request_whole
        self._request_told = not more
        self._changed()
        return {"type": "http.request", "body": body, "more_body": more}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._gone:
            raise OSError("The client has gone away.")
        if kind == "http.response.start" and self.status is None:
            self._start(message)
        elif kind == "http.response.body" and self.status is not None and not self.ended:
            self._add(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")
        self._changed()
        while self._response_size >= HIGH_WATER and not self._gone:
            self._for_app.clear()
            await self._for_app.wait()

    def _start(self, message: Message) -> None:
        headers = [(name.lower(), value) for name, value in message.get("headers", ())]
        length = dict(headers).get(b"content-length")
        status = message["status"]
        self._left = None if length is None else int(length)
        if self._is_bare(status):
            self._left = None
        elif length is None and b"transfer-encoding" not in dict(headers):
            # A server adds it, and by it a client knows that a body is whole.
            headers.append((b"transfer-encoding", b"chunked"))
        self.headers = headers
        self.status = status

    def _is_bare(self, status: int | None) -> bool:
        return self.scope["method"] == "HEAD" or status in NO_BODY

    def _add(self, data: bytes, *, more: bool) -> None:
        if self._is_bare(self.status):
            data = b""
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body is not as long as its content-length says")
        with self._mutex:
            if data and not self._gone:
                self._response.append(bytes(data))
                self._response_size += len(data)
            if not more and not self.ended:
                self._end(None)


class ExchangeStream:
    """What ends an exchange while another thread waits for it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def get_extra_info(self, info: str) -> Any:
        """None, because an exchange does not have a socket."""
        return None

    def close(self) -> None:
        """End it."""
        self._exchange.leave()


def refusal_of(exchange: Exchange) -> Exception:
    """The exception of httpx for a request that ended without a response."""
    if exchange.unsent:  # a repeat would end the same way
        return httpx.LocalProtocolError(exchange.fault or "")
    return httpx.RemoteProtocolError(exchange.fault or "there is no response")
