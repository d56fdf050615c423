"""What the front ends share: whose engine it is, and what a mount's root means."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from durable_streams_core.errors import InvalidRequest, StoreError, Unavailable
from durable_streams_core.store import Store
from durable_streams_server.engine.engine import Engine
from durable_streams_server.engine.limits import Limits
from durable_streams_server.http.handler import Handler
from durable_streams_server.http.options import Options

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
            self.engine = Engine(streams, limits=limits)
            self.owned = True
        self.handler = Handler(self.engine, options)

    async def ready(self) -> None:
        """Start an owned engine; raises :class:`Unavailable` where that cannot be."""
        if self.engine.started:
            return
        if not self.owned:
            raise Unavailable(
                "The application has not started its streams engine.", code="not-started"
            )
        try:
            await self.engine.start()
        except StoreError as error:
            raise Unavailable(f"The store cannot be opened: {error}") from error

    async def close(self) -> None:
        """Say farewell to live readers, and stop an owned engine."""
        self.handler.close()
        if self.owned:
            await self.engine.stop()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        if self.owned:
            await self.engine.start()
        try:
            yield
        finally:
            await self.close()


def split_target(target: str) -> tuple[str, str]:
    """Path and query of a raw request target, as it came."""
    if not target.startswith("/"):
        # The absolute form, which a proxy sends (RFC 9112 §3.2.2).
        scheme, separator, rest = target.partition("://")
        if not separator or scheme.lower() not in ("http", "https"):
            raise InvalidRequest("The request target is no path.", code="invalid-target")
        slash = rest.find("/")
        target = rest[slash:] if slash >= 0 else "/"
    if "#" in target:
        raise InvalidRequest("A request target has no fragment.", code="invalid-target")
    path, _, query = target.partition("?")
    return path, query


def as_root(prefix: str) -> str:
    """A root with both slashes."""
    inner = prefix.strip("/")
    return f"/{inner}/" if inner else "/"
