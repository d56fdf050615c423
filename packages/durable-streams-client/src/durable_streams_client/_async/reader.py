"""The reader: runs a ``ReaderMachine`` over the network."""

import time
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import msgspec

from durable_streams_client import forking
from durable_streams_client._async import runtime
from durable_streams_client._async.calls import retry_after
from durable_streams_client._async.context import AsyncContext
from durable_streams_client._async.transport import AsyncAnswer
from durable_streams_client.addresses import with_params
from durable_streams_client.batches import Batch, Page
from durable_streams_client.checkpoints import AsyncCheckpoint, Checkpoint
from durable_streams_client.errors import ClientError, TimedOut
from durable_streams_client.messages import Request, error_of
from durable_streams_client.options import Extra, Live
from durable_streams_client.reading import Fetch, Mode, ReaderMachine
from durable_streams_client.text import TextJoiner
from durable_streams_core import protocol

T = TypeVar("T")


class AsyncReader(Generic[T]):
    """An iterator over the batches of a stream, in order, each exactly once.

    Made by ``AsyncStream.read`` and ``AsyncStream.follow``. Iterate over it, or over one of
    ``items()``, ``text()`` and ``chunks()``. Use it in a ``with`` block to give its connection
    back at once; one that is garbage collected gives it back too. One task or thread reads;
    any other may call ``cancel``.

    ``offset`` is always safe to store: it moves past a batch when the next one is asked for, which
    says that the batch was handled. ``url`` is the stream's URL.

    Iterating raises what ``AsyncClient`` lists, and ``NotFound``, ``Gone``, ``OffsetGone`` if the
    data before the offset is no longer there (§8), ``Cancelled`` after ``cancel``, ``TimedOut`` if
    nothing came for ``Timeouts.total`` seconds, and what the checkpoint raises.
    """

    __module__ = "durable_streams_client"  # generic aliases copy it before the package could set it

    def __init__(
        self,
        context: AsyncContext,
        url: str,
        extra: Extra,
        *,
        offset: str,
        live: Live | None,
        checkpoint: Checkpoint | AsyncCheckpoint | None,
        decoder: msgspec.json.Decoder[list[Any]],
    ) -> None:
        calls = context.calls
        retry = calls.options.retry
        attempts = retry.read_attempts if live is None else retry.follow_attempts
        self.url = url
        self.offset = offset
        """The offset after the last batch that was handled: where another reader would go on."""
        self._calls = calls
        self._cache = context.cache
        self._extra = extra
        self._checkpoint = checkpoint
        self._decoder = decoder
        self._machine = ReaderMachine(url, offset, live, calls.backoff(attempts))
        self._scope = runtime.Scope(calls.transport.scopes)
        self._pages: deque[Page] = deque()
        self._answer: AsyncAnswer | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._in_hand: str | None = None
        self._loaded = checkpoint is None
        self._finished = False
        self._opened_at = 0.0
        self._key = ""
        self.status: int | None = None
        """The HTTP status of the last response, or None before the first."""
        forking.register(self, AsyncReader._after_fork)

    def _after_fork(self) -> None:
        """Go on in the child from the same offset, with a response of its own."""
        forking.keep((self._chunks, self._answer))
        self._chunks = self._answer = None
        self._scope = runtime.Scope(self._calls.transport.scopes)

    # -- state ---------------------------------------------------------------------------

    @property
    def up_to_date(self) -> bool:
        """Whether the batches handed out reach the tail, as of the last response."""
        return self._machine.up_to_date and not self._pages

    @property
    def closed(self) -> bool:
        """Whether the stream is closed and all of its batches have been handed out."""
        return self._machine.closed and not self._pages

    @property
    def content_type(self) -> str:
        """The content type of the stream; ``application/octet-stream`` before a response."""
        return self._machine.content_type

    @property
    def cursor(self) -> str | None:
        """The server's last ``Stream-Cursor``, by which caches collapse live reads (§10.1)."""
        return self._machine.cursor

    # -- iterating ---------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch[T]:
        # Asking for the next batch says that the last one was handled. Save that now, because the
        # wait for the next one may be long.
        await self._handled()
        batch = await self._next_batch()
        if batch is None:
            await self.aclose()
            raise StopAsyncIteration
        self._in_hand = batch.offset
        return batch

    async def items(self) -> AsyncIterator[T]:
        """Iterate over the messages of a JSON stream; on other streams the bytes of each batch.

        Raises ``MalformedAnswer`` for a message that does not fit ``decode``.
        """
        async for batch in self:
            for item in batch.items:
                yield item

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the bytes of each batch; on a JSON stream each is the text of an array."""
        async for batch in self:
            if batch.data:
                yield batch.data

    async def text(self) -> AsyncIterator[str]:
        """Iterate over UTF-8 text in whole characters, wherever the server cuts the data.

        Raises ``MalformedAnswer`` if the stream is not UTF-8.
        """
        joiner = TextJoiner()
        await self._handled()
        while (batch := await self._next_batch()) is not None:
            text = joiner.feed(batch)
            if text is None:
                continue  # the batch ends inside a character, so it is not handled yet
            self._in_hand = batch.offset
            if text:
                yield text
            await self._handled()
        await self.aclose()

    async def read_items(self) -> list[T]:
        """Return all items up to the end in one list, held in memory."""
        return [item async for item in self.items()]

    async def read_bytes(self) -> bytes:
        """Return all bytes up to the end. For a JSON stream use ``read_items``."""
        return b"".join([data async for data in self.chunks()])

    async def read_text(self) -> str:
        """Return all text up to the end. Raises ``MalformedAnswer`` if it is not UTF-8."""
        return "".join([text async for text in self.text()])

    async def save(self) -> None:
        """Record that the last batch was handled, without asking for the next one.

        Moves ``offset``, and saves the checkpoint; raises what the checkpoint raises.
        """
        await self._handled()

    async def _handled(self) -> None:
        offset, self._in_hand = self._in_hand, None
        if offset is None:
            return
        self.offset = offset
        if self._checkpoint is not None:
            await runtime.blocking(self._checkpoint.save, offset)

    # -- fetching ----------------------------------------------------------------------------------

    async def _next_batch(self) -> Batch[T] | None:
        if self._finished and not self._pages:
            return None
        total = self._calls.options.timeouts.total
        try:
            async with (
                self._scope,
                runtime.Limit(total, f"Nothing came for more than {total} seconds."),
            ):
                await self._load()
                while not self._pages:
                    if not await self._fetch():
                        return None
        except BaseException as error:
            await self._drop()
            if isinstance(error, ClientError):
                error.about("GET", self.url)
            raise
        page = self._pages.popleft()
        return Batch(
            page.data,
            page.offset,
            page.content_type,
            page.up_to_date,
            page.closed,
            self.url,
            self._decoder,
            # Not a method of this reader, which a batch must not keep alive.
            partial(self._cache.drop, self._key),
        )

    async def _load(self) -> None:
        if self._loaded or self._checkpoint is None:
            return
        saved = await runtime.blocking(self._checkpoint.load)
        self._loaded = True
        if saved is not None:
            self.offset = self._machine.offset = saved

    async def _fetch(self) -> bool:
        """One step: a request, or the next bytes of an event stream. False at the end."""
        if self._chunks is not None:
            await self._more_events()
            return True
        fetch = self._machine.next(time.monotonic())
        if fetch is None:
            return False
        if fetch.delay:
            await self._scope.sleep(fetch.delay)
        try:
            if fetch.mode is Mode.SSE:
                await self._open_events(fetch)
            else:
                await self._fetch_page(fetch)
        except ClientError as error:
            await self._failed(error)
        return True

    async def _fetch_page(self, fetch: Fetch) -> None:
        request = Request("GET", self.url, params=fetch.params)
        timeouts = self._calls.options.timeouts
        plain = fetch.mode is Mode.CATCH_UP
        kept = None
        key = self._key = with_params(self.url, fetch.params)
        if plain:
            kept = self._cache.get(key)
            if kept is not None:
                request.headers["If-None-Match"] = kept.etag
        answer = await self._open(request, timeouts.read if plain else timeouts.idle)
        body = await answer.read()
        head = answer.head
        if head.status == 304 and kept is not None:
            head, body = kept.head, kept.body
            self.status = head.status
        elif head.status >= 300:
            raise error_of(request, head, body)
        elif plain:
            self._cache.put(key, head, body)
        self._take(self._machine.page(head, body, time.monotonic()))

    async def _open_events(self, fetch: Fetch) -> None:
        timeouts = self._calls.options.timeouts
        request = Request("GET", self.url, params=fetch.params)
        request.headers["Accept"] = protocol.SSE_CONTENT_TYPE
        answer = None
        try:
            async with runtime.Limit(timeouts.first_event, "The event stream kept silent."):
                answer = await self._open(request, timeouts.idle, compress=False)
                if answer.head.status != 200:
                    raise error_of(request, answer.head, await answer.read())
                self._machine.opened(answer.head, time.monotonic())
                self._answer, self._chunks = answer, answer.chunks()
                answer = None
                while not self._machine.heard:
                    if not await self._more_events():
                        return
        except TimedOut as error:
            await self._drop()
            if time.monotonic() - self._opened_at < timeouts.first_event * 0.9:
                raise
            error.about("GET", self.url)
            self._calls.note(error, 1, 0.0)
            self._machine.silent(time.monotonic())
        finally:
            if answer is not None:
                await answer.aclose()

    async def _more_events(self) -> bool:
        """Take the next bytes of an event stream; False at its end."""
        assert self._chunks is not None
        try:
            chunk = await anext(self._chunks, None)
            if chunk is not None:
                for page in self._machine.events(chunk):
                    self._take(page)
                if not self._machine.closed:
                    return True
        except ClientError as error:
            await self._drop()
            await self._failed(error)
            return False
        await self._drop()
        self._machine.cut(time.monotonic())
        return False

    async def _open(
        self, request: Request, read: float | None, *, compress: bool | None = None
    ) -> AsyncAnswer:
        self._opened_at = time.monotonic()
        answer = await self._calls.open(request, extra=self._extra, read=read, compress=compress)
        self.status = answer.head.status
        return answer

    def _take(self, page: Page | None) -> None:
        if page is not None:
            self._pages.append(page)

    async def _failed(self, error: ClientError) -> None:
        """Go on after a fault, or raise it."""
        self._scope.check()
        delay = self._machine.failed(error, retry_after(error), time.monotonic())
        if delay is None:
            raise error
        self._calls.note(error, max(1, self._machine.backoff.failures), delay)

    # -- ending ------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """End the reader, from any task or thread. Its iteration raises ``Cancelled``."""
        self._scope.cancel()

    async def aclose(self) -> None:
        """End the reader and give its connection back.

        The last batch does not count as handled; call ``save`` first if it was.
        """
        self._finished = True
        self._pages.clear()
        await self._drop()

    async def _drop(self) -> None:
        chunks, self._chunks = self._chunks, None
        answer, self._answer = self._answer, None
        if chunks is not None:
            await chunks.aclose()  # type: ignore[attr-defined]
        if answer is not None:
            await answer.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if getattr(self, "_answer", None) is not None:
            runtime.release_later(self._drop)
