"""The aiohttp front end: an application of its own, or a sub-app under any prefix.

Answers are written as prepared bytes, because building aiohttp's own response costs more than
answering. Where the application, or one above it, listens to ``on_response_prepare`` or touches
the headers, the ordinary way is taken instead.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from time import perf_counter, time
from typing import Any, TypeVar
from urllib.parse import unquote

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractAccessLogger, AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDict

from durable_streams_core.errors import ProtocolError
from durable_streams_server.access.limits import Limiter
from durable_streams_server.engine.limits import Limits
from durable_streams_server.frontends.mount import Mount, Streams
from durable_streams_server.http import wire
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.handler import Handler
from durable_streams_server.http.messages import (
    AnyResponse,
    Live,
    Pending,
    RequestHead,
    Response,
    awaited,
    fold_headers,
    joined,
)
from durable_streams_server.http.observing import CLIENT_CLOSED_REQUEST, Observer
from durable_streams_server.http.options import Authorize, Options
from durable_streams_server.http.targets import (
    encode_path,
    parse_root,
    path_below,
    split_target,
)

_BEGUN_NAME = "durable_streams_begun"
_BEGUN: Any = web.RequestKey(_BEGUN_NAME, object) if hasattr(web, "RequestKey") else _BEGUN_NAME
"""What :meth:`_Front.expect` began, so that access is not asked for twice."""
_CALLER_NAME = "durable_streams_caller"
_CALLER: Any = web.RequestKey(_CALLER_NAME, object) if hasattr(web, "RequestKey") else _CALLER_NAME
_Result = TypeVar("_Result")
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_SERVER = b"server: " + SERVER_SOFTWARE.encode() + b"\r\n"

MOUNT: web.AppKey[Mount] = web.AppKey("durable_streams_mount", Mount)


def create_app(
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
) -> web.Application:
    """An application that serves streams under ``root`` of wherever it is mounted.

    ``streams`` is an :class:`Engine`, which stays yours to start and stop, or a store or its URL.
    With ``health``, ``/health`` and ``/ready`` beside ``root`` say how process and service are.
    The other arguments are those of :class:`Options`.
    Run it with ``handler_cancellation=True`` to see at once when a waiting client goes away.
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
    return application(Mount(streams, options, limits), parse_root(root, health=health))


def application(mount: Mount, root: str) -> web.Application:
    """The application over a mount; ``root`` has both slashes."""
    resource = _Everything()
    front = _Front(mount, root, resource)
    app = web.Application()
    app[MOUNT] = mount
    app.cleanup_ctx.append(front.lifetime)
    app.on_shutdown.append(front.shutdown)
    app.router.register_resource(resource)
    resource.add_route("*", front.handle, expect_handler=front.expect)
    return app


class _Everything(web.DynamicResource):
    """Every path of an application, below whatever the application is mounted on."""

    def __init__(self) -> None:
        # `.` alone would leave paths with an encoded line end to the router's own 404.
        super().__init__("/{path:(?s:.*)}")
        self.mount = ""
        """The mount's encoded path, without its last slash."""

    def add_prefix(self, prefix: str) -> None:
        encoded = encode_path(unquote(prefix))
        if "%" in encoded:
            raise ValueError(
                f"aiohttp's router finds no sub-application at {prefix!r}, because the path needs "
                "percent-encoding: mount the streams at another path."
            )
        super().add_prefix(prefix)
        self.mount = encoded + self.mount


