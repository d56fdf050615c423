"""ASGI applications that show what a transport does with them."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

SECONDS = 60

CALLER: Final = ContextVar("CALLER", default="")
"""Whatever the caller of a client has set."""


async def respond(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def body_of(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            return body


class Recorder:
    """Echoes requests, and keeps what it was told; ``events`` may be waited for in any thread."""

    def __init__(self) -> None:
        self.scopes: list[Message] = []
        self.lifespan: list[str] = []
        self.callers: list[tuple[str, str]] = []
        """The type of each scope, and who called."""
        self.sent = 0
        """Bytes that the transport took."""
        self.asked = threading.Event()
        """Set when a request has been read."""
        self.left = threading.Event()
        """Set when a client has gone away."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.callers.append((scope["type"], CALLER.get()))
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        answer = getattr(self, "_" + scope["path"].strip("/").split("/", maxsplit=1)[0])
        await answer(scope, receive, send)

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        self.lifespan.append((await receive())["type"])
        scope["state"]["pool"] = "open"
        await send({"type": "lifespan.startup.complete"})
        self.lifespan.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    async def _echo(self, scope: Message, receive: Receive, send: Send) -> None:
        await respond(send, 200, await body_of(receive), (b"X-Method", scope["method"].encode()))

    async def _silence(self, scope: Message, receive: Receive, send: Send) -> None:
        await body_of(receive)
        self.asked.set()
        await self._watch(receive)

    async def _ticks(self, scope: Message, receive: Receive, send: Send) -> None:
        """One piece, and then nothing until the client goes away."""
        await body_of(receive)
        self.asked.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"tick", "more_body": True})
        await self._watch(receive)

    async def _flood(self, scope: Message, receive: Receive, send: Send) -> None:
        """Never stops sending."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                piece = {"type": "http.response.body", "body": b"x" * 10_000, "more_body": True}
                await send(piece)
                self.sent += 10_000
        except OSError:
            self.left.set()

    async def _deaf(self, scope: Message, receive: Receive, send: Send) -> None:
        """Reads nothing until it is stopped."""
        await asyncio.Event().wait()

    async def _refuse(self, scope: Message, receive: Receive, send: Send) -> None:
        """Responds before it has read the request."""
        await respond(send, 413, b"too large")

    async def _fail(self, scope: Message, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    async def _halfway(self, scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ZeroDivisionError

    async def _short(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"9")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"half"})

    async def _watch(self, receive: Receive) -> None:
        assert (await receive())["type"] == "http.disconnect"
        self.left.set()


async def with_no_lifespan(scope: Message, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    await respond(send, 200, b"fine")


async def that_does_not_start(scope: Message, receive: Receive, send: Send) -> None:
    assert scope["type"] == "lifespan"
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
