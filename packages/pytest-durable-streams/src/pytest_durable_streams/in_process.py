"""Clients of an engine in the same process, without a socket."""

import asyncio
from typing import Any

from durable_streams_client import AsgiTransport, AsyncAsgiTransport, AsyncClient, Client
from durable_streams_core.store import Store
from durable_streams_server import Engine, create_asgi
from durable_streams_server.frontends.asgi import AsgiApp, Receive, Scope, Send

BASE_URL = "http://engine/"


def client_for(streams: Engine | Store | str, **options: Any) -> Client:
    """Return a client of an engine in this process, live reads included.

    It sends what it would send over HTTP, and gets the same answers and errors.

        with client_for("memory:") as client:
            client.stream("a").create()

    Args:
        streams: an engine that runs in another thread; or an engine that is not started, a store or
            its URL, with which the client runs an engine in a thread of its own until it is closed.
        options: those of :class:`Client`, apart from ``http``.

    """
    app, loop = _app_for(streams)
    return Client(BASE_URL, http=AsgiTransport(app, loop=loop), **options)


def async_client_for(streams: Engine | Store | str, **options: Any) -> AsyncClient:
    """Return an async client of an engine in this process, live reads included.

        async with async_client_for(engine) as client:
            await client.stream("a").create()

    Args:
        streams: an engine that runs, in this loop or another; or an engine that is not started, a
            store or its URL, with which the client runs an engine until it is closed.
        options: those of ``AsyncClient``, apart from ``http``.

    """
    app, loop = _app_for(streams)
    return AsyncClient(BASE_URL, http=AsyncAsgiTransport(app, loop=loop), **options)


def _app_for(
    streams: Engine | Store | str,
) -> tuple[Any, asyncio.AbstractEventLoop | None]:
    """An application that serves the streams, and the loop that it has to run in."""
    app = create_asgi(streams)
    if isinstance(streams, Engine):
        return (app, streams.loop) if streams.started else (_Running(streams, app), None)
    return app, None


class _Running:
    """An application whose lifespan runs an engine."""

    def __init__(self, engine: Engine, app: AsgiApp) -> None:
        self._engine = engine
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            async with self._engine:
                await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)
