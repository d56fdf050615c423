"""The client: what the streams of one program share."""

import random as random_module
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from durable_streams_client import addresses
from durable_streams_client._async.calls import AsyncCalls
from durable_streams_client._async.context import AsyncContext
from durable_streams_client._async.stream import AsyncStream
from durable_streams_client._async.transport import AsyncTransport
from durable_streams_client._async.writing import AsyncAppends
from durable_streams_client.errors import public_url
from durable_streams_client.options import (
    AsyncPairs,
    Extra,
    Options,
    Retry,
    Timeouts,
    pairs_of,
)
from durable_streams_client.pages import PageCache
from durable_streams_client.retry import RetryPolicy


class AsyncClient:
    """Connections, credentials and limits for any number of streams.

    ``base_url`` is put before relative stream names. ``headers`` and ``params`` go with every
    request; each value may be a function, also a coroutine function, that is asked at every
    request, for tokens that expire; one that returns None leaves it out. A header of a stream or
    of the protocol takes the place of the client's of the same name. ``on_retry`` is called before
    every repeat; an exception that it raises ends the call.

    ``http`` is an httpx (or httpx2) client or transport to use instead of one of its own; a client
    stays the caller's to close. ``safe_append=False`` sends plain appends without producer headers;
    they are then repeated only if they certainly changed nothing. ``compress`` asks servers to
    compress what is not live. ``cache_bytes`` bounds the pages kept for ``If-None-Match``.

    Use it in a ``with`` block, or close it. Nothing is opened before the first request.
    """

    def __init__(
        self,
        base_url: str = "",
        *,
        headers: AsyncPairs | None = None,
        params: AsyncPairs | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        on_retry: Callable[[Retry], Any] | None = None,
        http: Any = None,
        http2: bool = False,
        verify: ssl.SSLContext | bool = True,
        compress: bool = True,
        safe_append: bool = True,
        cache_bytes: int = 8 * 1024 * 1024,
        random: Callable[[], float] | None = None,
    ) -> None:
        options = Options(
            timeouts=timeouts or Timeouts(),
            retry=retry or RetryPolicy(),
            on_retry=on_retry,
            compress=compress,
            safe_append=safe_append,
            random=random or random_module.random,
        )
        calls = AsyncCalls(
            AsyncTransport(http, http2=http2, verify=verify),
            options,
            pairs_of(headers, "headers"),
            pairs_of(params, "params"),
        )
        self._context = AsyncContext(
            addresses.base_url(base_url), calls, AsyncAppends(calls), PageCache(cache_bytes)
        )

    @property
    def base_url(self) -> str:
        """The URL below which relative stream names are, or "" if there is none."""
        return self._context.base_url

    def stream(
        self,
        name: str,
        *,
        content_type: str | None = None,
        headers: AsyncPairs | None = None,
        params: AsyncPairs | None = None,
    ) -> AsyncStream:
        """The handle of a stream, by its URL or its name below ``base_url``.

        A name is taken literally: ``?``, ``#`` and ``%`` are encoded. What begins with ``http://``
        or ``https://`` is a URL, in which they mean what they mean there. Raises InvalidArgument
        for what cannot be a stream of the client's server.

        Asks the server nothing. ``content_type``, if it is known, saves the first append a request.
        """
        url = addresses.stream_url(self.base_url, name)
        extra = Extra(pairs_of(headers, "headers"), pairs_of(params, "params"))
        return AsyncStream(self._context, url, extra, content_type=content_type)

    async def aclose(self) -> None:
        """Close all connections. What is under way fails."""
        await self._context.calls.transport.aclose()
        self._context.cache.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {public_url(self.base_url)}>"
