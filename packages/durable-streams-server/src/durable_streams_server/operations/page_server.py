"""Serves one page at an address of its own, for whom the streams are not meant to be reached."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from durable_streams_server.frontends.aiohttp_log import log
from durable_streams_server.frontends.sockets import BACKLOG, listen_at
from durable_streams_server.http.handler import Page


@asynccontextmanager
async def serve_page(path: str, page: Page, host: str, port: int) -> AsyncIterator[int]:
    """Serve a page while the context lasts; yields the port. Raises OSError."""

    async def respond(_request: web.Request) -> web.Response:
        content_type, body = page()
        return web.Response(
            body=body,
            headers={"Content-Type": content_type.decode(), "Cache-Control": "no-store"},
        )

    app = web.Application()
    app.router.add_get(path, respond)
    runner = web.AppRunner(app, access_log=None, logger=log, shutdown_timeout=1.0)
    await runner.setup()
    try:
        listeners = listen_at(host, port)
        for listener in listeners:
            await web.SockSite(runner, listener, backlog=BACKLOG).start()
        yield listeners[0].getsockname()[1]
    finally:
        await runner.cleanup()
