"""A mount: a handler and the engine behind it, which a front end may own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from durable_streams_core.errors import StoreError, Unavailable
from durable_streams_core.store import Store
from durable_streams_server.engine.engine import Engine
from durable_streams_server.engine.limits import Limits
from durable_streams_server.engine.refusals import stopped
from durable_streams_server.http.handler import Handler
from durable_streams_server.http.options import Options
from durable_streams_server.subscriptions import SubscriptionOptions

Streams = Engine | Store | str
"""An engine, which a front end neither starts nor stops, or a store or URL, which it owns."""


class Mount:
    """A handler together with the engine that it may have to start."""

    def __init__(self, streams: Streams, options: Options, limits: Limits | None) -> None:
        if isinstance(streams, Engine):
            if limits is not None:
                raise TypeError("An engine has its own limits: give them to Engine(...).")
            self.engine = streams
            self.owned = False
        else:
            protected = options.token is not None or options.authorize is not None
            subscriptions = SubscriptionOptions(
                public_url=options.public_url, webhook_localhost=False if protected else None
            )
            self.engine = Engine(streams, limits=limits, subscriptions=subscriptions)
            self.owned = True
        self.handler = Handler(self.engine, options)
        self.draining = False
        """Whether clients are asked to leave."""
        self._on_drain: list[Callable[[], None]] = []

    async def ready(self) -> None:
        """Start an owned engine; raises :class:`Unavailable` where that cannot be."""
        if self.engine.started:
            return
        if not self.owned:
            raise stopped()
        try:
            await self.engine.start()
        except StoreError as error:
            raise Unavailable(f"The store cannot be opened: {error}") from error

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Have a front end called when clients should be asked to leave."""
        self._on_drain.append(callback)

    def drain(self) -> None:
        """Say in ``/ready`` that the server is about to stop, and ask clients to leave with the
        response that they get next. Everything is still served.
        """
        self.draining = True
        self.engine.drain()
        for callback in self._on_drain:
            callback()

    async def close(self) -> None:
        """Drain live readers, and stop an owned engine."""
        self.handler.close()
        if self.owned:
            await self.engine.stop()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run an owned engine while the context lasts, and drain live readers at its end."""
        if self.owned:
            await self.engine.start()
        try:
            yield
        finally:
            await self.close()
