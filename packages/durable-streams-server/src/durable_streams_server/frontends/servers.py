"""The HTTP servers that the command can run, by name."""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec
from aiohttp import web

from durable_streams_server.frontends.aiohttp import application
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.sockets import BACKLOG, listen_at, listen_at_path
from durable_streams_server.frontends.standalone import Bounds, StandaloneServer

SHUTDOWN_SECONDS = 3.0
LINGER_SECONDS = 1.0


class Address(msgspec.Struct, frozen=True):
    """Where to listen: at a port (0 picks one) or at a Unix socket; with ``tls``, as HTTPS."""

    host: str
    port: int
    unix: str | None = None
    tls: ssl.SSLContext | None = None
    bounds: Bounds = Bounds()
    """Of connections; the standalone server alone keeps them."""


Server = Callable[[Mount, str, Address], AbstractAsyncContextManager[int]]
"""Serves a mount under a root while the context lasts, and yields the port, if there is one."""


def tls_context(certificate: str, key: str | None) -> ssl.SSLContext:
    """For HTTPS with a certificate chain and its key from PEM files; raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key)
    return context


@asynccontextmanager
async def standalone_server(mount: Mount, root: str, address: Address) -> AsyncIterator[int]:
    """Our own HTTP/1.1 server."""
    async with mount.running():
        server = StandaloneServer(mount, root, address.bounds)
        try:
            if address.unix is not None:
                server.listen_unix(address.unix, tls=address.tls)
                yield 0
            else:
                yield await server.listen(address.host, address.port, tls=address.tls)
        finally:
            await server.stop()


@asynccontextmanager
async def aiohttp_server(mount: Mount, root: str, address: Address) -> AsyncIterator[int]:
    """aiohttp, set up so that disconnects are seen at once and refused bodies are not read."""
    runner = web.AppRunner(
        application(mount, root),
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,
        lingering_time=LINGER_SECONDS,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    await runner.setup()
    try:
        port = 0
        if address.unix is not None:
            listeners = [listen_at_path(address.unix)]
        else:
            listeners = listen_at(address.host, address.port)
            port = listeners[0].getsockname()[1]
        for listener in listeners:
            site = web.SockSite(runner, listener, ssl_context=address.tls, backlog=BACKLOG)
            await site.start()
        yield port
    finally:
        await runner.cleanup()


FRONT_ENDS: dict[str, Server] = {"standalone": standalone_server, "aiohttp": aiohttp_server}