class _Front:
    """Handles the requests of one application."""

    def __init__(self, mount: Mount, root: str, resource: _Everything) -> None:
        self._mount = mount
        self._handler = mount.handler
        self._root = root
        self._resource = resource

    async def lifetime(self, _app: web.Application) -> AsyncIterator[None]:
        async with self._mount.running():
            yield

    async def shutdown(self, _app: web.Application) -> None:
        """Drain live readers before aiohttp waits for handlers."""
        self._handler.close()

    async def expect(self, request: web.Request) -> web.StreamResponse | None:
        """Answer ``Expect: 100-continue`` only where the body will be read."""
        begun = await self._observed(request, self._permitted)
        if isinstance(begun, Response) or begun.verdict is not None:
            request[_BEGUN] = begun
            return await self.handle(request)
        request[_BEGUN] = begun
        if request.version == HttpVersion11 and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        response = await self._observed(request, self._respond)
        if self._mount.draining:
            response.force_close()
        return response

    async def _observed(
        self,
        request: web.Request,
        step: Callable[[web.Request, "_Caller | None"], Awaitable[_Result]],
    ) -> _Result:
        """Do a step of a request, and report the request if the step ends it without a response."""
        observer = self._handler.observer
        if observer is None:
            return await step(request, None)
        caller: _Caller | None = request.get(_CALLER)
        if caller is None:
            caller = request[_CALLER] = _Caller(request, observer)
        try:
            return await step(request, caller)
        except (asyncio.CancelledError, OSError):
            caller.report(CLIENT_CLOSED_REQUEST, 0)
            raise
        except BaseException:
            caller.report(500, 0)
            raise

    async def _respond(self, request: web.Request, caller: "_Caller | None") -> web.StreamResponse:
        begun: Response | Exchange | None = None
        if hdrs.EXPECT in request.headers:
            begun = request.get(_BEGUN)
        if begun is None:
            begun = await self._permitted(request, caller)
        response: Response | Live
        # A body that was not read ends the connection.
        final = request.can_read_body
        if isinstance(begun, Response):
            response = begun
        elif begun.verdict is not None:
            response = begun.verdict
        else:
            body = None
            if not (begun.takes_body and final):
                body = b""
            else:
                body = await _receive(request, begun)
            if body is None:
                response = self._handler.too_large(begun.request)
            else:
                final = False
                response = await _response_of(begun, body)
        if isinstance(response, Response):
            if caller is not None:
                caller.responded(response)
            return _final(response) if final else Prepared(response)
        return LiveResponse(response, caller)

    async def _permitted(
        self, request: web.Request, caller: "_Caller | None"
    ) -> Response | Exchange:
        """The exchange that may go on to the body or has its verdict, or the response."""
        try:
            if not self._mount.engine.started and self._below(request) is not None:
                await self._mount.ready()
            begun = self._begin(request)
        except ProtocolError as error:
            return self._handler.refuse(error)
        if isinstance(begun, Exchange):
            if caller is not None:
                caller.exchange = begun
            if begun.permission is not None:
                await begun.permission
        return begun

    def _below(self, request: web.Request) -> str | None:
        """The path below the root, None for one outside of it."""
        path, _ = split_target(request.raw_path)
        return path_below(path, self._resource.mount + self._root)

    def _begin(self, request: web.Request) -> Response | Exchange:
        path, query = split_target(request.raw_path)
        root = self._resource.mount + self._root
        below = path_below(path, root)
        if below is None:
            return self._handler.outside(request.method, path, root)
        return self._handler.begin(
            RequestHead(
                request.method,
                below,
                query,
                fold_headers(request.raw_headers),
                root=root,
                scheme=request.scheme,
                native=request,
            )
        )


async def _response_of(exchange: Exchange, body: bytes) -> Response | Live:
    response: AnyResponse = exchange.run_received(body)
    return await awaited(response) if isinstance(response, Pending) else response


