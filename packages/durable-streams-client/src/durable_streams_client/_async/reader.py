"""The reader: the batches of a stream, and how far the program has handled them."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from durable_streams_client._async import runtime
from durable_streams_client._async.context import AsyncContext
from durable_streams_client._async.fetching import AsyncFetcher
from durable_streams_client.batches import (
    Batch,
    Decoding,
    Page,
    misfit_error,
    page_of,
    values_of,
)
from durable_streams_client.errors import ClientError, public_url
from durable_streams_client.in_hand import InHand
from durable_streams_client.item_types import Misfit, MixedItems
from durable_streams_client.options import Extra, Live
from durable_streams_client.reading import ReaderMachine
from durable_streams_client.resuming import Progress, parse_offset, parts_of, rest_of
from durable_streams_client.text import TextJoiner

T = TypeVar("T")


class AsyncReader(Generic[T]):
    """An iterator over the batches of a stream, in order, each exactly once.

    Made by ``AsyncStream.read`` and ``AsyncStream.follow``. Iterate over it, or over one of
    ``items()``, ``text()`` and ``chunks()``. A ``with`` block gives its connection back at once.
    One task or thread reads; any other may call ``cancel``. ``url`` is the stream's URL.

    Iterating raises what ``AsyncClient`` lists, and ``NotFound``, ``Gone``, ``OffsetGone`` if the
    data before the offset is no longer there (§8), ``Cancelled`` after ``cancel``, ``TimedOut`` if
    nothing came for ``Timeouts.total`` seconds, and what the checkpoint raises.

    Long because each way to read has its method and its example here.

    >>> async with stream.read() as reader:
    ...     async for batch in reader:
    ...         print(batch.items(), batch.offset)
    [1, 2, 3] 00000003
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
        decoding: Decoding,
        progress: Progress,
    ) -> None:
        retry = context.calls.options.retry
        attempts = retry.read_attempts if live is None else retry.follow_attempts
        place = parse_offset(offset)
        machine = ReaderMachine(url, place.offset, live, context.calls.backoff(attempts))
        self.url = url
        self._fetcher = AsyncFetcher(machine, context, extra)
        self._progress = progress
        self._decoding = decoding
        self._total = context.calls.options.timeouts.total
        self._hand: InHand = InHand(offset)
        self._to_skip = place.count
        self._to_check = place.end
        """An offset that the stream must still have, until that was checked."""
        self._loaded = progress.checkpoint is None
        self._finished = False

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ", up to date" if self.up_to_date else ""
        return f"<{type(self).__name__} {public_url(self.url)} at {self.offset}{state}>"

    # -- state ---------------------------------------------------------------------------

    @property
    def offset(self) -> str:
        """The offset after what was handled: always safe to store, to read on from there.

        It moves past a batch, or past an item of ``items()``, when the next one is asked for, which
        says that it was handled. Inside a page it ends in ``/COUNT``, which says how many messages
        after the server's offset; only this client reads on from such an offset.
        """
        return self._hand.offset_at(self._hand.handled)

    @property
    def status(self) -> int | None:
        """The HTTP status of the last response, or None before the first."""
        return self._fetcher.status

    @property
    def up_to_date(self) -> bool:
        """Whether the batches handed out reach the tail, as of the last response."""
        return self._fetcher.machine.up_to_date and not self._fetcher.pages

    @property
    def closed(self) -> bool:
        """Whether the stream is closed and all of its batches have been handed out."""
        return self._fetcher.machine.closed and not self._fetcher.pages

    @property
    def content_type(self) -> str:
        """The content type of the stream; ``application/octet-stream`` before a response."""
        return self._fetcher.machine.content_type

    @property
    def cursor(self) -> str | None:
        """The server's last ``Stream-Cursor``, by which caches collapse live reads (§10.1)."""
        return self._fetcher.machine.cursor

    # -- iterating ---------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch[T]:
        batch = await self._next()
        if batch is None:
            raise StopAsyncIteration
        return batch

    async def items(self) -> AsyncIterator[T]:
        """Iterate over the messages of a JSON stream; on other streams the bytes of each batch.

        Asking for the next item says that the last one was handled, and moves ``offset``. Raises
        ``DecodeError`` for a message that does not fit ``decode``, once those before it were handed
        out.

        >>> async for item in stream.read("00000001").items():
        ...     print(item)
        2
        3
        """
        every = self._progress.save_every
        hand = self._hand
        while True:
            batch = hand.batch
            if batch is not None and hand.has_rest:
                await self._record(hand.taken)
            else:
                batch = await self._next()
                if batch is None:
                    return
                hand.hand_out(values_of(batch), 0)
            if every is None and not isinstance(hand.values, MixedItems):
                for item in hand.rest:
                    yield item
                continue
            for item in hand.rest:
                if isinstance(item, Misfit):
                    if not self._decoding.skips:
                        await self._stop_before(hand.taken - 1)
                        raise misfit_error(page_of(batch), self.url, hand.values, hand.taken)
                    continue
                yield item
                if every is not None and hand.taken % every == 0:
                    await self._record(hand.taken)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the bytes of each batch; on a JSON stream each is the text of an array.

        >>> async for chunk in stream.read("00000001").chunks():
        ...     print(chunk)
        b'[2,3]'
        """
        async for batch in self:
            if batch.data:
                yield batch.data

    async def text(self) -> AsyncIterator[str]:
        """Iterate over UTF-8 text in whole characters, wherever the server cuts the data.

        Raises ``MalformedResponse`` if the stream is not UTF-8.

        >>> async for text in client.stream("poem").read().text():
        ...     print(text)
        Roses are red
        """
        joiner = TextJoiner()
        await self._settle()
        while (batch := await self._next_batch()) is not None:
            text = joiner.feed(batch)
            if text is None:
                continue  # the batch ends inside a character, so it is not handled yet
            self._hand.batch = batch
            if text:
                yield text
            await self._handled()
        await self.aclose()

    async def read_items(self) -> list[T]:
        """Return all items up to the end in one list, held in memory.

        >>> await stream.read().read_items()
        [1, 2, 3]
        """
        return [item async for item in self.items()]

    async def read_bytes(self) -> bytes:
        """Return all bytes up to the end. For a JSON stream use ``read_items``.

        >>> await client.stream("poem").read().read_bytes()
        b'Roses are red'
        """
        return b"".join([data async for data in self.chunks()])

    async def read_text(self) -> str:
        """Return all text up to the end. Raises ``MalformedResponse`` if it is not UTF-8.

        >>> await client.stream("poem").read().read_text()
        'Roses are red'
        """
        return "".join([text async for text in self.text()])

    async def save(self) -> None:
        """Record that the last batch or item was handled, without asking for the next one.

        Moves ``offset``, and saves the checkpoint; raises what the checkpoint raises.

        >>> place = MemoryCheckpoint()
        >>> async with stream.follow(checkpoint=place) as reader:
        ...     batch = await anext(reader)
        ...     await reader.save()
        >>> place.load()
        '00000003'
        """
        if self._hand.taken:
            await self._record(self._hand.taken)
        else:
            await self._handled()

    async def _settle(self) -> None:
        """Record as handled what the user has, and put back the items that it does not have."""
        hand = self._hand
        if not hand.has_rest:
            await self._handled()
            return
        await self._record(hand.taken)
        rest = hand.page_of_rest()
        if rest is not None:
            self._fetcher.pages.appendleft(rest)
        hand.give_back()

    async def _handled(self) -> None:
        """Record that the batch in hand was handled."""
        batch = self._hand.batch
        if batch is not None:
            self._hand.give_back()
            await self._keep(batch.offset)

    async def _record(self, count: int) -> None:
        """Record that the first ``count`` items of the batch in hand were handled."""
        offset = self._hand.offset_at(count)
        self._hand.recorded = count
        await self._keep(offset)

    async def _stop_before(self, count: int) -> None:
        """Hand out the item after the first ``count`` again, and record those as handled."""
        self._hand.hand_out(self._hand.values, count)
        await self._record(count)

    async def _keep(self, offset: str) -> None:
        if offset == self._hand.offset:
            return
        self._hand.offset = offset
        if self._progress.checkpoint is not None:
            await runtime.blocking(self._progress.checkpoint.save, offset)

    async def _next(self) -> Batch[T] | None:
        """The next batch, or None at the end."""
        # Asking for it says that the last one was handled. Save that now, because the wait for the
        # next one may be long.
        await self._settle()
        batch = await self._next_batch()
        if batch is None:
            await self.aclose()
        self._hand.batch = batch
        return batch

    async def _next_batch(self) -> Batch[T] | None:
        fetcher = self._fetcher
        if self._finished and not fetcher.pages:
            return None
        total = self._total
        try:
            async with (
                fetcher.scope,
                runtime.Limit(total, f"Nothing came for more than {total} seconds."),
            ):
                await self._load()
                while not fetcher.pages or (page := await self._take()) is None:
                    if not await fetcher.fetch():
                        return None
        except BaseException as error:
            await fetcher.release()
            if isinstance(error, ClientError):
                error.about("GET", self.url)
            raise
        return Batch(self.url, page, self._decoding, fetcher.uncacher())

    async def _take(self) -> Page | None:
        """The next page to hand out, if it has come, without what was handled before."""
        pages = self._fetcher.pages
        most = self._progress.max_items
        if not self._to_skip and most is None:
            return pages.popleft()
        if self._to_check is not None:
            await self._fetcher.check(self._to_check)
            self._to_check = None
        while pages:
            page: Page | None = pages[0]
            parts: list[Page] = []
            if self._to_skip:
                page, self._to_skip = rest_of(pages[0], self._to_skip, self.url)
            if page is not None and most is not None:
                page, *parts = parts_of(page, most, self.url)
            pages.popleft()
            pages.extendleft(reversed(parts))
            if page is not None:
                return page
        return None

    async def _load(self) -> None:
        if self._loaded or self._progress.checkpoint is None:
            return
        saved = await runtime.blocking(self._progress.checkpoint.load)
        self._loaded = True
        if saved is not None:
            place = parse_offset(saved)
            self._fetcher.machine.offset = place.offset
            self._to_skip, self._to_check = place.count, place.end
            self._hand.offset = saved

    # -- ending ------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """End the reader, from any task or thread. Its iteration raises ``Cancelled``.

        >>> reader = stream.follow()
        >>> reader.cancel()
        >>> try:
        ...     await anext(reader)
        ... except Cancelled:
        ...     print("cancelled")
        cancelled
        """
        self._fetcher.scope.cancel()

    async def aclose(self) -> None:
        """End the reader and give its connection back.

        Saves the checkpoint for the items that were handled. The last batch or item does not count
        as handled; call ``save`` first if it was.

        >>> reader = stream.follow()
        >>> batch = await anext(reader)
        >>> await reader.aclose()
        """
        self._finished = True
        self._fetcher.pages.clear()
        try:
            await self._record(self._hand.handled)
        finally:
            await self._fetcher.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
