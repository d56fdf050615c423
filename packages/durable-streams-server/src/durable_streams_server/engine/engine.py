"""The engine: streams for the process that runs it, over any store, with no HTTP in it.

An application uses it directly, and front ends are built on it:

    async with Engine("file:./data") as streams:
        await streams.create("chats/42", content_type="application/json")
        await streams.append("chats/42", {"t": "Hello"})
        async for batch in streams.follow("chats/42"):
            ...
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Final

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

RENEWAL_SECONDS = 30.0
"""How often ``follow`` renews the life of its stream while nothing happens."""


_RESERVED: Final = RESERVED_SEGMENT + "/"
_BEHIND_RESERVED: Final = _RESERVED + chr(sys.maxunicode)
"""Greater than every path that is reserved."""
_LIST_ROWS: Final = 1000
"""Rows that a store is asked for where more have to be looked at than were asked for."""


class Engine(Runtime):
    """Streams over one store. Start it with ``async with``, or ``start`` and ``stop``.

    Long because it is the public API: most of its lines say what a call takes and returns.

    Args:
        store: a :class:`Store`, or a URL such as ``memory:`` or ``file:./data``.
        limits: bounds, see :class:`Limits`.
        hooks: called with what this process did to streams: an event (``created``, ``closed``,
            ``deleted``, ``expired``) and the path.
        subscriptions: how webhooks are delivered.
        signing_keys: keys of signed read URLs; the first signs, all are accepted.
        quotas: how large streams and prefixes may become, see :class:`StreamQuota` and
            :class:`PrefixQuota`.

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
        """Create a stream, or confirm the one that is there with the same configuration (§5.1).

        Args:
            path: the stream's path, relative to the root and without a leading slash.
            content_type: fixes how data is read: ``application/json`` as messages, else as bytes.
            ttl: seconds after which the stream expires unless it is read or written.
            expires_at: an RFC 3339 time at which it expires; not together with ``ttl``.
            data: the first data, as for :meth:`append`; None for none.
            closed: create it closed.

        Raises:
            InvalidRequest: for arguments that no request could carry, or data that JSON cannot
                hold.
            Conflict: if a stream with another configuration is there.
            Unavailable: if the engine is not started or the store does not take the stream now.

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
        """Create a stream that begins with the data of another one (§4.2).

        Args:
            path: the path of the fork.
            source: the path of the stream that it reads from.
            offset: the offset up to which they share data; None for the source's tail.
            sub_offset: messages (of other streams than JSON: bytes) that are shared past
                ``offset``.
            content_type: must fit the source's; None takes it.
            ttl: as for :meth:`create`; with neither this nor ``expires_at`` the source's lifetime.
            expires_at: as for :meth:`create`.
            data: the fork's own first data; None for none.
            closed: create it closed.

        Raises:
            NotFound: if there is no such source.
            Conflict: if the source was deleted, or another stream is at ``path``.
            InvalidRequest: for an offset that the source never gave out, and as :meth:`create`.
            Unavailable: as :meth:`create`.

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
        """Add data at the tail (§5.2), and close the stream if asked to.

        On JSON streams ``bytes`` are JSON text, and the elements of an array in them are messages.
        Every other value is encoded as one message: a ``str`` is a JSON string, None is null. Other
        streams take ``bytes``, and a ``str`` as UTF-8.

        Args:
            path: the stream's path.
            data: what to append.
            content_type: must fit the stream's; None does not check it.
            seq: a ``Stream-Seq`` that must be greater than the last one, compared as bytes.
            producer: id, epoch and sequence, by which a repeated append is stored once (§5.2.1).
            expected: an offset that must still be the tail.
            close: close the stream with this append (§5.3).

        Raises:
            InvalidRequest: for missing data, and for what JSON cannot hold, NaN and infinities
                included.
            NotFound, Gone: if there is no such stream, or it was deleted and forks still read it.
            StreamClosed: if it is closed.
            Conflict: for another content type, or a ``seq`` that is not greater.
            Fenced, SequenceGap: for a producer with a stale epoch, or a sequence that leaves a gap.
            TailMoved: if ``expected`` is not the tail.
            Unavailable: if it was not stored, or with code ``outcome-unknown`` if nobody can say.

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
        """Close a stream for ever, with final data or without (§5.3).

        Closing again without data does nothing. ``data`` None means without; raises as
        :meth:`append`.
        """
        return await self._append(path, optional_body(data), producer=producer, close=True)

    async def delete(self, path: str) -> None:
        """Delete a stream (§5.4); its data is kept, served to nobody, while forks read it.

        Raises:
            NotFound, Gone: if there is no such stream, or it was deleted before.
            Unavailable: as :meth:`append`.

        """
        await self.delete_as(check_path(path), Delete())

    async def head(self, path: str) -> StreamInfo:
        """Describe a stream, without renewing its lifetime (§5.5); raises NotFound or Gone."""
        return stream_info(path, await self.live_head(check_path(path)))

    async def read(self, path: str, offset: str = START, *, limit: int | None = None) -> Batch:
        """Read one page of data from ``offset`` (§5.6); go on from the ``offset`` of the batch.

        Args:
            path: the stream's path.
            offset: an offset that the stream gave out, ``START`` or ``NOW``.
            limit: about how many bytes to read; None for ``limits.page_bytes``. A JSON message is
                never cut.

        Raises:
            InvalidRequest: for an offset that the stream never gave out.
            NotFound, Gone: if there is no such stream.
            OffsetGone: if the offset belongs to a stream that was here before.
            Unavailable: if the engine is not started or the store cannot be reached.

        """
        page = await self.page(check_path(path), parse_read_offset(offset), limit)
        return batch_of(page)

    async def follow(self, path: str, offset: str = START) -> AsyncIterator[Batch]:
        """Read everything from ``offset``, then wait for more, until the stream is closed.

        Yields each batch once. Counts as reading: the stream does not expire meanwhile.

        Raises:
            NotFound, Gone: when the stream goes away.
            OffsetGone: when it was replaced by another stream, or lost data that was yielded:
                start again then.
            Unavailable: when the engine stops.
            ProtocolError: with code ``too-many-readers`` beyond ``limits.max_waiting_readers``.

        """
        self.require_started()
        position, begun = parse_read_offset(offset), False
        waiter = Waiter()
        leave = self.fanout.subscribe(check_path(path), waiter)
        meter = self.meter
        meter.followers += 1
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
            meter.followers -= 1

    async def list(
        self, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> Sequence[StreamInfo]:
        """At most ``limit`` streams whose path begins with ``prefix``, by path, past ``after``.

        Forks that are not confirmed and streams that are deleted or expired are left out. Raises
        :class:`InvalidRequest` for a prefix that is not Unicode text.
        """
        self.require_started()
        if not (is_unicode(prefix) and is_unicode(after)):
            raise InvalidRequest("A stream path is Unicode text.", code="invalid-path")
        streams: list[StreamInfo] = []
        now = self.store.now()
        size = limit
        while len(streams) < limit:
            rows = await self.store.list(prefix, after, size)
            for path, head in rows:
                if head.live_at(now) and not path.startswith(_RESERVED):
                    streams.append(stream_info(path, head))
            if len(rows) < size:
                break
            after = rows[-1][0]
            if after.startswith(_RESERVED):
                # Subscriptions may be many, and are none of the streams.
                after = _BEHIND_RESERVED
            # Streams that are left out may be many too.
            size = max(size, _LIST_ROWS)
            await asyncio.sleep(0)
        return streams[:limit]

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
        renewal = RENEWAL_SECONDS
        if ttl is not None:
            renewal = min(renewal, ttl / 2)
        while not waiter.notified:
            try:
                async with asyncio.timeout(renewal):
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
        """Note that something happened."""
        self._event.set()

    def clear(self) -> None:
        """Wait for what happens from now on."""
        self._event.clear()

    @property
    def notified(self) -> bool:
        """Whether something happened since :meth:`clear`."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return once something has happened since :meth:`clear`."""
        await self._event.wait()
