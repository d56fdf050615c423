"""How the sync client reaches the network: httpx over sockets that can be interrupted.

httpcore lets its network be replaced. Ours is its own, plus two things: every wait is known to
the reader it belongs to, so that another thread can end it, and is shortened to the time limit of
the call around it. Reads take as much as has come, so that catching up costs few system calls, and
head and body of a small request leave together, when the answer is waited for.

An httpx client that is handed in keeps its own connections: a cancelled reader then notices at the
next byte or when its time limit ends.
"""

import ssl
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

from durable_streams_client import forking
from durable_streams_client._sync.runtime import current_scope, remaining

READ_BYTES = 256 * 1024
SMALL_BYTES = 64 * 1024


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._socket = stream.get_extra_info("socket")
        self._unsent = b""
        forking.register(self)

    def after_fork(self) -> None:
        forking.close_descriptor(self._socket.fileno())
        forking.keep(self)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._unsent:
            self._send(b"", timeout)
        timeout = remaining(timeout)
        scope = current_scope()
        if scope is None:
            return self._stream.read(max(max_bytes, READ_BYTES), timeout)
        scope.watch(self._socket)
        try:
            return self._stream.read(max(max_bytes, READ_BYTES), timeout)
        finally:
            scope.watch(None)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if len(self._unsent) + len(buffer) <= SMALL_BYTES:
            self._unsent += buffer
        else:
            self._send(buffer, timeout)

    def _send(self, buffer: bytes, timeout: float | None) -> None:
        unsent, self._unsent = self._unsent, b""
        scope = current_scope()
        if scope is not None:
            scope.watch(self._socket)
        try:
            for part in (unsent, buffer):
                if part:
                    self._stream.write(part, remaining(timeout))
        finally:
            if scope is not None:
                scope.watch(None)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, remaining(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    def __init__(self) -> None:
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(
            self._backend.connect_tcp(host, port, remaining(timeout), local_address, socket_options)
        )

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._backend.connect_unix_socket(path, remaining(timeout), socket_options))


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._response.iter_stream())

    def close(self) -> None:
        self._response.close()


class SocketTransport(httpx.BaseTransport):
    """An httpx transport over httpcore with our network. Exceptions of httpcore pass through:
    they have the names of those of httpx, and :mod:`~durable_streams_client.faults` knows them.
    """

    def __init__(self, *, context: ssl.SSLContext, http2: bool, max_idle: int) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=None,
            max_keepalive_connections=max_idle,
            keepalive_expiry=4.0,
            http1=True,
            http2=http2,
            network_backend=_Backend(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        assert isinstance(request.stream, httpx.SyncByteStream)
        response = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._pool.close()


def make_http(
    *, http2: bool, verify: ssl.SSLContext | bool, transport: httpx.BaseTransport | None
) -> httpx.Client:
    """An httpx client of the client's own. Proxies named in the environment are honoured."""
    if transport is not None:
        return httpx.Client(transport=transport, timeout=None)  # noqa: S113
    context = httpx.create_ssl_context(verify=verify) if isinstance(verify, bool) else verify
    return httpx.Client(
        mounts={"all://": SocketTransport(context=context, http2=http2, max_idle=100)},
        verify=context,
        http2=http2,
        timeout=None,  # noqa: S113 - every request carries its own
    )
