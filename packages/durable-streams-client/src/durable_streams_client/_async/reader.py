"""The reader: the batches of a stream, and how far the program has handled them."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import msgspec

from durable_streams_client._async import runtime
from durable_streams_client._async.context import AsyncContext
from durable_streams_client._async.fetching import AsyncFetcher
from durable_streams_client.batches import Batch
from durable_streams_client.checkpoints import AsyncCheckpoint, Checkpoint
from durable_streams_client.errors import ClientError, public_url
from durable_streams_client.options import Extra, Live
from durable_streams_client.reading import ReaderMachine
from durable_streams_client.text import TextJoiner

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
        retry = context.calls.options.retry
        attempts = retry.read_attempts if live is None else retry.follow_attempts
        machine = ReaderMachine(url, offset, live, context.calls.backoff(attempts))
        self.url = url
        self.offset = offset
        """The offset after the last batch that was handled: where another reader would go on."""
        self._fetcher = AsyncFetcher(machine, context, extra)
        self._checkpoint = checkpoint
        self._decoder = decoder
        self._total = context.calls.options.timeouts.total
        self._in_hand: str | None = None
        """The offset after the batch that the caller has and may still be working on."""
        self._loaded = checkpoint is None
        self._finished = False

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ", up to date" if self.up_to_date else ""
        return f"<{type(self).__name__} {public_url(self.url)} at {self.offset}{state}>"

    # -- state ---------------------------------------------------------------------------

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

        Raises ``MalformedResponse`` for a message that does not fit ``decode``.
        """
        async for batch in self:
            for item in batch.items():
                yield item

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the bytes of each batch; on a JSON stream each is the text of an array."""
        async for batch in self:
            if batch.data:
                yield batch.data

    async def text(self) -> AsyncIterator[str]:
        """Iterate over UTF-8 text in whole characters, wherever the server cuts the data.

        Raises ``MalformedResponse`` if the stream is not UTF-8.
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
        """Return all text up to the end. Raises ``MalformedResponse`` if it is not UTF-8."""
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

    async def _next_batch(self) -> Batch[T] | None:
        fetcher = self._fetcher
        pages = fetcher.pages
        if self._finished and not pages:
            return None
        total = self._total
        try:
            async with (
                fetcher.scope,
                runtime.Limit(total, f"Nothing came for more than {total} seconds."),
            ):
                await self._load()
                while not pages:
                    if not await fetcher.fetch():
                        return None
        except BaseException as error:
            await fetcher.release()
            if isinstance(error, ClientError):
                error.about("GET", self.url)
            raise
        page = pages.popleft()
        return Batch(
            page.data,
            page.offset,
            page.content_type,
            page.up_to_date,
            page.closed,
            self.url,
            self._decoder,
            fetcher.uncacher(),
        )

    async def _load(self) -> None:
        if self._loaded or self._checkpoint is None:
            return
        saved = await runtime.blocking(self._checkpoint.load)
        self._loaded = True
        if saved is not None:
            self.offset = self._fetcher.machine.offset = saved

    # -- ending ------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """End the reader, from any task or thread. Its iteration raises ``Cancelled``."""
        self._fetcher.scope.cancel()

    async def aclose(self) -> None:
        """End the reader and give its connection back.

        The last batch does not count as handled; call ``save`` first if it was.
        """
        self._finished = True
        self._fetcher.pages.clear()
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
