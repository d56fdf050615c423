"""The front ends as servers to be tested, each on a real socket.

A new one is a line in ``SERVERS``: it serves a mount under a root and yields its port.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import uvicorn

from durable_streams_server.frontends.asgi import AsgiApp
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.servers import Address, aiohttp_server, standalone_server

Serve = Callable[[Mount, str], AbstractAsyncContextManager[int]]

ANY = Address("127.0.0.1", 0)


@asynccontextmanager
async def on_uvicorn(app: object, drain: Callable[[], None]) -> AsyncIterator[int]:
    """Run an ASGI app on uvicorn without its signal handlers and its main loop's sleep."""
    config = uvicorn.Config(app, log_level="warning", lifespan="on", proxy_headers=False)  # type: ignore[arg-type]
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.startup(sockets=[listener])
        try:
            yield listener.getsockname()[1]
        finally:
            # As uvicorn's own shutdown, less its pause.
            drain()
            for each in server.servers:
                each.close()
            state = server.server_state
            for connection in list(state.connections):
                connection.shutdown()
            while state.connections or state.tasks:
                await asyncio.sleep(0.001)
            await server.lifespan.shutdown()


@asynccontextmanager
async def asgi(mount: Mount, root: str) -> AsyncIterator[int]:
    async with on_uvicorn(AsgiApp(mount, root), mount.handler.close) as port:
        yield port


SERVERS: dict[str, Serve] = {
    "aiohttp": lambda mount, root: aiohttp_server(mount, root, ANY),
    "asgi": asgi,
    "standalone": lambda mount, root: standalone_server(mount, root, ANY),
}