class _Caller:
    """The sender of a request, and the observer that learns once how it ended."""

    def __init__(self, request: web.Request, observer: Observer) -> None:
        self._request = request
        self._observer: Observer | None = observer
        self._began = perf_counter()
        self.exchange: Exchange | None = None

    @property
    def method(self) -> str:
        return self._request.method

    @property
    def target(self) -> str:
        return self._request.raw_path

    @property
    def peer(self) -> str:
        return self._request.remote or ""

    def header(self, name: bytes) -> bytes | None:
        return joined(self._request.raw_headers, name)

    def responded(self, response: Response) -> None:
        """A complete response is about to be written."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            self.report(CLIENT_CLOSED_REQUEST, 0)
        else:
            head_only = self._request.method == "HEAD"
            self.report(response.status, 0 if head_only else len(response.body))

    def report(self, status: int, sent: int) -> None:
        """The request is over; only the first report counts."""
        observer, self._observer = self._observer, None
        if observer is not None:
            received = self._request.content.total_bytes
            observer.finished(self, status, received, sent, self._began)


class _Refused:
    """The sender of what aiohttp refused to take for a request."""

    exchange = None
    method = target = ""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request

    @property
    def peer(self) -> str:
        return self._request.remote or ""

    def header(self, name: bytes) -> bytes | None:
        """None: nobody could read its head."""


def refusals_of(handler: Handler) -> type[AbstractAccessLogger]:
    """An ``access_log_class`` for a runner of aiohttp's, which reports what aiohttp answers itself:
    a request that it cannot read never comes to an application.
    """

    class Refusals(AbstractAccessLogger):
        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
            observer = handler.observer
            if observer is not None and _CALLER not in request:
                observer.finished(_Refused(request), response.status, 0, 0, perf_counter() - time)

        @property
        def enabled(self) -> bool:
            return handler.observer is not None

    return Refusals


async def _receive(request: web.Request, exchange: Exchange) -> bytes | None:
    """The whole body, or None when it is larger than the limit; no more than that is kept."""
    content = request.content
    chunks: list[bytes] = []
    size = 0
    used = False
    try:
        while not content.at_eof():
            # A body that came whole needs no coroutine.
            chunk = content.read_nowait() if content.is_eof() else await content.readany()
            size += len(chunk)
            if size > exchange.max_body:
                return None
            chunks.append(chunk)
        used = True
    finally:
        if not used:
            exchange.leave_unused(size)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _final(response: Response) -> web.StreamResponse:
    """A response after which the connection ends, because the body was not read."""
    prepared = Prepared(response)
    prepared.force_close()
    return prepared


class _Date:
    """The Date header, made once a second."""

    second = 0
    line = b""


def _date_line() -> bytes:
    now = int(time())
    if now != _Date.second:
        _Date.second = now
        _Date.line = wire.date_line(now)
    return _Date.line


def _head_bytes(response: Response, framing: bytes) -> bytes:
    parts = (
        wire.STATUS_LINES[response.status],
        response.lines,
        framing,
        _date_line(),
        _SERVER,
        b"\r\n",
    )
    return b"".join(parts)


class Prepared(web.StreamResponse):
    """A response whose bytes are known: written in one piece, past aiohttp's own header work."""

    def __init__(self, response: Response) -> None:
        self._state = {}
        self._response = response
        self._status = response.status
        self._reason = _PHRASES[response.status]
        self._real: CIMultiDict[str] | None = None

    @property
    def _headers(self) -> CIMultiDict[str]:  # type: ignore[override]
        """Asked for only by middleware and signals, which may change them."""
        if self._real is None:
            self._real = CIMultiDict(
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in self._response.headers
            )
            if self._has_body_length():
                self._real["content-length"] = str(len(self._response.body))
        return self._real

    def _has_body_length(self) -> bool:
        return self._status not in (204, 304)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write head and body; raises ConnectionResetError if the client went away."""
        if self._eof_sent:
            return None
        if self._real is not None or _is_watched(request) or request.version != HttpVersion11:
            return await super().prepare(request)
        keep_alive = self._keep_alive
        if keep_alive is None:
            keep_alive = self._keep_alive = request.keep_alive
        body = b"" if request.method == "HEAD" else self._response.body
        framing = b"" if keep_alive else b"connection: close\r\n"
        if self._has_body_length() and request.method != "HEAD":
            framing += b"content-length: %d\r\n" % len(body)
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client went away")
        head = _head_bytes(self._response, framing)
        self._body_length = len(body)
        self._eof_sent = True
        if len(body) < 65536:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        if request.protocol.writing_paused:
            await request._payload_writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """End the response."""
        if self._eof_sent:
            return
        empty = self._must_be_empty_body
        await super().write_eof(data or (b"" if empty else self._response.body))


def _is_watched(request: web.BaseRequest) -> bool:
    match_info = getattr(request, "_match_info", None)
    if match_info is not None:
        for app in match_info.apps:
            if app.on_response_prepare:
                return True
    return False


class LiveResponse(web.StreamResponse):
    """A live response, pushed into the transport as it comes."""

    def __init__(self, live: Live, caller: _Caller | None) -> None:
        super().__init__(status=live.response.status)
        self._caller = caller
        for name, value in live.response.headers:
            self.headers.add(name.decode(), value.decode())
        self._live = live

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write the head, and push the live response to its end."""
        if self._eof_sent:
            return None
        status = CLIENT_CLOSED_REQUEST
        try:
            writer = await super().prepare(request)
            assert writer is not None
            status = self.status
            await _push(self._live, request, chunked=self.chunked or _is_chunked(self))
        except BaseException:
            self._live.gone()
            raise
        finally:
            if self._caller is not None:
                self._caller.report(status, self._live.sent)
        return writer


def _is_chunked(response: web.StreamResponse) -> bool:
    return response.headers.get("transfer-encoding") == "chunked"


async def _push(live: Live, request: web.BaseRequest, *, chunked: bool) -> None:
    """Attach the transport to the live response and stay until one of them ends."""
    sink = _TransportSink(request, chunked=chunked)
    live.attach(sink)
    while not sink.ended:
        await sink.changed.wait()
        sink.changed.clear()
        if sink.lost:
            live.gone()
            raise ConnectionResetError("the client went away")
        if sink.full and not sink.ended:
            await request._payload_writer.drain()
            sink.full = False
            live.drained()


class _TransportSink:
    """Frames as HTTP chunks, straight into the transport."""

    __slots__ = ("_chunked", "_request", "changed", "ended", "full", "lost")

    def __init__(self, request: web.BaseRequest, *, chunked: bool) -> None:
        self._request = request
        self._chunked = chunked
        self.changed = asyncio.Event()
        self.ended = self.full = self.lost = False

    def write(self, frame: bytes) -> bool:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            self.lost = True
            self.changed.set()
            return False
        if self._chunked:
            frame = wire.chunk(frame)
        transport.write(frame)
        if self._request.protocol._paused:
            self.full = True
            self.changed.set()
            return False
        return True

    def end(self) -> None:
        self.ended = True
        self.changed.set()
