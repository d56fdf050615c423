"""The parts that everything made by one client shares."""

from dataclasses import dataclass
from typing import Protocol

from durable_streams_client._async.calls import AsyncCalls
from durable_streams_client._async.writing import AsyncAppends
from durable_streams_client.pages import PageCache


@dataclass(frozen=True, slots=True)
class AsyncContext:
    """The parts of one client that its streams, readers, producers and workers use."""

    base_url: str
    """The stream root, or "" if the client has none."""
    calls: AsyncCalls
    """Sends requests, with the client's headers, parameters and retries."""
    appends: AsyncAppends
    """Sends plain appends, each stored exactly once."""
    cache: PageCache
    """Keeps pages for ``If-None-Match``."""


class HasContext(Protocol):
    """A client."""

    _context: AsyncContext


def context_of(client: HasContext) -> AsyncContext:
    """The context of ``client``, for other modules of this package."""
    return client._context  # noqa: SLF001 - the one place; users of a client see no context
