"""Forks in four idempotent commits, and the clean-up of what they hold on to (§4.2).

No commit spans two streams. So a fork is made in four steps: the source notes a *pending* link; the
fork is created *unconfirmed*, served to nobody; the source turns the link *held*, which fails if it
was dropped meanwhile; the fork is confirmed. An operation that meets an unconfirmed fork finishes
or undoes it. Deleting goes the other way: first the fork, then its link. A soft-deleted source goes
with its last link, and its own link after it.
"""

import secrets

from durable_streams_core.content import Kind, require_same_type, skip_messages
from durable_streams_core.drafts import Draft
from durable_streams_core.entities import FORKING, LIVE, Facts
from durable_streams_core.errors import (
    Conflict,
    Gone,
    InvalidRequest,
    NotFound,
    ProtocolError,
    Unavailable,
)
from durable_streams_core.operations import (
    Body,
    Confirm,
    Create,
    Created,
    Expire,
    Hold,
    Link,
    Reap,
    Unconfirmed,
    Undo,
    Unlink,
)
from durable_streams_core.store import Store
from durable_streams_core.streams import (
    LINK,
    Birth,
    CreationRequest,
    ForkLink,
    Origin,
    birth_of,
    decode_link,
    link_key,
    linked_fork,
)
from durable_streams_server.engine.pages import Page, Pages, check_live
from durable_streams_server.perform import Perform

MAX_TRIES = 100
_SCAN_PAGE = 500


