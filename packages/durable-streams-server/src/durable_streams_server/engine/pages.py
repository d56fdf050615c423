"""Reading: one page of a stream, stitched over its fork chain and cut where content allows.

The steps are written once, as a generator that yields what it needs. A local store gives it at
once, any other store is awaited. Of a store that is elsewhere pages are kept: bytes never change,
so a page is right for as long as the stream's head is the one that it was made of.
"""

from collections import OrderedDict
from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar

import msgspec

from durable_streams_core.content import Kind, cut, is_boundary
from durable_streams_core.entities import LIVE, Head, Slice
from durable_streams_core.errors import ProtocolError
from durable_streams_core.offsets import BEGINNING, Offset
from durable_streams_core.operations import Unconfirmed, no_stream, soft_deleted
from durable_streams_core.reads import check_in_range, check_offset, inside_message, not_held
from durable_streams_core.store import LocalStore, RemoteStore, Store
from durable_streams_core.streams import Birth, Origin, birth_of
from durable_streams_server.caches import ByteCache, TwoGenerationCache

# Looking a member up in its enum costs more than calling a function.
_JSON: Final = Kind.JSON
MAX_ANCESTORS = 65_536
MAX_KEPT = 256
MAX_KEPT_BYTES = 16 * 1024
REMOTE_MEMORY = 32 * 1024 * 1024
"""Bytes that the kept pages of a store elsewhere may take, about."""
PAGE_MEMORY = 1024
"""Bytes of a kept page beside its data and two responses of it, about."""


class Page(msgspec.Struct, frozen=True, gc=False):
    """Some stored bytes of a stream, those of positions ``start`` to ``end``.

    ``timeline`` is that of ``end``. ``closed`` says that the stream is closed and this page reaches
    its end. ``responses`` is for a front end, which keeps what it made of the page in it.
    """

    head: Head
    birth: Birth
    start: int
    end: int
    data: bytes
    up_to_date: bool
    closed: bool
    timeline: bytes
    responses: dict[str, Any] = {}

    @property
    def offset(self) -> Offset:
        """Where to read on."""
        return Offset(self.timeline, self.end)


class Need(msgspec.Struct, frozen=True, gc=False):
    """One request of a reader to the store: the head at ``path``, or bytes of one incarnation."""

    path: str
    incarnation: str | None = None
    start: int = 0
    limit: int = 0


class Owner(msgspec.Struct, frozen=True, gc=False):
    """The entity that holds the bytes of a part of a fork, and the position where the part ends."""

    path: str
    head: Head
    upto: int


OnPage = Callable[[Page | Head | Exception], None]
"""Gets a page, the error that a read is answered with, or the head from which the page is still
to be made: ``page`` goes on from it.
"""

Result = TypeVar("Result")
Steps = Generator[Need, Any, Result]


def check_live(head: Head | None, now: int) -> Head:
    """The head of a stream that is served; raises NotFound, Gone or Unconfirmed."""
    if head is None:
        raise no_stream()
    if head.state != LIVE:
        raise soft_deleted() if head.state == "deleted" else Unconfirmed
    if not head.live_at(now):
        raise no_stream()
    return head


def _is_quiet_tail(head: Head, offset: Offset) -> bool:
    """Whether an offset is the tail of a stream that is served whatever time it is."""
    return (
        offset.position == head.tail
        and offset.timeline == head.timeline
        and head.state == LIVE
        and not head.deadline
    )


def _end_of(head: Head) -> Page:
    """The page at the tail, which has no bytes."""
    tail = head.tail
    return Page(head, birth_of(head), tail, tail, b"", True, head.closed, head.tail_timeline)


