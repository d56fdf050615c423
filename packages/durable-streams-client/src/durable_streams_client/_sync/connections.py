"""How the sync client reaches the network: httpcore over sockets that can be interrupted.

httpcore lets its network be replaced. Ours is httpcore's own, plus two things: every wait belongs
to a scope, so that another thread can end it, and is shortened to the time limit of the call around
it. Reads take as much as has come, so that catching up costs few system calls, and head and body of
a small request leave together, when the answer is waited for.
"""

import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import httpcore

from durable_streams_client import forking
from durable_streams_client._sync.runtime import current_scope, remaining

READ_BYTES = 256 * 1024
SMALL_BYTES = 64 * 1024


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self._socket = stream.get_extra_info("socket")
        self._unsent = b""
        forking.register(self, _Stream.after_fork)

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
            scope.watch()

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
                scope.watch()

    def cut(self) -> None:
        """End the connection; a thread that reads from it returns."""
        with suppress(OSError):
            # The method of the plain socket: that of a TLS socket is not for two threads.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

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


class Backend(httpcore.NetworkBackend):
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
