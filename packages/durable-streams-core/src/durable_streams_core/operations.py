"""Every rule that changes a stream, once, for every store: ``operation.decide(draft, now)``.

A decision sees facts only through the :class:`~durable_streams_core.drafts.Draft`, which turns
what it used into the commit's guard. Only :meth:`Append.added_to` does without. It returns a
result or raises a ProtocolError; one that raises has changed nothing, but that a stream whose life
was over may have been swept.

``now`` is the store's clock in milliseconds. ``fields`` names the fields a decision may look at.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol, TypeVar

import msgspec

from durable_streams_core.content import Kind, media_type, require_same_type, to_stored
from durable_streams_core.drafts import Draft
from durable_streams_core.entities import DELETED, FORKING, LIVE, NO_FIELDS, Facts, Head
from durable_streams_core.errors import (
    Conflict,
    Fenced,
    Gone,
    InvalidRequest,
    NotFound,
    OffsetGone,
    PreconditionFailed,
    SequenceGap,
    StreamClosed,
    TailMoved,
)
from durable_streams_core.expiry import first_deadline, is_past, renewal_due, sliding_deadline
from durable_streams_core.json_messages import store_value
from durable_streams_core.offsets import BEGINNING, NO_TIMELINE, Offset, later_timeline, timeline_at
from durable_streams_core.protocol import DEFAULT_CONTENT_TYPE
from durable_streams_core.streams import (
    LINK,
    PRODUCER,
    SEQ,
    Birth,
    CreationRequest,
    ForkLink,
    Origin,
    ProducerEntry,
    birth_of,
    decode_link,
    decode_producer,
    encode,
    link_key,
)

__all__ = [
    "EMPTY_BODY",
    "Append",
    "Appended",
    "Body",
    "Confirm",
    "Create",
    "Created",
    "Delete",
    "Expire",
    "ForgetProducers",
    "Hold",
    "Link",
    "Operation",
    "ProducerClaim",
    "Reap",
    "Removed",
    "Result",
    "Touch",
    "Unconfirmed",
    "Undo",
    "Unlink",
    "empty_append",
    "no_stream",
    "soft_deleted",
]

RECHECK_MILLISECONDS: Final = 60_000
"""How soon the sweeper looks again at a soft-deleted source or an unconfirmed fork."""

_NO_DATA: Final = b""
_JSON: Final = Kind.JSON
"""Looking a member up in its enum costs more than calling a function."""

Result = TypeVar("Result", covariant=True)


class Unconfirmed(Exception):
    """The path holds a fork that its source has not confirmed: finish or undo it, then repeat."""


class Operation(Protocol[Result]):
    """One request to change the stream at a path."""

    @property
    def fields(self) -> Sequence[str]:
        """The keys of the fields that the decision may look at; a store loads them beforehand."""
        ...

    def decide(self, draft: Draft, now: int) -> Result:
        """Decide on the facts in a draft, and record in it what changes.

        ``now`` is the store's clock in milliseconds. Returns the result, or raises the
        :class:`ProtocolError` that refuses the operation.
        """
        ...


class _NoFields(msgspec.Struct, frozen=True, gc=False):
    """An operation that looks at no field."""

    @property
    def fields(self) -> Sequence[str]:
        """No field."""
        return ()


class Body:
    """Data to append, and its stored form, which is worked out once.

    ``raw`` are bytes as a request carries them: on JSON streams, JSON text, whose array is
    flattened (§9.1.2). ``value`` marks bytes that encode exactly one JSON value, which is one
    message even if it is an array. ``text`` marks UTF-8 text, which is one string on JSON streams.
    """

    __slots__ = ("_kind", "_stored", "raw", "text", "value")

    def __init__(self, raw: bytes, *, value: bool = False, text: bool = False) -> None:
        self.raw = raw
        self.value = value
        self.text = text
        self._kind: Kind | None = None
        """The kind of stream for which ``_stored`` was worked out."""
        self._stored: bytes | InvalidRequest = _NO_DATA

    def __bool__(self) -> bool:
        return self.text or bool(self.raw)

    def stored(self, kind: Kind, *, creating: bool = False) -> bytes:
        """The bytes that are added to a stream of this kind; worked out once, refusals too.

        Raises :class:`InvalidRequest` where the content rules refuse them.
        """
        if kind is not _JSON and not self.value:
            return self.raw
        if self._kind is not kind:
            try:
                if self.value or self.text:
                    self._stored = self._value_stored(kind)
                else:
                    self._stored = to_stored(kind, self.raw, allow_empty_array=creating)
            except InvalidRequest as error:
                self._stored = error.with_traceback(None)
            self._kind = kind
        stored = self._stored
        if type(stored) is bytes:
            return stored
        assert isinstance(stored, InvalidRequest)
        raise InvalidRequest(stored.message, code=stored.code)

    def _value_stored(self, kind: Kind) -> bytes:
        if kind is not _JSON:
            raise InvalidRequest(
                "Only application/json streams take values; give bytes or text to this one.",
                code="not-a-json-stream",
            )
        if self.text:
            return store_value(msgspec.json.encode(self.raw.decode()))
        return store_value(self.raw)


EMPTY_BODY: Final = Body(b"")


class ProducerClaim(msgspec.Struct, frozen=True, gc=False):
    """The three producer headers of a request (§5.2.1)."""

    id: str
    epoch: int
    seq: int


class Appended(msgspec.Struct, frozen=True, gc=False):
    """``tail`` is the position after the data, and ``timeline`` its timeline. With a producer,
    ``epoch`` and ``seq`` are the newest it has had accepted; ``duplicate`` says that this batch was
    stored before.
    """

    tail: int
    closed: bool
    duplicate: bool = False
    epoch: int = -1
    seq: int = -1
    timeline: bytes = NO_TIMELINE


class Append(msgspec.Struct, frozen=True, gc=False):
    """Append and close, alone or in one (§5.2, §5.3).

    ``content_type`` None means the stream's own. ``seq`` is ``Stream-Seq``, compared as bytes and
    per stream; ``expected`` a tail that must not have moved.
    """

    body: Body
    content_type: str | None = None
    close: bool = False
    seq: bytes | None = None
    producer: ProducerClaim | None = None
    expected: Offset | None = None

    @property
    def fields(self) -> Sequence[str]:
        """The field of the producer, if there is one."""
        if self.producer is not None:
            own = PRODUCER + self.producer.id
            return (own,) if self.seq is None else (own, SEQ)
        return () if self.seq is None else (SEQ,)

    def decide(self, draft: Draft, now: int) -> Appended:
        """Append; for a batch that a producer sends again, say where the stream ends now (§5.2.1).

        Raises :class:`NotFound`, :class:`Gone`, :class:`StreamClosed`, :class:`Conflict`,
        :class:`Fenced`, :class:`TailMoved` and :class:`InvalidRequest`.
        """
        head = _require_live(draft, now)
        birth = birth_of(head)
        producer = self.producer
        if producer is not None:
            duplicate = self._check_producer(producer, draft)
            if duplicate is not None:
                return duplicate
        if draft.is_closed():
            if self.body or not self.close or producer is not None:
                raise StreamClosed(draft.tail_offset)
            return Appended(draft.tail, True, timeline=draft.timeline)
        stored = self._stored(birth) if self.body.raw or self.body.text else _NO_DATA
        if not stored and not self.close:
            raise empty_append()
        if self.expected is not None:
            _check_tail(draft, self.expected)
        if self.seq is not None:
            last = draft.field(SEQ)
            if last is not None and self.seq <= last:
                raise Conflict(
                    "Stream-Seq must be greater than the last one accepted, compared as bytes.",
                    code="sequence-regression",
                )
            draft.set_field(SEQ, self.seq)
        if producer is not None:
            entry = ProducerEntry(producer.epoch, producer.seq, now)
            draft.set_field(PRODUCER + producer.id, encode(entry))
        if stored:
            draft.append(stored)
        if self.close:
            draft.close()
        if birth.ttl is not None and renewal_due(birth.ttl, draft.deadline(), now):
            draft.set_deadline(sliding_deadline(birth.ttl, now))
        if producer is not None:
            return Appended(
                draft.tail, self.close, False, producer.epoch, producer.seq, draft.timeline
            )
        return Appended(draft.tail, self.close, False, -1, -1, draft.timeline)

    def _stored(self, birth: Birth) -> bytes:
        """The bytes that the body adds to a stream of this birth."""
        content_type = self.content_type
        if content_type is not None and content_type != birth.content_type:
            require_same_type(content_type, birth.content_type)
        return self.body.stored(birth.kind)

    def added_to(self, facts: Facts, now: int) -> tuple[bytes, Mapping[str, bytes | None]] | None:
        """The bytes and fields that this adds where that is all that :meth:`decide` would come to.

        None says nothing but that a draft is needed: the append changes more, or is refused. For
        stores that need no guard, because nobody else can write before they do. Of a producer's
        batches only the one that follows its last is decided here.
        """
        head = facts.head
        if (
            self.close
            or self.seq is not None
            or self.expected is not None
            or head.state != LIVE
            or head.closed
            or (head.deadline and is_past(head.deadline, now))
            or not (self.body.raw or self.body.text)
        ):
            return None
        birth = birth_of(head)
        if birth.ttl is not None and renewal_due(birth.ttl, head.deadline, now):
            return None
        producer = self.producer
        fields = NO_FIELDS
        if producer is not None:
            key = PRODUCER + producer.id
            entry = decode_producer(facts.fields[key])
            if entry is None or (producer.epoch, producer.seq) != (entry.epoch, entry.seq + 1):
                return None
            fields = {key: encode(ProducerEntry(producer.epoch, producer.seq, now))}
        stored = self._stored(birth)
        return (stored, fields) if stored else None

    def _check_producer(self, claim: ProducerClaim, draft: Draft) -> Appended | None:
        """The table of §5.2.1; a result if this batch was stored before.

        A batch stored before gets that result on a closed stream too, whichever batch closed it:
        a pipelining producer that lost two responses must learn of both.
        """
        entry = decode_producer(draft.field(PRODUCER + claim.id))
        if entry is None:
            if claim.seq != 0 and not draft.is_closed():
                raise SequenceGap(0, claim.seq)
            return None
        if claim.epoch < entry.epoch:
            raise Fenced(entry.epoch)
        if claim.epoch == entry.epoch:
            if claim.seq <= entry.seq:
                return Appended(
                    draft.tail, draft.is_closed(), True, entry.epoch, entry.seq, draft.timeline
                )
            if claim.seq > entry.seq + 1 and not draft.is_closed():
                raise SequenceGap(entry.seq + 1, claim.seq)
        elif claim.seq != 0 and not draft.is_closed():
            raise InvalidRequest(
                "A new producer epoch starts at sequence 0.", code="epoch-starts-at-zero"
            )
        return None


class Created(msgspec.Struct, frozen=True, gc=False):
    """``new`` is false when the stream was there already, asked for in the same way."""

    new: bool
    head: Head
    tail: int
    closed: bool
    timeline: bytes = NO_TIMELINE
    """That of ``tail``, which the store may make later than the one in ``head``."""


class Create(_NoFields, frozen=True, gc=False):
    """Create or ensure (§5.1), also of a fork whose origin and start are known (§4.2).

    ``incarnation`` is a fresh random id, used if nothing is there. ``content_type``, ``ttl`` and
    ``expires_at`` are what takes effect, ``requested`` is what the client said. ``timeline`` is
    that of the source at ``start``. With ``existing_only`` nothing is created:
    :class:`PreconditionFailed` is raised where no stream is there.
    """

    incarnation: str
    requested: CreationRequest
    content_type: str
    ttl: int | None = None
    expires_at: int | None = None
    closed: bool = False
    body: Body = EMPTY_BODY
    origin: Origin | None = None
    start: int = 0
    timeline: bytes = NO_TIMELINE
    existing_only: bool = False

    def decide(self, draft: Draft, now: int) -> Created:
        """Create, or compare with what is there.

        Raises :class:`Conflict`, :class:`PreconditionFailed` and :class:`InvalidRequest`.
        """
        if draft.head is not None and _life_is_over(draft, now):
            _end_life(draft, now)
        if draft.head is not None:
            return self._compare(draft, draft.head)
        if self.existing_only:
            raise PreconditionFailed
        kind = media_type(self.content_type).kind
        stored = self.body.stored(kind, creating=True) if self.body else _NO_DATA
        birth = Birth(
            self.content_type, now, self.requested, self.ttl, self.expires_at, self.origin
        )
        deadline = first_deadline(self.ttl, self.expires_at, now)
        state = LIVE
        if self.origin is not None:
            state, deadline = FORKING, now + RECHECK_MILLISECONDS
        head = Head(
            self.incarnation,
            encode(birth),
            self.start,
            self.start,
            False,
            state,
            deadline,
            later_timeline(timeline_at(now), self.timeline),
            () if self.origin is None else ((self.timeline, self.start),),
        )
        head = draft.create(head, new_timeline=True)
        if stored:
            draft.append(stored)
        if self.closed:
            draft.close()
        return Created(True, head, draft.tail, self.closed, draft.timeline)

    def _compare(self, draft: Draft, head: Head) -> Created:
        state = draft.state()
        if state == FORKING:
            raise Unconfirmed
        if state == DELETED:
            raise Conflict(
                "The path is taken: its stream was deleted, but forks still read its data.",
                code="soft-deleted",
            )
        if not _same_request(self.requested, self.closed, head, draft.is_closed()):
            raise Conflict(
                "A stream exists here with another configuration; use its own or another path.",
                code="configuration-mismatch",
            )
        return Created(False, head, draft.tail, draft.is_closed(), draft.timeline)


def _same_request(requested: CreationRequest, closed: bool, head: Head, is_closed: bool) -> bool:
    """Whether a creation asks for what is there (§5.1): same type, lifetime, origin, closure."""
    birth = birth_of(head)
    before = birth.requested
    content_type = requested.content_type
    if content_type is None and requested.forked_from is None:
        content_type = DEFAULT_CONTENT_TYPE
    return (
        closed == is_closed
        and (content_type is None or media_type(content_type) == media_type(birth.content_type))
        and requested.ttl == before.ttl
        and requested.expires_at == before.expires_at
        and requested.forked_from == before.forked_from
        and requested.fork_from == before.fork_from
        and requested.fork_sub_offset == before.fork_sub_offset
    )


class Touch(_NoFields, frozen=True, gc=False):
    """Renew a sliding lifetime for a reader (§5.1); nothing where there is none to renew."""

    def decide(self, draft: Draft, now: int) -> None:
        """Move the deadline of a stream that has a sliding lifetime."""
        head = draft.head
        if head is None or draft.state() != LIVE or _life_is_over(draft, now):
            return
        ttl = birth_of(head).ttl
        if ttl is not None and renewal_due(ttl, draft.deadline(), now):
            draft.set_deadline(sliding_deadline(ttl, now))


class Removed(msgspec.Struct, frozen=True, gc=False):
    """``head`` is that of the stream whose bytes went. It is None if the bytes stay for forks, or
    if the stream did not exist.
    """

    head: Head | None


class Delete(_NoFields, frozen=True, gc=False):
    """Delete on request: at once, or softly while forks read its data (§5.4).

    ``incarnation`` and ``tail``, where they are given, must be those of the stream, or
    :class:`PreconditionFailed` is raised.
    """

    incarnation: str | None = None
    tail: Offset | None = None

    def decide(self, draft: Draft, now: int) -> Removed:
        """Delete; raises :class:`NotFound`, :class:`Gone` and :class:`PreconditionFailed`."""
        head = _require_live(draft, now)
        if self.incarnation not in (None, head.incarnation):
            raise PreconditionFailed
        if self.tail is not None:
            draft.require_tail()
            if draft.tail_offset != self.tail:
                raise PreconditionFailed
        return _drop(draft, now)


class Expire(_NoFields, frozen=True, gc=False):
    """End a life that is over, as the sweeper does; nothing if it was renewed meanwhile."""

    def decide(self, draft: Draft, now: int) -> Removed:
        """Remove the stream if its life is over; what was removed is the result."""
        head = draft.head
        if head is None or not _life_is_over(draft, now):
            return Removed(None)
        return _end_life(draft, now)


class Reap(_NoFields, frozen=True, gc=False):
    """Drop a soft-deleted stream that no fork reads any more, or look again later."""

    def decide(self, draft: Draft, now: int) -> Removed:
        """Remove a deleted source that no fork holds any more."""
        head = draft.head
        if head is None or draft.state() != DELETED:
            return Removed(None)
        if draft.has_any(LINK):
            draft.set_deadline(now + RECHECK_MILLISECONDS)
            return Removed(None)
        draft.remove()
        return Removed(head)


class Link(_NoFields, frozen=True, gc=False):
    """First step of a fork, on its source: note who will read its bytes up to ``position``.

    Every try has a link of its own. The result says whether the source is still the incarnation
    that was looked at.
    """

    fork: str
    source_incarnation: str
    link: ForkLink

    def decide(self, draft: Draft, now: int) -> bool:
        """Record a pending link; False if the source is another incarnation."""
        head = _require_live(draft, now)
        if head.incarnation != self.source_incarnation:
            return False
        draft.set_field(link_key(self.fork, self.link.incarnation), encode(self.link))
        return True


class Hold(msgspec.Struct, frozen=True, gc=False):
    """Third step, on the source: confirm the link. False if it was dropped meanwhile."""

    fork: str
    fork_incarnation: str

    @property
    def fields(self) -> Sequence[str]:
        """The field of the link."""
        return (link_key(self.fork, self.fork_incarnation),)

    def decide(self, draft: Draft, now: int) -> bool:
        """Mark the link as held; False if the link is gone."""
        link = _own_link(draft, self.fork, self.fork_incarnation)
        if link is not None and not link.held:
            held = ForkLink(link.incarnation, link.position, True)
            draft.set_field(link_key(self.fork, self.fork_incarnation), encode(held))
        return link is not None


class Unlink(msgspec.Struct, frozen=True, gc=False):
    """Drop the link of a fork that is gone. The result says whether the source may be reaped now.

    A caller that only saw that no fork is there passes the link it found as ``seen``: if a fork
    has turned that link held in the meantime, the link is kept.
    """

    fork: str
    fork_incarnation: str
    seen: ForkLink | None = None

    @property
    def fields(self) -> Sequence[str]:
        """The field of the link."""
        return (link_key(self.fork, self.fork_incarnation),)

    def decide(self, draft: Draft, now: int) -> bool:
        """Drop the link; True if the source is deleted and may be reaped."""
        link = _own_link(draft, self.fork, self.fork_incarnation)
        if link is not None and self.seen in (None, link):
            draft.set_field(link_key(self.fork, self.fork_incarnation), None)
        return draft.head is not None and draft.state() == DELETED


class Confirm(_NoFields, frozen=True, gc=False):
    """Last step, on the fork: its source holds the link, so serve it."""

    incarnation: str

    def decide(self, draft: Draft, now: int) -> bool:
        """Make the fork live; False if it is not there unconfirmed."""
        if not _is_forking(draft, self.incarnation):
            return False
        assert draft.head is not None
        birth = birth_of(draft.head)
        draft.set_state(LIVE)
        draft.set_deadline(first_deadline(birth.ttl, birth.expires_at, now))
        return True


class Undo(_NoFields, frozen=True, gc=False):
    """Drop an unconfirmed fork whose link is lost."""

    incarnation: str

    def decide(self, draft: Draft, now: int) -> bool:
        """Remove the fork; False if it is not there unconfirmed."""
        if not _is_forking(draft, self.incarnation):
            return False
        draft.remove()
        return True


class ForgetProducers(msgspec.Struct, frozen=True, gc=False):
    """Drop entries of producers that were idle longest, unless used since they were looked at."""

    incarnation: str
    entries: Sequence[tuple[str, bytes]]

    @property
    def fields(self) -> Sequence[str]:
        """The fields of the producers to forget."""
        return [key for key, _ in self.entries]

    def decide(self, draft: Draft, now: int) -> None:
        """Forget the entries that are as they were seen."""
        if draft.head is None or draft.head.incarnation != self.incarnation:
            return
        for key, value in self.entries:
            if draft.field(key) == value:
                draft.set_field(key, None)


def _require_live(draft: Draft, now: int) -> Head:
    """The head of a stream that is served; raises NotFound, Gone or Unconfirmed."""
    head = draft.head
    if head is None:
        raise no_stream()
    state = draft.state()
    if state != LIVE:
        raise soft_deleted() if state == DELETED else Unconfirmed
    if _life_is_over(draft, now):
        raise no_stream()
    return head


def _life_is_over(draft: Draft, now: int) -> bool:
    """Whether a live stream's deadline has come, removed already or not."""
    return draft.state() == LIVE and is_past(draft.deadline(), now)


