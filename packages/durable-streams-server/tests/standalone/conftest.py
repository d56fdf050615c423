"""A standalone server over a memory store, with bounds of the test's choosing."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from durable_streams_server import Engine
from durable_streams_server.engine.limits import Limits
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.standalone import Bounds, StandaloneServer
from durable_streams_server.http.options import Options

sys.path.insert(0, str(Path(__file__).parent))

ROOT = "/v1/stream/"


class Running:
    """A server, what it serves, and where."""

    def __init__(self, server: StandaloneServer, mount: Mount, port: int) -> None:
        self.server = server
        self.mount = mount
        self.engine = mount.engine
        self.port = port


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(
            bounds: Bounds | None = None, limits: Limits | None = None, **options: Any
        ) -> Running:
            engine = await stack.enter_async_context(Engine("memory:", limits=limits))
            await engine.create("s", content_type="text/plain", data="hello")
            mount = Mount(engine, Options(**options), None)
            server = StandaloneServer(mount, ROOT, bounds)
            port = await server.listen("127.0.0.1", 0)
            stack.push_async_callback(server.stop)
            return Running(server, mount, port)

        yield begin
