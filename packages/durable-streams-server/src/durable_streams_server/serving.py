"""The HTTP servers that the command can run, by name."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec
from aiohttp import web

from durable_streams_server.aiohttp_app import application
from durable_streams_server.mounting import Mount

SHUTDOWN_SECONDS = 3.0
LINGER_SECONDS = 1.0


class Address(msgspec.Struct, frozen=True):
    """Where to listen; port 0 picks one."""

    host: str
    port: int


Server = Callable[[Mount, str, Address], AbstractAsyncContextManager[int]]
"""Serves a mount under a root while the context lasts, and yields the port."""


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
        site = web.TCPSite(runner, address.host, address.port, backlog=4096)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


FRONT_ENDS: dict[str, Server] = {"aiohttp": aiohttp_server}