class Forks:
    """Makes, finishes, undoes and releases forks. ``perform`` runs one operation on one path."""

    def __init__(
        self,
        store: Store,
        pages: Pages,
        perform: Perform,
        page_bytes: int,
    ) -> None:
        self._store = store
        self._pages = pages
        self._perform = perform
        self._page_bytes = page_bytes

    async def create(
        self, path: str, requested: CreationRequest, body: Body, *, closed: bool
    ) -> Created:
        """Create or ensure the fork that ``requested`` describes."""
        for _ in range(MAX_TRIES):
            facts = await self._store.load(path)
            if facts is not None:
                if facts.head.state == FORKING:
                    await self.resolve(path)
                    continue
                if facts.head.state == LIVE and not facts.head.live_at(self._store.now()):
                    await self._perform(path, Expire())
                    continue
                compare = Create("", requested, birth_of(facts.head).content_type, closed=closed)
                return compare.decide(Draft(path, facts), self._store.now())
            created = await self._try(path, requested, body, closed=closed)
            if created is not None:
                return created
        raise Unavailable("The fork is too contended; try again.", code="contended")

    async def _try(
        self, path: str, requested: CreationRequest, body: Body, *, closed: bool
    ) -> Created | None:
        source_path = requested.forked_from
        assert source_path is not None
        source, position = await self._divergence(source_path, requested)
        timeline = await self._pages.timeline_at(source_path, source.head, position)
        birth = birth_of(source.head)
        if body:
            body.stored(birth.kind, creating=True)
        ttl, expires_at = _lifetime(requested, birth)
        incarnation = new_incarnation()
        origin = Origin(source_path, source.head.incarnation)
        link = ForkLink(incarnation, position)
        try:
            if not await self._perform(source_path, Link(path, origin.incarnation, link)):
                return None
        except (NotFound, Gone):
            return None
        create = Create(
            incarnation,
            requested,
            birth.content_type,
            ttl,
            expires_at,
            closed,
            body,
            origin,
            position,
            timeline,
        )
        try:
            created: Created = await self._perform(path, create)
        except ProtocolError as error:
            if error.status != 504:
                await self.release(origin, path, incarnation)
            raise
        if not created.new:
            await self.release(origin, path, incarnation)
            return created
        return created if await self._finish(path, origin, incarnation) else None

    async def _divergence(self, path: str, requested: CreationRequest) -> tuple[Facts, int]:
        """The source's facts and the position where the fork leaves it (§4.2)."""
        facts = await self._source(path)
        head = facts.head
        birth = birth_of(head)
        if requested.content_type is not None:
            require_same_type(requested.content_type, birth.content_type)
        offset = requested.fork_from
        position = head.tail
        if offset is not None:
            await self._pages.check_offset(path, head, offset)
            position = offset.position
        rest = requested.fork_sub_offset
        if birth.kind is not Kind.JSON:
            if position + rest > head.tail:
                raise _overshoot()
            return facts, position + rest
        if position < head.tail and not rest:
            await self._pages.page(path, offset, 1)
        while rest:
            page: Page = await self._pages.page(path, offset, self._page_bytes)
            if page.head.incarnation != head.incarnation:
                return await self._divergence(path, requested)
            length = skip_messages(page.data, rest)
            if length >= 0:
                return facts, position + length
            if page.up_to_date:
                raise _overshoot()
            rest -= page.data.count(b"\n")
            position, offset = page.end, page.offset
        return facts, position

    async def _source(self, path: str) -> Facts:
        for _ in range(MAX_TRIES):
            facts = await self._store.load(path)
            try:
                check_live(None if facts is None else facts.head, self._store.now())
            except Unconfirmed:
                await self.resolve(path)
            except NotFound:
                raise NotFound(
                    "The source stream of the fork does not exist.", code="source-not-found"
                ) from None
            except Gone:
                raise Conflict(
                    "The source stream was deleted; fork another.", code="source-deleted"
                ) from None
            else:
                assert facts is not None
                return facts
        raise Unavailable("The source is too contended; try again.", code="contended")

    async def _finish(self, path: str, origin: Origin, incarnation: str) -> bool:
        """The last two steps; False if the fork had to be undone."""
        if not await self._perform(origin.path, Hold(path, incarnation)):
            await self._perform(path, Undo(incarnation))
            return False
        if await self._perform(path, Confirm(incarnation)):
            return True
        # Somebody else met it and finished it first, or it is gone again already.
        facts = await self._store.load(path)
        return facts is not None and facts.head.incarnation == incarnation

    async def resolve(self, path: str) -> None:
        """Finish or undo the unconfirmed fork at ``path``, if there is one."""
        facts = await self._store.load(path)
        if facts is None or facts.head.state != FORKING:
            return
        origin = birth_of(facts.head).origin
        assert origin is not None
        incarnation = facts.head.incarnation
        key = link_key(path, incarnation)
        source = await self._store.load(origin.path, (key,))
        if source is not None and source.fields[key] is not None:
            await self._finish(path, origin, incarnation)
        else:
            await self._perform(path, Undo(incarnation))

    async def release(self, origin: Origin, fork: str, incarnation: str) -> None:
        """Drop the link of a fork that is gone, and the source if nobody needs it any more.

        What this removes releases its own source in turn: the engine sees to it.
        """
        if await self._perform(origin.path, Unlink(fork, incarnation)):
            await self._perform(origin.path, Reap())

    async def examine(self, path: str) -> None:
        """Drop the links of a soft-deleted source whose forks are gone, and then perhaps itself."""
        facts = await self._store.load(path)
        if facts is None:
            return
        after = ""
        while True:
            page = await self._store.scan(path, facts.head.incarnation, LINK, after, _SCAN_PAGE)
            for key, value in page:
                link = decode_link(value)
                fork_path = linked_fork(key)
                fork = await self._store.load(fork_path)
                if link is not None and (fork is None or fork.head.incarnation != link.incarnation):
                    await self._perform(path, Unlink(fork_path, link.incarnation, link))
            if len(page) < _SCAN_PAGE:
                break
            after = page[-1][0]
        await self._perform(path, Reap())


def _lifetime(requested: CreationRequest, source: Birth) -> tuple[int | None, int | None]:
    """TTL and expiry that take effect: one's own, or else the source's (§4.2)."""
    if requested.ttl is not None or requested.expires_at is not None:
        return requested.ttl, requested.expires_at
    return source.ttl, source.expires_at


def _overshoot() -> InvalidRequest:
    return InvalidRequest(
        "Stream-Fork-Sub-Offset goes past the data that follows Stream-Fork-Offset.",
        code="sub-offset-past-data",
    )


def new_incarnation() -> str:
    """A random id that no earlier stream of a path has had."""
    return secrets.token_hex(8)
