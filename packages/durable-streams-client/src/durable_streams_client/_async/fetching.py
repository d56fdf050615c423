"""Fetches the pages of one reader.

Sends the requests that a :class:`~durable_streams_client.reading.ReaderMachine` asks for, and gives
it the responses, their event streams and their faults.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial

from durable_streams_client import forking
from durable_streams_client._async import runtime
from durable_streams_client._async.calls import retry_after
from durable_streams_client._async.context import AsyncContext
from durable_streams_client._async.transport import AsyncResponse
from durable_streams_client.addresses import with_params
from durable_streams_client.batches import Page
from durable_streams_client.errors import ClientError, TimedOut
from durable_streams_client.messages import Request, error_of
from durable_streams_client.options import Extra
from durable_streams_client.reading import Fetch, Mode, ReaderMachine
from durable_streams_client.spans import Span
from durable_streams_core import protocol


class AsyncFetcher:
    """The requests of one reader, one at a time, and the pages that came and wait to be taken.

    ``scope`` is the block in which :meth:`fetch` must be called; ending it ends the reader.
    """

    def __init__(self, machine: ReaderMachine, context: AsyncContext, extra: Extra) -> None:
        self.machine = machine
        self.pages: deque[Page] = deque()
        self.status: int | None = None
        """HTTP status of the last response."""
        self.scope = context.calls.scope()
        self._calls = context.calls
        self._cache = context.cache
        self._extra = extra
        self._response: AsyncResponse | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        """The body of an event stream that is being read."""
        self._opened_at = 0.0
        self._failures = 0
        """How many requests in a row have failed."""
        self._key = ""
        """Under which the last page is cached."""
        forking.register(self, AsyncFetcher.after_fork)

    def after_fork(self) -> None:
        """Go on in the child from the same place, with a response of its own."""
        forking.keep((self._chunks, self._response))
        self._chunks = self._response = None
        self.scope = self._calls.scope()

    async def fetch(self) -> bool:
        """Take one step: a request, or the next bytes of an event stream. False at the end.

        Raises ClientError for a fault that is not waited out.
        """
        if self._chunks is not None:
            await self._more_events()
            return True
        fetch = self.machine.next(time.monotonic())
        if fetch is None:
            return False
        if fetch.delay:
            await self.scope.sleep(fetch.delay)
        action = "read" if fetch.mode is Mode.CATCH_UP else fetch.mode.value
        try:
            # A span for each request, repeats too: a reader may wait out a fault for hours.
            with self._calls.span("GET", action, self.machine.url, resent=self._failures) as span:
                if fetch.mode is Mode.SSE:
                    await self._open_events(fetch, span)
                else:
                    await self._fetch_page(fetch, span)
        except ClientError as error:
            self._failures += 1
            await self._failed(error)
        else:
            self._failures = 0
        return True

    async def check(self, offset: str) -> None:
        """Raise ``OffsetGone`` if the stream was replaced by one that does not have ``offset``."""
        request = Request("GET", self.machine.url, params=[(protocol.OFFSET_PARAM, offset)])
        with self._calls.span("GET", "read", self.machine.url) as span:
            await self._calls.call(request, extra=self._extra, span=span)

    def uncacher(self) -> Callable[[], None]:
        """A function that takes the last page out of the cache; it does not hold the reader."""
        return partial(self._cache.drop, self._key)

    async def release(self) -> None:
        """Give the connection back."""
        chunks, self._chunks = self._chunks, None
        response, self._response = self._response, None
        if chunks is not None:
            await chunks.aclose()  # type: ignore[attr-defined]
        if response is not None:
            await response.aclose()

    async def _fetch_page(self, fetch: Fetch, span: Span) -> None:
        request = Request("GET", self.machine.url, params=fetch.params)
        timeouts = self._calls.options.timeouts
        plain = fetch.mode is Mode.CATCH_UP
        kept = None
        key = self._key = with_params(self.machine.url, fetch.params)
        if plain:
            kept = self._cache.get(key)
            if kept is not None:
                request.headers["If-None-Match"] = kept.etag
        response = await self._open(request, span, timeouts.read if plain else timeouts.idle)
        body = await response.read()
        head = response.head
        if head.status == 304 and kept is not None:
            head, body = kept.head, kept.body
            self.status = head.status
        elif head.status >= 300:
            raise error_of(request, head, body)
        elif plain:
            self._cache.put(key, head, body)
        self._take(self.machine.page(head, body, time.monotonic()))

    async def _open_events(self, fetch: Fetch, span: Span) -> None:
        timeouts = self._calls.options.timeouts
        request = Request("GET", self.machine.url, params=fetch.params)
        request.headers["Accept"] = protocol.SSE_CONTENT_TYPE
        response = None
        try:
            async with runtime.Limit(timeouts.first_event, "The event stream kept silent."):
                response = await self._open(request, span, timeouts.idle, compress=False)
                if response.head.status != 200:
                    raise error_of(request, response.head, await response.read())
                self.machine.opened(response.head, time.monotonic())
                span.end()  # the events may go on for ever
                self._response, self._chunks = response, response.chunks()
                response = None
                while not self.machine.heard:
                    if not await self._more_events():
                        return
        except TimedOut as error:
            await self.release()
            if time.monotonic() - self._opened_at < timeouts.first_event * 0.9:
                raise
            error.about("GET", self.machine.url)
            span.failed(error)
            self._calls.note(error, 1, 0.0)
            self.machine.silent(time.monotonic())
        finally:
            if response is not None:
                await response.aclose()

    async def _more_events(self) -> bool:
        """Take the next bytes of an event stream; False at its end."""
        assert self._chunks is not None
        try:
            chunk = await anext(self._chunks, None)
            if chunk is not None:
                for page in self.machine.events(chunk):
                    self._take(page)
                if not self.machine.closed:
                    return True
        except ClientError as error:
            await self.release()
            await self._failed(error)
            return False
        await self.release()
        self.machine.cut(time.monotonic())
        return False

    async def _open(
        self,
        request: Request,
        span: Span,
        read: float | None,
        *,
        compress: bool | None = None,
    ) -> AsyncResponse:
        self._opened_at = time.monotonic()
        response = await self._calls.open(
            request, extra=self._extra, span=span, read=read, compress=compress
        )
        self.status = response.head.status
        return response

    def _take(self, page: Page | None) -> None:
        if page is not None:
            self.pages.append(page)

    async def _failed(self, error: ClientError) -> None:
        """Go on after a fault, or raise it."""
        self.scope.check()
        delay = self.machine.failed(error, retry_after(error), time.monotonic())
        if delay is None:
            raise error
        self._calls.note(error, max(1, self.machine.backoff.failures), delay)

    def __del__(self) -> None:
        if getattr(self, "_response", None) is not None:
            runtime.release_later(self.release)
