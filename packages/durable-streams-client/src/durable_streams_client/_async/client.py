"""The client: connections, credentials and limits that streams share."""

import random
import ssl
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from durable_streams_client import addresses
from durable_streams_client._async.calls import AsyncCalls
from durable_streams_client._async.context import AsyncContext
from durable_streams_client._async.stream import AsyncStream
from durable_streams_client._async.transport import AsyncTransport
from durable_streams_client._async.writing import AsyncAppends
from durable_streams_client.errors import public_url
from durable_streams_client.listing import REFUSALS, ListedStream, list_request, listed_page
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

if TYPE_CHECKING:
    from durable_streams_client.tracing import Tracing


class AsyncClient:
    """A client of one server, for any number of streams.

    Use it in a ``with`` block, or close it. It opens no connection before the first request. Tasks
    and threads may share it.

    - ``base_url``: the server's stream root, below which relative stream names are.
    - ``headers``, ``params``: headers and query parameters of every request, as a mapping or as
      pairs. A value may be a function, also a coroutine function, which is called for every
      request: use one for tokens that expire. A function that returns None leaves its header or
      parameter out. A header of a stream or of the protocol replaces the client's of that name.
    - ``timeouts``: the time limits in seconds; by default ``Timeouts()``.
    - ``retry``: when and how often requests are repeated; by default ``RetryPolicy()``.
    - ``on_retry``: called with a ``Retry`` before every repeat. An exception that it raises ends
      the call.
    - ``http``: an httpx or httpx2 client or transport to send requests with. The caller closes a
      client. By default, requests go over connections of this client.
    - ``http2``: offers HTTP/2 to servers; needs the extra ``http2``.
    - ``verify``: an SSL context, or whether to verify the server's certificate.
    - ``compress``: asks servers to compress responses that are not live.
    - ``safe_append``: sends plain appends with producer headers, so that they can be repeated
      without being stored twice (§5.2.1). Without it they are repeated only after a failure that
      certainly changed nothing.
    - ``cache_bytes``: keeps this many bytes of pages, to fetch only pages that changed (§10.1).
    - ``tracing``: makes an OpenTelemetry span of each call; a ``Tracing`` of the module
      ``durable_streams_client.tracing``, which needs the extra ``tracing``.

    Raises ``InvalidArgument`` for options that have no meaning.

    Every call that sends a request may raise ``AccessDenied``, ``InvalidRequest``, ``Redirected``,
    ``MalformedResponse``, ``ClientClosed``, ``NotUsableHere``, ``NoFreeConnection`` and, once its
    attempts or its time are used up, ``TransportError`` or ``Unavailable``. All are
    ``ClientError``. The methods list what they raise besides.

    >>> async with AsyncClient(url, headers={"authorization": "Bearer secret"}) as client:
    ...     numbers = client.stream("numbers")
    ...     print(await numbers.read().read_items())
    [1, 2, 3]
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
        tracing: "Tracing | None" = None,
    ) -> None:
        options = Options(
            timeouts=Timeouts() if timeouts is None else timeouts,
            retry=RetryPolicy() if retry is None else retry,
            on_retry=on_retry,
            compress=compress,
            safe_append=safe_append,
            tracing=tracing,
            random=random.random,
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
        """The URL below which relative stream names are, or "" if there is none.

        >>> client.base_url == url
        True
        """
        return self._context.base_url

    def stream(
        self,
        name: str,
        *,
        content_type: str | None = None,
        headers: AsyncPairs | None = None,
        params: AsyncPairs | None = None,
    ) -> AsyncStream:
        """Return the handle of a stream. Sends no request.

        - ``name``: the stream's name below ``base_url``, in which ``?``, ``#`` and ``%`` are
          ordinary characters; or its whole URL, beginning with ``http://`` or ``https://``.
        - ``content_type``: the stream's content type, if you know it. This saves the first append
          a request.
        - ``headers``, ``params``: sent in addition to the client's.

        Raises ``InvalidArgument`` if ``name`` cannot be a stream of the client's server.

        >>> client.stream("numbers").url == client.stream(url + "numbers").url
        True
        """
        url = addresses.stream_url(self.base_url, name)
        extra = Extra(pairs_of(headers, "headers"), pairs_of(params, "params"))
        return AsyncStream(self._context, url, extra, content_type=content_type)

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncIterator[ListedStream]:
        """Iterate over the streams of the server, in order of their paths, page by page.

        An extension of our server. It lists the streams whose names begin with ``prefix`` and come
        after the name ``after``, among those that the client may know.

        Raises ``NotSupported`` if the server has no listing, ``InvalidArgument`` if the client has
        no base URL, and what the class lists.

        >>> async for listed in client.list(prefix="num"):
        ...     print(listed.path, listed.offset)
        numbers 00000003
        """
        calls = self._context.calls
        extra = Extra([], [])
        following: str | None = after
        while following is not None:
            request = list_request(self.base_url, prefix, following)
            with calls.span("GET", "list", request.url) as span:
                response = await calls.call(request, extra=extra, span=span, accept=REFUSALS)
                page = listed_page(request, response, following)
            for listed in page.streams:
                yield listed
            following = page.next

    async def aclose(self) -> None:
        """Close all connections. Calls in progress raise ``ClientClosed``.

        >>> await client.aclose()
        >>> try:
        ...     await stream.head()
        ... except ClientClosed:
        ...     print("closed")
        closed
        """
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
