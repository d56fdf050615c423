"""The HTTP servers that the command can run, by name."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec
from aiohttp import web

from durable_streams_server.frontends.aiohttp import application, refusals_of
from durable_streams_server.frontends.aiohttp_log import log
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.sockets import BACKLOG, listen_at, listen_at_path, port_of
from durable_streams_server.frontends.standalone import Bounds, StandaloneServer

SHUTDOWN_SECONDS = 3.0
LINGER_SECONDS = 1.0


class Address(msgspec.Struct, frozen=True):
    """Where to listen: at a port (0 picks one), at a Unix socket, or with sockets that listen
    already; with ``tls``, as HTTPS.
    """

    host: str
    port: int
    unix: str | None = None
    tls: ssl.SSLContext | None = None
    bounds: Bounds = Bounds()
    """Of connections; the standalone server alone keeps them."""
    listeners: tuple[socket.socket, ...] = ()
    """Sockets that listen already; the server closes them. None: it opens its own."""

    async def open(self) -> list[socket.socket]:
        """Listen; raises :class:`OSError` where that cannot be."""
        if self.listeners:
            return list(self.listeners)
        if self.unix is not None:
            return [listen_at_path(self.unix)]
        # Looking a name up may take a while.
        return await asyncio.to_thread(listen_at, self.host, self.port)


Server = Callable[[Mount, str, Address], AbstractAsyncContextManager[int]]
"""Serves a mount under a root while the context lasts, and yields the port, if there is one."""


@asynccontextmanager
async def standalone_server(mount: Mount, root: str, address: Address) -> AsyncIterator[int]:
    """Our own HTTP/1.1 server."""
    async with mount.running():
        server = StandaloneServer(mount, root, address.bounds)
        try:
            listeners = await address.open()
            server.accept(listeners, tls=address.tls)
            mount.on_drain(server.drain)
            yield port_of(listeners)
        finally:
            await server.stop()


@asynccontextmanager
async def aiohttp_server(mount: Mount, root: str, address: Address) -> AsyncIterator[int]:
    """aiohttp, set up so that disconnects are seen at once and refused bodies are not read."""
    runner = web.AppRunner(
        application(mount, root),
        handler_cancellation=True,
        access_log=log,
        access_log_class=refusals_of(mount.handler),
        logger=log,
        auto_decompress=False,
        lingering_time=LINGER_SECONDS,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    await runner.setup()
    try:
        listeners = await address.open()
        for listener in listeners:
            site = web.SockSite(runner, listener, ssl_context=address.tls, backlog=BACKLOG)
            await site.start()
        yield port_of(listeners)
    finally:
        await runner.cleanup()


FRONT_ENDS: dict[str, Server] = {"standalone": standalone_server, "aiohttp": aiohttp_server}