def _check_tail(draft: Draft, expected: Offset) -> None:
    """Raise unless an offset is the tail: :class:`TailMoved`, or :class:`OffsetGone` for one whose
    bytes are no longer there.
    """
    tail = draft.require_tail()
    if expected.position == tail and expected in (draft.tail_offset, BEGINNING):
        return
    head = draft.head
    assert head is not None
    # Only the source of a fork can check an offset in inherited bytes; the next read does that.
    inherited = expected.position < head.start or expected == BEGINNING
    if not inherited and not head.holds(expected) and expected.timeline < head.timeline:
        raise OffsetGone
    raise TailMoved(draft.tail_offset)


def empty_append() -> InvalidRequest:
    """400: an append without data that does not close the stream either."""
    return InvalidRequest(
        "An append needs data; to close the stream without any, send Stream-Closed: true.",
        code="empty-body",
    )


def no_stream() -> NotFound:
    """404: nothing is at the path."""
    return NotFound("There is no stream here; create it with PUT first.")


def soft_deleted() -> Gone:
    """410: the stream was deleted, and is kept for its forks only (§4.2)."""
    return Gone("The stream was deleted; its data is kept for its forks only.")


def _end_life(draft: Draft, now: int) -> Removed:
    draft.deadline(guarded=True)
    return _drop(draft, now)


def _drop(draft: Draft, now: int) -> Removed:
    head = draft.head
    if draft.has_any(LINK):
        draft.set_state(DELETED)
        draft.set_deadline(now + RECHECK_MILLISECONDS)
        return Removed(None)
    draft.remove()
    return Removed(head)


def _own_link(draft: Draft, fork: str, incarnation: str) -> ForkLink | None:
    if draft.head is None:
        return None
    return decode_link(draft.field(link_key(fork, incarnation)))


def _is_forking(draft: Draft, incarnation: str) -> bool:
    head = draft.head
    return head is not None and head.incarnation == incarnation and draft.state() == FORKING