class Pages:
    """Reads pages from one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._local = store if isinstance(store, LocalStore) else None
        self._remote = store if isinstance(store, RemoteStore) else None
        self._ancestry: OrderedDict[str, tuple[Head, Origin | None]] = OrderedDict()
        self._kept: TwoGenerationCache[str, tuple[Offset | None, int, Page]] = TwoGenerationCache(
            MAX_KEPT
        )
        self._kept_of_remote: ByteCache[str, tuple[Offset | None, int, Page]] = ByteCache(
            REMOTE_MEMORY
        )

    def forget(self) -> None:
        """Look at everything anew: the store may have lost something."""
        self._ancestry.clear()
        self._kept_of_remote.clear()

    def page_nowait(self, path: str, offset: Offset | None, limit: int) -> Page | None:
        """A page at once, or None if it has to be waited for."""
        local = self._local
        if local is None:
            return None
        kept = self._kept.get(path)
        if kept is not None:
            # Many read the same page of a stream. While its head is the very one that the page
            # was made of, and the stream has no life to renew, it is the page to give.
            kept_offset, kept_limit, page_then = kept
            if kept_limit == limit and kept_offset == offset:
                facts = local.peek(path)
                if facts is not None and facts.head is page_then.head:
                    return page_then
        page = self._make_nowait(local, path, offset, limit)
        if page is not None and not page.head.deadline and len(page.data) <= MAX_KEPT_BYTES:
            self._kept.add(path, (offset, limit, page))
        return page

    def _make_nowait(
        self, local: LocalStore, path: str, offset: Offset | None, limit: int
    ) -> Page | None:
        facts = local.peek(path)
        head = None if facts is None else facts.head
        if head is not None and offset is not None and _is_quiet_tail(head, offset):
            return _end_of(head)
        steps = self.steps(path, offset, limit)
        try:
            next(steps)
            need = steps.send(head)
            while True:
                if need.incarnation is None:
                    facts = local.peek(need.path)
                    need = steps.send(None if facts is None else facts.head)
                elif need.limit > local.large_read:
                    steps.close()
                    return None
                else:
                    piece = local.slice(need.path, need.incarnation, need.start, need.limit)
                    need = steps.send(piece)
        except StopIteration as stop:
            page: Page = stop.value
            return page

    def look(self, path: str, offset: Offset | None, limit: int, done: OnPage) -> bool:
        """Whether ``done`` will be called, later: the store can look at a head without a task."""
        remote = self._remote
        if remote is None:
            return False

        def looked(head: Head | Exception | None) -> None:
            done(head if isinstance(head, Exception) else self._found(path, offset, limit, head))

        remote.look(path, looked)
        return True

    def _found(
        self, path: str, offset: Offset | None, limit: int, head: Head | None
    ) -> Page | Head | ProtocolError:
        """The page, if it is kept or needs no bytes, or an error; else the head."""
        try:
            head = check_live(head, self._store.now())
            kept = self._kept_of_remote.get(path)
            if kept is not None:
                asked, most, page = kept
                if most == limit and asked == offset and page.head == head:
                    return page
            steps = self.steps(path, offset, limit)
            next(steps)
            steps.send(head)
            steps.close()
        except StopIteration as stop:
            made: Page = stop.value
            return made
        except ProtocolError as error:
            return error
        except Unconfirmed:
            # It is served once its source has confirmed it.
            assert head is not None
        return head

    async def page(
        self, path: str, offset: Offset | None, limit: int, head: Head | None = None
    ) -> Page:
        """A page from ``offset`` (None: the tail) of about ``limit`` bytes.

        ``head`` is one that was just looked at, if there is one.
        """
        page = await self._awaited(self.steps(path, offset, limit), head)
        # One that an append overtook ends before the tail of its head, and would hide that append.
        size = len(page.data)
        if (
            self._remote is not None
            and page.up_to_date
            and page.start >= page.head.start
            and 0 < size <= MAX_KEPT_BYTES
        ):
            self._kept_of_remote.add(path, (offset, limit, page), PAGE_MEMORY + 3 * size)
        return page

    async def timeline_at(self, path: str, head: Head, position: int) -> bytes:
        """The timeline of a position of a stream, be it in what a fork has from its source."""
        return await self._awaited(self._timeline_at(path, head, position))

    async def check_offset(self, path: str, head: Head, offset: Offset) -> None:
        """Raise what the protocol answers for an offset from which a stream cannot be read (§8)."""
        await self._awaited(self._check_offset(path, head, offset))

    async def _awaited(self, steps: Steps[Result], head: Head | None = None) -> Result:
        """The answer of the steps; ``head`` is the first one that they need, if it is known."""
        store = self._store
        try:
            need = next(steps)
            if head is not None:
                need = steps.send(head)
            while True:
                if need.incarnation is None:
                    facts = await store.load(need.path)
                    need = steps.send(None if facts is None else facts.head)
                else:
                    piece = await store.read(need.path, need.incarnation, need.start, need.limit)
                    need = steps.send(piece)
        except StopIteration as stop:
            result: Result = stop.value
            return result

    def steps(self, path: str, offset: Offset | None, limit: int) -> Steps[Page]:
        """The reads that make a page; raises what the protocol answers (§5.6, §8)."""
        head = check_live((yield Need(path)), self._store.now())
        birth = birth_of(head)
        if offset is None:
            position = head.tail
        else:
            position = offset.position
            if not head.holds(offset) and offset != BEGINNING:
                yield from self._check_inherited(path, head, offset)
            check_in_range(position, head.tail)
        # To see whether a JSON page begins between messages, it is read from the byte before.
        # A fork's own bytes always begin there.
        look_back = int(birth.kind is _JSON and position not in (0, head.start))
        while position != head.tail:
            # A store that is elsewhere takes appends between the look and the read, and reads the
            # bytes together with their head. Asked only for what the look saw, it would never show
            # the tail of a stream that takes appends all the time.
            room = min(limit, head.tail - position) if self._local is not None else limit
            data, newest = yield from self._bytes(
                path, head, position - look_back, room + look_back
            )
            if newest.timeline != head.timeline and offset is not None:
                # The store lost data between the two looks.
                check_offset(newest, offset)
            head = newest
            if look_back:
                if not is_boundary(birth.kind, data[:1]):
                    raise inside_message()
                data = data[1:]
            at_tail = position + len(data) >= head.tail
            length = cut(birth.kind, data, at_tail)
            if length:
                break
            # Not one whole message fits: a single one is never cut.
            limit *= 4
        else:
            # Also where the store lost everything between the look and the read.
            return _end_of(head)
        if length < len(data):
            data = data[:length]
        end = position + length
        if end >= head.start:
            timeline = head.timeline_at(end)
        else:
            timeline = yield from self._inherited_timeline(path, head, end)
        at_tail = end == head.tail
        return Page(head, birth, position, end, data, at_tail, head.closed and at_tail, timeline)

    def _check_offset(self, path: str, head: Head, offset: Offset) -> Steps[None]:
        if not head.holds(offset) and offset != BEGINNING:
            yield from self._check_inherited(path, head, offset)
        check_in_range(offset.position, head.tail)

    def _check_inherited(self, path: str, head: Head, offset: Offset) -> Steps[None]:
        """Raise unless a source vouches for an offset in what a fork has from it: else what its
        reader has seen is not what is here.
        """
        if offset.position < head.start:
            owners = yield from self._owners(path, head, offset.position)
            if any(owner.head.holds(offset) for owner in owners):
                return
        raise not_held(head, offset)

    def _timeline_at(self, path: str, head: Head, position: int) -> Steps[bytes]:
        if position >= head.start:
            return head.timeline_at(position)
        return (yield from self._inherited_timeline(path, head, position))

    def _inherited_timeline(self, path: str, head: Head, position: int) -> Steps[bytes]:
        owners = yield from self._owners(path, head, position)
        return owners[0].head.timeline_at(position)

    def _bytes(self, path: str, head: Head, start: int, length: int) -> Steps[tuple[bytes, Head]]:
        """Bytes across the fork chain, and the stream's newest head."""
        end = start + length
        if start >= head.start:
            own: Slice | None = yield Need(path, head.incarnation, start, length)
            if own is None:
                raise no_stream()
            return own.data, own.head
        parts: list[bytes] = []
        owners = yield from self._owners(path, head, start)
        for owner in owners:
            until = min(end, owner.upto)
            if start >= until:
                continue
            piece: Slice | None = yield Need(
                owner.path, owner.head.incarnation, start, until - start
            )
            if piece is None:
                raise no_stream() if owner.path == path else _lost(owner.path)
            parts.append(piece.data)
            start += len(piece.data)
            if start < until:
                raise no_stream() if owner.path == path else _lost(owner.path)
        return b"".join(parts), head

    def _owners(self, path: str, head: Head, start: int) -> Steps[list[Owner]]:
        """The entities that hold the bytes from ``start`` on, oldest first."""
        upto = head.tail
        owners = [Owner(path, head, upto)]
        origin = birth_of(head).origin
        for _ in range(MAX_ANCESTORS):
            if start >= head.start or origin is None:
                owners.reverse()
                return owners
            # A fork of a fork may end before the bytes of the one between begin.
            upto = min(upto, head.start)
            key = origin.incarnation
            known = self._ancestry.get(key)
            if known is None:
                source_head: Head | None = yield Need(origin.path)
                if source_head is None or source_head.incarnation != key:
                    raise _lost(origin.path)
                known = self._ancestry[key] = source_head, birth_of(source_head).origin
                if len(self._ancestry) > 4096:
                    self._ancestry.popitem(last=False)
            source, next_origin = known
            begin = Offset(head.timeline_at(head.start), head.start)
            if head.start >= source.start and not source.holds(begin):
                # The source's store lost what the fork begins with; other bytes may be there now.
                raise _lost(origin.path)
            owners.append(Owner(origin.path, source, upto))
            # Only what never changes is used of a remembered head, where no data is lost: where its
            # own bytes begin, and its timelines.
            head, origin = source, next_origin
        raise _lost(path)


def _lost(path: str) -> ProtocolError:
    return ProtocolError(
        f"The data that this fork shares with {path} is missing from the store.",
        code="source-lost",
    )
