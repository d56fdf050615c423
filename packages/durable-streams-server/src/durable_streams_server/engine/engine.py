"""The engine: streams for the process that runs it, over any store, with no HTTP in it.

An application uses it directly, and front ends are built on it:

    async with Engine("file:./data") as streams:
        await streams.create("chats/42", content_type="application/json")
        await streams.append("chats/42", {"t": "Hello"})
        async for batch in streams.follow("chats/42"):
            ...
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta

import msgspec

from durable_streams_core.content import media_type
from durable_streams_core.errors import InvalidRequest, OffsetGone
from durable_streams_core.operations import Append, Appended, Body, Delete, ProducerClaim
from durable_streams_core.paths import check_path
from durable_streams_core.protocol import DEFAULT_CONTENT_TYPE, RESERVED_SEGMENT, START
from durable_streams_core.reads import parse_read_offset
from durable_streams_core.streams import birth_of
from durable_streams_server.engine.arguments import (
    LARGE_JSON,
    Data,
    check_claim,
    is_unicode,
    optional_body,
    requested_creation,
    seq_bytes,
    to_body,
)
from durable_streams_server.engine.fanout import Notification
from durable_streams_server.engine.results import (
    AppendResult,
    Batch,
    StreamInfo,
    append_result,
    batch_of,
    created_info,
    stream_info,
)
from durable_streams_server.engine.runtime import Runtime


class Engine(Runtime):
    """Streams over one store. Start it with ``async with``, or ``start`` and ``stop``.

    Args:
        store: a :class:`Store`, or a URL such as ``memory:`` or ``file:./data``.
        limits: bounds, see :class:`Limits`.
        hooks: called with what this process did to streams: an event (``created``, ``closed``,
            ``deleted``, ``expired``) and the path.
        subscriptions: how webhooks are delivered.
        signing_keys: keys of signed read URLs; the first signs, all are accepted.

    """

    async def create(
        self,
        path: str,
        *,
        content_type: str = DEFAULT_CONTENT_TYPE,
        ttl: int | None = None,
        expires_at: str | None = None,
        data: Data = None,
        closed: bool = False,
    ) -> StreamInfo:
        """Create a stream, or find the one that is there, asked for in the same way (§5.1).

        ``ttl`` is in seconds, ``expires_at`` RFC 3339. Raises :class:`Conflict` if another stream
        is there.
        """
        request = requested_creation(content_type, ttl, expires_at)
        body = optional_body(data)
        await self.prepare(body, content_type)
        operation = self.creation(request, body, closed=closed)
        return created_info(path, await self.perform(check_path(path), operation))

    async def fork(
        self,
        path: str,
        source: str,
        *,
        offset: str | None = None,
        sub_offset: int = 0,
        content_type: str | None = None,
        ttl: int | None = None,
        expires_at: str | None = None,
        data: Data = None,
        closed: bool = False,
    ) -> StreamInfo:
        """Create a stream that begins with another's data, up to ``offset`` or its tail (§4.2).

        ``sub_offset`` counts messages of JSON streams, else bytes, past ``offset``.
        """
        request = msgspec.structs.replace(
            requested_creation(content_type, ttl, expires_at),
            forked_from=check_path(source),
            fork_sub_offset=sub_offset,
        )
        if offset is not None:
            request = request.forked_at(parse_read_offset(offset))
        return created_info(
            path,
            await self.create_fork(check_path(path), request, optional_body(data), closed=closed),
        )

    async def append(
        self,
        path: str,
        data: Data,
        *,
        content_type: str | None = None,
        seq: str | None = None,
        producer: ProducerClaim | None = None,
        expected: str | None = None,
        close: bool = False,
    ) -> AppendResult:
        """Add data at the tail (§5.2).

        On JSON streams ``bytes`` are JSON text, and the elements of an array in them are messages.
        Every other value is encoded as one message: a ``str`` is a JSON string, None is null. Other
        streams take ``bytes``, and a ``str`` as UTF-8. ``expected`` is an offset that must still be
        the tail, or :class:`TailMoved` is raised. Raises :class:`InvalidRequest` for what JSON
        cannot hold, NaN and infinities included.
        """
        return await self._append(
            path,
            to_body(data),
            content_type=content_type,
            seq=seq,
            producer=producer,
            expected=expected,
            close=close,
        )

    async def _append(
        self,
        path: str,
        body: Body,
        *,
        content_type: str | None = None,
        seq: str | None = None,
        producer: ProducerClaim | None = None,
        expected: str | None = None,
        close: bool = False,
    ) -> AppendResult:
        check_path(path)
        if producer is not None:
            check_claim(producer)
        if content_type is not None or len(body.raw) >= LARGE_JSON:
            await self._prepare_append(path, body, content_type)
        operation = Append(
            body,
            content_type,
            close,
            None if seq is None else seq_bytes(seq),
            producer,
            None if expected is None else parse_read_offset(expected),
        )
        appended: Appended | None = self.perform_nowait(path, operation)
        if appended is None:
            appended = await self.perform(path, operation)
        elif self.fanout.behind:
            # A caller that appends in a loop must not keep subscribers from their turn.
            await asyncio.sleep(0)
        return append_result(appended)

    async def close_stream(
        self, path: str, data: Data = None, *, producer: ProducerClaim | None = None
    ) -> AppendResult:
        """Close for ever, with final data or without (§5.3).

        ``data`` None means without; closing again without data is fine.
        """
        return await self._append(path, optional_body(data), producer=producer, close=True)

    async def delete(self, path: str) -> None:
        """Delete a stream; one that forks still read is kept out of sight for them (§5.4)."""
        await self.delete_as(check_path(path), Delete())

    async def head(self, path: str) -> StreamInfo:
        """Describe a stream, without renewing its lifetime (§5.5); raises NotFound or Gone."""
        return stream_info(path, await self.live_head(check_path(path)))

    async def read(self, path: str, offset: str = START, *, limit: int | None = None) -> Batch:
        """One page of data from ``offset``; ask again from its ``offset`` for more (§5.6)."""
        page = await self.page(check_path(path), parse_read_offset(offset), limit)
        return batch_of(page)

    async def follow(self, path: str, offset: str = START) -> AsyncIterator[Batch]:
        """Everything from ``offset``, and then whatever comes, until the stream is closed.

        Raises NotFound or Gone when the stream goes away, and :class:`OffsetGone` when it was
        replaced by another, or lost data that was yielded: start again then.
        """
        self._require_started()
        position, begun = parse_read_offset(offset), False
        waiter = Waiter()
        leave = self.fanout.subscribe(check_path(path), waiter)
        try:
            while True:
                waiter.clear()
                try:
                    page = await self.page(path, position)
                except InvalidRequest:
                    if not begun:
                        raise
                    # It was an offset of this stream before.
                    raise OffsetGone from None
                position, begun = page.offset, True
                if page.data or page.closed:
                    yield batch_of(page)
                if page.closed:
                    return
                if page.up_to_date:
                    await self._until_notified(path, waiter, page.birth.ttl)
        finally:
            leave()

    async def list(
        self, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> Sequence[StreamInfo]:
        """Streams whose path begins with ``prefix``, in order, a page at a time."""
        self._require_started()
        if not (is_unicode(prefix) and is_unicode(after)):
            raise InvalidRequest("A stream path is Unicode text.", code="invalid-path")
        found: list[StreamInfo] = []
        now = self.store.now()
        while len(found) < limit:
            wanted = limit - len(found)
            rows = await self.store.list(prefix, after, wanted)
            for path, head in rows:
                reserved = path.startswith(RESERVED_SEGMENT + "/")
                if head.live_at(now) and not reserved:
                    found.append(stream_info(path, head))
            if len(rows) < wanted:
                break
            after = rows[-1][0]
        return found

    def sign(self, path: str, expires: datetime | timedelta | float) -> str:
        """A query parameter that permits reading and following one stream until a moment.

        Append it to the stream's URL (``f"{url}?{streams.sign(path, expires=60)}"``) for a client
        that cannot send headers. ``expires`` is a moment with a time zone, or a time from now; a
        number means seconds. Raises ``ValueError`` where the engine has no ``signing_keys`` or the
        moment is in the past, and :class:`InvalidRequest` for a path that no stream can have.
        """
        if self.signer is None:
            raise ValueError("Signed URLs need a key: Engine(..., signing_keys=[...]).")
        return self.signer.sign(path, expires)

    async def _prepare_append(self, path: str, body: Body, content_type: str | None) -> None:
        if content_type is not None:
            media_type(content_type)
        if len(body.raw) >= LARGE_JSON:
            stream_type = birth_of(await self.live_head(path)).content_type
            await self.prepare(body, content_type or stream_type)

    async def _until_notified(self, path: str, waiter: "Waiter", ttl: int | None) -> None:
        """Wait for notification, renewing the stream's life meanwhile: who follows it reads it."""
        look_again = self.limits.long_poll_timeout
        if ttl is not None:
            look_again = min(look_again, ttl / 2)
        while not waiter.notified:
            try:
                async with asyncio.timeout(look_again):
                    await waiter.wait()
            except TimeoutError:
                head = await self.live_head(path)
                if self._renewal_due(head):
                    await self._renew(path)


class Waiter:
    """A subscriber that is only woken; it looks up what happened."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self, _notification: Notification) -> None:
        self._event.set()

    def clear(self) -> None:
        self._event.clear()

    @property
    def notified(self) -> bool:
        """Whether something happened since :meth:`clear`."""
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()
