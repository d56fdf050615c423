"""Connections to servers, each used by one request at a time.

This holds for every route, direct or through a proxy, and for HTTP/2 too. So a request can be cut
off without harm to another, no request waits for another, and a live reader has its connection to
itself. Only idle connections are kept in a collection; the cost of a request does not grow with
the number of requests under way.
"""

import ssl
from collections import deque
from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import TypeAlias
from urllib.request import getproxies

import httpcore
import httpx

from durable_streams_client._async import runtime
from durable_streams_client._async.connections import Backend
from durable_streams_client.errors import InvalidArgument
from durable_streams_client.proxies import Proxies, Proxy

IDLE_SECONDS = 4.0
"""Below the keep-alive limits of common servers; the shortest is 5 s."""
MAX_IDLE = 100
SAFE_METHODS = frozenset({b"GET", b"HEAD"})

Server: TypeAlias = tuple[bytes, bytes, int]
"""Scheme, host and port."""


class AsyncPoolResponse:
    """A response whose head has come; what it has is named as in httpx."""

    is_stream_consumed = False

    def __init__(
        self,
        response: httpcore.Response,
        pool: "AsyncPool",
        connection: httpcore.AsyncConnectionInterface,
        server: Server,
    ) -> None:
        self.status_code = response.status
        self.headers = _headers(response.headers)
        self.extensions = response.extensions
        self._response = response
        self._pool = pool
        self._connection = connection
        self._server = server
        self._whole = False
        self._closed = False

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """The body as it comes, before content codings are undone."""
        async for chunk in self._response.aiter_stream():
            yield chunk
        self._whole = True

    async def aclose(self) -> None:
        """Give the connection back; it is used again if the response was read to its end."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._response.aclose()
        except BaseException:
            await self._connection.aclose()
            raise
        finally:
            self._pool.discard(self)
        await self._pool.give_back(self._connection, self._server, whole=self._whole)

    def cut(self) -> None:
        """End the connection under a response that somebody may be reading."""
        self.extensions["network_stream"].cut()


class AsyncPool:
    """The connections of one client in one process and event loop."""

    def __init__(self, *, verify: ssl.SSLContext | bool, http2: bool) -> None:
        if http2 and find_spec("h2") is None:
            raise ImportError(
                "HTTP/2 needs the package h2: pip install 'durable-streams-client[http2]'"
            )
        self._verify = verify
        self._http2 = http2
        self._proxies = Proxies.of(getproxies())
        self._makers: dict[tuple[Proxy | None, bool], httpcore.AsyncConnectionPool] = {}
        """By route, and whether the server is reached over TLS."""
        self._idle: dict[httpcore.AsyncConnectionInterface, Server] = {}
        """Oldest first."""
        self._by_server: dict[Server, deque[httpcore.AsyncConnectionInterface]] = {}
        self._busy: set[AsyncPoolResponse] = set()
        self._mutex = runtime.Mutex()
        self._closed = False

    async def send(self, request: httpcore.Request) -> AsyncPoolResponse:
        """Send a request and return its response as soon as the head has come."""
        origin = request.url.origin
        server = origin.scheme, origin.host, origin.port
        idle = await self._take(server)
        if idle is not None:
            try:
                return await self._send(request, idle, server)
            except (httpcore.NetworkError, httpcore.RemoteProtocolError):
                # The server may have closed the idle connection while the request was on its way.
                if request.method not in SAFE_METHODS:
                    raise
        return await self._send(request, self._make(origin), server)

    async def _send(
        self,
        request: httpcore.Request,
        connection: httpcore.AsyncConnectionInterface,
        server: Server,
    ) -> AsyncPoolResponse:
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            await connection.aclose()
            raise
        pooled = AsyncPoolResponse(response, self, connection, server)
        self._busy.add(pooled)
        return pooled

    async def _take(self, server: Server) -> httpcore.AsyncConnectionInterface | None:
        """The idle connection that was used last, if there is one that still works."""
        while True:
            with self._mutex:
                stack = self._by_server.get(server)
                if not stack:
                    return None
                connection = stack.pop()
                del self._idle[connection]
                if not stack:
                    del self._by_server[server]
            if not connection.has_expired():
                return connection
            await connection.aclose()

    async def give_back(
        self, connection: httpcore.AsyncConnectionInterface, server: Server, *, whole: bool
    ) -> None:
        """Keep a connection for another request, or close it."""
        # Over HTTP/2 the rest of a response that was not read to its end is still to come.
        if not (whole and connection.is_idle() and connection.is_available()) or self._closed:
            await connection.aclose()
            return
        surplus = []
        with self._mutex:
            self._idle[connection] = server
            self._by_server.setdefault(server, deque()).append(connection)
            while len(self._idle) > MAX_IDLE or self._oldest_has_expired():
                surplus.append(self._pop_oldest())
        for old in surplus:
            await old.aclose()

    def discard(self, response: AsyncPoolResponse) -> None:
        """A response is done with."""
        self._busy.discard(response)

    def _oldest_has_expired(self) -> bool:
        oldest = next(iter(self._idle), None)
        return oldest is not None and oldest.has_expired()

    def _pop_oldest(self) -> httpcore.AsyncConnectionInterface:
        oldest = next(iter(self._idle))
        server = self._idle.pop(oldest)
        stack = self._by_server[server]
        stack.remove(oldest)
        if not stack:
            del self._by_server[server]
        return oldest

    def _make(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        """A connection by the route that the environment names; it opens at its first request."""
        scheme, host = origin.scheme.decode(), origin.host.decode()
        proxy = self._proxies.find(scheme, host, origin.port)
        route = proxy, scheme == "https"
        maker = self._makers.get(route)
        if maker is None:
            maker = self._makers[route] = httpcore.AsyncConnectionPool(
                ssl_context=self._tls_context() if scheme == "https" else None,
                proxy=None if proxy is None else self._described(proxy),
                keepalive_expiry=IDLE_SECONDS,
                http2=self._http2,
                network_backend=Backend(),
            )
        try:
            return maker.create_connection(origin)
        except ImportError as error:
            raise InvalidArgument(
                "a SOCKS proxy is named in the environment, and the package for it is missing",
                advice="pip install 'durable-streams-client[socks]', or set NO_PROXY.",
            ) from error

    def _described(self, proxy: Proxy) -> httpcore.Proxy:
        secure = proxy.url.startswith("https:")
        return httpcore.Proxy(
            proxy.url, auth=proxy.auth, ssl_context=self._tls_context() if secure else None
        )

    def _tls_context(self) -> ssl.SSLContext:
        """The context for TLS, made when it is first needed: reading the certificates is slow."""
        if isinstance(self._verify, bool):
            self._verify = httpx.create_ssl_context(verify=self._verify)
        return self._verify

    async def aclose(self) -> None:
        """Close what is idle, and end the connections under responses that are being read."""
        self._closed = True
        with self._mutex:
            idle = list(self._idle)
            self._idle.clear()
            self._by_server.clear()
        for response in list(self._busy):
            response.cut()
        for connection in idle:
            await connection.aclose()


def _headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by lower-case name; those that are repeated are joined, as HTTP has it."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1").lower(), _text(value)
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
