"""The ASGI front end, for FastAPI, Starlette, Litestar, Django and any ASGI server.

A mounted app gets no lifespan, so an owned engine starts with the first request; where there is a
lifespan it is used. A client that goes away is seen at once.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from time import perf_counter
from typing import Any

from durable_streams_core.errors import ProtocolError, StoreError
from durable_streams_server.access.limits import Limiter
from durable_streams_server.engine.limits import Limits
from durable_streams_server.frontends.asgi_scope import locate
from durable_streams_server.frontends.mount import Mount, Streams
from durable_streams_server.http import names
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.headers import NO_STORE
from durable_streams_server.http.messages import (
    Live,
    Pending,
    RequestHead,
    Response,
    drop,
    fold_headers,
    joined,
)
from durable_streams_server.http.observing import CLIENT_CLOSED_REQUEST
from durable_streams_server.http.options import Authorize, Options
from durable_streams_server.http.targets import encode_path, parse_root, path_below

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

UNWATCHED_SECONDS = 0.02
"""How long a request is waited for before a task watches whether its client went away: most commits
take less."""

MAX_UNSENT_BYTES = 256 * 1024
"""Frames that may wait for the server to take them before a live reader falls behind."""


def create_asgi(
    streams: Streams,
    *,
    root: str = "/",
    limits: Limits | None = None,
    authorize: Authorize | None = None,
    limiter: Limiter | None = None,
    token: str | None = None,
    cors_origins: tuple[str, ...] = ("*",),
    cors_headers: tuple[str, ...] = (),
    cors_credentials: bool = False,
    console: bool = False,
    public: bool = False,
    public_url: str | None = None,
    max_body: int = 32 * 1024 * 1024,
    max_path: int = 1024,
    long_poll_timeout: float = 30.0,
    sse_rotation: float = 60.0,
    sse_keep_alive: float = 15.0,
    sse_retry: float = 1.0,
    compress: bool = True,
    health: bool = False,
) -> "AsgiApp":
    """An ASGI app that serves streams under ``root`` of wherever it is mounted.

    ``streams`` is an :class:`Engine`, which stays yours to start and stop, or a store or its URL.
    With ``health``, ``/health`` and ``/ready`` beside ``root`` say how process and service are.
    The other arguments are those of :class:`Options`.
    """
    options = Options(
        authorize=authorize,
        limiter=limiter,
        token=token,
        cors_origins=cors_origins,
        cors_headers=cors_headers,
        cors_credentials=cors_credentials,
        console=console,
        public=public,
        public_url=public_url,
        max_body=max_body,
        max_path=max_path,
        long_poll_timeout=long_poll_timeout,
        sse_rotation=sse_rotation,
        sse_keep_alive=sse_keep_alive,
        sse_retry=sse_retry,
        compress=compress,
        health=health,
    )
    return AsgiApp(Mount(streams, options, limits), parse_root(root, health=health))


class AsgiApp:
    """An ASGI 3 application."""

    def __init__(self, mount: Mount, root: str) -> None:
        self.mount = mount
        """The engine that the app serves and the handler over it."""
        self._handler = mount.handler
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan of an engine that the app owns (ASGI 3)."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003})

    async def close(self) -> None:
        """Drain live readers, and stop the engine if the app owns it."""
        await self.mount.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            if self.mount.owned:
                await self.mount.engine.start()
        except StoreError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.mount.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = _Client(receive, send, scope)
        observer = self._handler.observer
        if observer is None:
            await self._serve(scope, client)
            return
        began = perf_counter()
        try:
            await self._serve(scope, client)
        except OSError:
            raise
        except Exception:
            # The server says so to the client.
            client.failed()
            raise
        finally:
            observer.finished(client, client.status, client.received, client.sent, began)

    async def _serve(self, scope: Scope, client: "_Client") -> None:
        try:
            if not self.mount.engine.started and self._below(scope) is not None:
                await self.mount.ready()
            begun = self._begin(scope)
        except ProtocolError as error:
            begun = self._handler.refuse(error)
        if isinstance(begun, Response):
            await client.respond(begun)
        else:
            await self._exchange(begun, client)

    def _below(self, scope: Scope) -> str | None:
        """The path below the root, None for one outside of it."""
        return path_below(locate(scope)[0], self._root)

    def _begin(self, scope: Scope) -> Response | Exchange:
        path, mount = locate(scope)
        root = mount + self._root
        below = path_below(path, self._root)
        if below is None:
            return self._handler.outside(scope["method"], path, root)
        return self._handler.begin(
            RequestHead(
                scope["method"],
                below,
                scope.get("query_string", b"").decode("latin-1"),
                fold_headers(scope["headers"]),
                root=root,
                scheme=scope.get("scheme", "http"),
                native=scope,
            )
        )

    async def _exchange(self, exchange: Exchange, client: "_Client") -> None:
        client.exchange = exchange
        if exchange.permission is not None:
            await exchange.permission
        if exchange.verdict is not None:
            await client.respond(exchange.verdict)
            return
        body = await client.body(exchange.max_body) if exchange.takes_body else b""
        if body is None:
            exchange.leave_unused(client.received)
            await client.respond(self._handler.too_large(exchange.request))
            return
        if client.gone:
            exchange.leave_unused(client.received)
            await client.respond_to_nobody()
            return
        response = exchange.run_received(body)
        if isinstance(response, Pending):
            resolved = await client.wait(response)
            if resolved is None:
                await client.respond_to_nobody()
                return
            response = resolved
        if isinstance(response, Response):
            await client.respond(response)
        else:
            await client.stream(response)


class _Client:
    """One request's two channels, and what became of it."""

    __slots__ = (
        "_complete", "_receive", "_scope", "_send", "exchange", "gone", "method", "received",
        "sent", "status",
    )  # fmt: skip

    def __init__(self, receive: Receive, send: Send, scope: Scope) -> None:
        self._receive = receive
        self._send = send
        self._scope = scope
        self.method: str = scope["method"]
        self.exchange: Exchange | None = None
        self.status = CLIENT_CLOSED_REQUEST
        """The status that was sent."""
        self.received = self.sent = 0
        """Bytes of the two bodies so far."""
        self._complete = self.method not in ("POST", "PUT")
        """Whether no more of a body is to come that the next request has to wait for."""
        self.gone = False

    def failed(self) -> None:
        """An error that nobody expected ended the request."""
        if self.status == CLIENT_CLOSED_REQUEST:
            self.status = 500

    @property
    def target(self) -> str:
        raw: bytes | None = self._scope.get("raw_path")
        path = encode_path(self._scope["path"]) if raw is None else raw.decode("latin-1")
        query = self._scope.get("query_string", b"").decode("latin-1")
        # Some servers leave the query in the raw path.
        return f"{path.partition('?')[0]}?{query}" if query else path

    @property
    def peer(self) -> str:
        client = self._scope.get("client")
        return str(client[0]) if client else ""

    def header(self, name: bytes) -> bytes | None:
        return joined(self._scope["headers"], name)

    async def body(self, limit: int) -> bytes | None:
        """The whole body, or None when it is larger than the limit; no more than that is kept."""
        chunks: list[bytes] = []
        size = 0
        while not self._complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                return b""
            chunk = message.get("body", b"")
            size += len(chunk)
            self.received = size
            if size > limit:
                return None
            if chunk:
                chunks.append(chunk)
            self._complete = not message.get("more_body", False)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def respond(self, response: Response) -> None:
        body = b"" if self.method == "HEAD" else response.body
        # A copy, because middleware may change what it is given.
        headers = list(response.headers)
        if response.status not in (204, 304) and self.method != "HEAD":
            headers.append((names.CONTENT_LENGTH, b"%d" % len(body)))
        if not self._complete:
            headers.append((names.CONNECTION, b"close"))
        await self._send(
            {"type": "http.response.start", "status": response.status, "headers": headers}
        )
        self.status = response.status
        await self._send({"type": "http.response.body", "body": body})
        self.sent = len(body)

    async def respond_to_nobody(self) -> None:
        """End the request of a client that went away before its response.

        The server drops this response. Middleware takes an application that returns without one
        for a broken one, and so does Starlette's ``BaseHTTPMiddleware``.
        """
        with suppress(OSError):
            await self._send(
                {
                    "type": "http.response.start",
                    "status": CLIENT_CLOSED_REQUEST,
                    "headers": [NO_STORE],
                }
            )
            await self._send({"type": "http.response.body", "body": b""})

    async def _disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def wait(self, pending: Pending) -> Response | Live | None:
        """The pending response, or None if the client went away first."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Response | Live | None] = loop.create_future()
        watch: asyncio.Task[None] | None = None

        def resolve(response: Response | Live) -> None:
            if outcome.done():
                drop(response)
            else:
                outcome.set_result(response)

        def lose(_watch: object) -> None:
            if not outcome.done():
                pending.cancel()
                outcome.set_result(None)

        def begin_watch() -> None:
            nonlocal watch
            watch = asyncio.create_task(self._disconnected())
            watch.add_done_callback(lose)

        pending.then(resolve)
        timer = loop.call_later(UNWATCHED_SECONDS, begin_watch)
        try:
            return await outcome
        except asyncio.CancelledError:
            pending.cancel()
            if not outcome.cancelled():
                # It came, and before this could go on nobody wanted it any more.
                lost = outcome.result()
                if lost is not None:
                    drop(lost)
            raise
        finally:
            timer.cancel()
            if watch is not None:
                watch.cancel()

    async def stream(self, live: Live) -> None:
        """Push a live response until it ends or the client goes away."""
        sink = _QueueSink()
        watch: asyncio.Task[None] | None = None
        try:
            await self._send(
                {
                    "type": "http.response.start",
                    "status": live.response.status,
                    "headers": live.response.headers,
                }
            )
            self.status = live.response.status
            watch = asyncio.create_task(self._disconnected())
            watch.add_done_callback(sink.lose)
            live.attach(sink)
            while not sink.lost:
                await sink.changed.wait()
                sink.changed.clear()
                frames = sink.take()
                if frames and not sink.lost:
                    await self._send(
                        {"type": "http.response.body", "body": frames, "more_body": True}
                    )
                if sink.ended and not sink.frames:
                    await self._send({"type": "http.response.body", "body": b""})
                    return
                if sink.full:
                    sink.full = False
                    live.drained()
        finally:
            live.gone()
            self.sent = live.sent
            if watch is not None:
                watch.cancel()


class _QueueSink:
    """Frames that wait for the server to take them, never more than a bound."""

    __slots__ = ("_size", "changed", "ended", "frames", "full", "lost")

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.changed = asyncio.Event()
        self.ended = self.full = self.lost = False
        self._size = 0

    def write(self, frame: bytes) -> bool:
        self.frames.append(frame)
        self._size += len(frame)
        self.changed.set()
        if self._size >= MAX_UNSENT_BYTES:
            self.full = True
        return not self.full

    def end(self) -> None:
        self.ended = True
        self.changed.set()

    def lose(self, _task: object) -> None:
        self.lost = True
        self.changed.set()

    def take(self) -> bytes:
        frames = b"".join(self.frames)
        self.frames.clear()
        self._size = 0
        return frames
