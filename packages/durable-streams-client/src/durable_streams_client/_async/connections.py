"""How the async client reaches the network: httpcore over plain asyncio connections.

httpcore lets its network be replaced. Ours is asyncio without a layer between: what arrives is
handed on in the pieces it was received in, up to 256 KiB at a time, so that catching up is fast and
a small response costs few steps. A connection that is not read from stops receiving at 1 MiB. Head
and body of a small request leave together, when the response is waited for.
"""

import asyncio
import ipaddress
import ssl
from collections import deque
from collections.abc import Iterable
from typing import Any, cast

import httpcore

from durable_streams_client import forking

HIGH_WATER = 1024 * 1024
SMALL_BYTES = 64 * 1024


class _Protocol(asyncio.Protocol):
    """Collects what arrives until it is asked for."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.received: deque[bytes] = deque()
        self.held = 0
        self.ended = False
        self.error: Exception | None = None
        self._paused = False
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self.full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A loop need not derive its transports from asyncio's; uvloop does not.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received.append(data)
        self.held += len(data)
        if self.held > HIGH_WATER and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self.ended = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = True
        self.error = self.error or error
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self._writing is not None and not self._writing.done():
            self._writing.set_result(None)

    def _wake(self) -> None:
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)

    async def readable(self) -> None:
        self._reading = asyncio.get_running_loop().create_future()
        try:
            await self._reading
        finally:
            self._reading = None

    async def writable(self) -> None:
        while self.full and not self.ended:
            self._writing = asyncio.get_running_loop().create_future()
            try:
                await self._writing
            finally:
                self._writing = None

    def take(self) -> bytes:
        data = self.received.popleft()
        self.held -= len(data)
        if self._paused and self.held <= HIGH_WATER // 2 and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        return data


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, transport: asyncio.Transport, protocol: _Protocol) -> None:
        self._transport = transport
        self._protocol = protocol
        self._unsent = b""
        forking.register(self, _Stream.after_fork)

    def after_fork(self) -> None:
        own = self._transport.get_extra_info("socket")
        if own is not None:  # uvloop's transports have none once they are closed
            forking.close_descriptor(own.fileno())
        forking.keep(self)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """The next bytes as they were received; ``max_bytes`` is ignored."""
        protocol = self._protocol
        if self._unsent:
            await self._send(b"", timeout)
        if not protocol.received and not protocol.ended:
            try:
                async with asyncio.timeout(timeout):
                    await protocol.readable()
            except TimeoutError as error:
                raise httpcore.ReadTimeout(f"no data for {timeout} s") from error
        if protocol.received:
            return protocol.take()
        if protocol.error is not None:
            raise httpcore.ReadError(str(protocol.error)) from protocol.error
        return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._transport.is_closing():
            raise httpcore.WriteError("the connection is closed") from self._protocol.error
        if len(self._unsent) + len(buffer) <= SMALL_BYTES:
            self._unsent += buffer
        else:
            await self._send(buffer, timeout)

    async def _send(self, buffer: bytes, timeout: float | None) -> None:
        protocol = self._protocol
        unsent, self._unsent = self._unsent, b""
        if self._transport.is_closing():  # uvloop refuses a write then, with an error of its own
            raise httpcore.WriteError("the connection is closed") from protocol.error
        if unsent:
            self._transport.write(unsent)
        if buffer:
            self._transport.write(buffer)
        if not protocol.full:
            return
        try:
            async with asyncio.timeout(timeout):
                await protocol.writable()
        except TimeoutError as error:
            raise httpcore.WriteTimeout(f"no room for {timeout} s") from error

    def cut(self) -> None:
        """End the connection; a read that is waiting returns."""
        self._transport.abort()

    async def aclose(self) -> None:
        self._transport.abort()
        await asyncio.sleep(0)  # the loop closes the socket in its next round

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        protocol = _Protocol()
        try:
            async with asyncio.timeout(timeout):
                transport = await loop.start_tls(
                    self._transport, protocol, ssl_context, server_hostname=server_hostname
                )
        except TimeoutError as error:
            self._transport.abort()
            raise httpcore.ConnectTimeout(f"no TLS handshake for {timeout} s") from error
        except OSError as error:
            self._transport.abort()
            raise httpcore.ConnectError(str(error)) from error
        if transport is None:
            raise httpcore.ConnectError("the connection was closed during the TLS handshake")
        protocol.transport = transport
        return _Stream(transport, protocol)

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks for; also ``unread_bytes``, which were received and not read yet, and
        ``is_full``, whether the peer takes no more for now.
        """
        protocol = self._protocol
        if info == "is_readable":
            return protocol.ended or bool(protocol.received)
        if info == "unread_bytes":
            return protocol.held
        if info == "is_full":
            return protocol.full
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return self._transport.get_extra_info(names.get(info, info))


class Backend(httpcore.AsyncNetworkBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        if local_address is not None:
            options["local_addr"] = local_address, 0
        # An address is connected to directly: asyncio's race between several addresses loses the
        # socket if it is cancelled just as it is won. uvloop does not have this option.
        if isinstance(loop, asyncio.BaseEventLoop) and not _is_address(host):
            options["happy_eyeballs_delay"] = 0.25
        try:
            async with asyncio.timeout(timeout):
                transport, protocol = await loop.create_connection(_Protocol, host, port, **options)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"no connection for {timeout} s") from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        for option in socket_options or ():
            transport.get_extra_info("socket").setsockopt(*option)
        return _Stream(transport, protocol)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
