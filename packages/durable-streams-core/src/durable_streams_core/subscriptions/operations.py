"""Every change to a subscription, decided on a draft as those to streams are.

Requests of workers raise :class:`SubscriptionError`; steps of drivers answer None where another
step overtook them. A decision rests on the lease as stored, so of two that race one is decided
again. ``nudge`` appends one byte to the subscription, so that its driver in another process is
notified through :meth:`~durable_streams_core.store.Store.watch`.
"""

from collections.abc import Container, Sequence
from typing import Final

import msgspec

from durable_streams_core.drafts import Draft
from durable_streams_core.entities import LIVE, Head
from durable_streams_core.errors import SubscriptionError
from durable_streams_core.offsets import NO_TIMELINE, Offset
from durable_streams_core.subscriptions.leases import (
    CLAIM,
    EXPIRE,
    HELD,
    NO_CHANGES,
    WAKE,
    Changes,
    Lease,
    decode_lease,
    encode_lease,
)
from durable_streams_core.subscriptions.records import (
    BASE_URL,
    CURSOR,
    LEASE,
    LINKING,
    NO_CURSOR,
    PULL_WAKE,
    BaseUrl,
    Config,
    Cursor,
    LinkedStream,
    SubscriptionBirth,
    birth_of,
    decode_cursor,
    encode,
)

__all__ = [
    "AckedStream",
    "AddStreams",
    "Claim",
    "Finish",
    "ForgetStreams",
    "LinkMore",
    "RemoveStream",
    "Step",
    "Subscribe",
    "Subscribed",
    "Tail",
    "Unsubscribe",
    "WakeRef",
    "already_claimed",
    "no_subscription",
    "require_type",
]

_NUDGE: Final = b"."
_RELINK_MILLISECONDS: Final = 60_000
"""How soon a creation that stopped half-way is looked at again."""


class Tail(msgspec.Struct, frozen=True, gc=False):
    """Where one stream ends; without an incarnation it is not there."""

    path: str
    incarnation: str = ""
    position: int = 0
    timeline: bytes = NO_TIMELINE


class Subscribed(msgspec.Struct, frozen=True, gc=False):
    """``new`` is false for one that was there, asked for in the same way; ``linking`` says that
    its first cursors are still to be written.
    """

    new: bool
    linking: bool
    head: Head


class Subscribe(msgspec.Struct, frozen=True, gc=False):
    """Create, or re-confirm (§6.2), with its first cursors. ``linking``: more of them follow.

    ``confirm`` only re-confirms: it answers None where there is nothing.
    """

    incarnation: str
    config: Config
    base_url: BaseUrl
    tails: Sequence[Tail] = ()
    linking: bool = False
    confirm: bool = False

    @property
    def fields(self) -> Sequence[str]:
        return (BASE_URL,)

    def decide(self, draft: Draft, now: int) -> Subscribed | None:
        config_hash = self.config.hash()
        base_url = encode(self.base_url)
        head = draft.head
        if head is not None:
            if birth_of(head).hash != config_hash:
                raise SubscriptionError(
                    "SUBSCRIPTION_ALREADY_EXISTS",
                    "A subscription with this id exists with another configuration.",
                )
            if draft.field(BASE_URL) != base_url:
                draft.set_field(BASE_URL, base_url)
            return Subscribed(False, draft.state() == LINKING, head)
        if self.confirm:
            return None
        state, deadline = LIVE, 0
        if self.linking:
            state, deadline = LINKING, now + _RELINK_MILLISECONDS
        birth = encode(SubscriptionBirth(self.config, config_hash, now))
        head = Head(self.incarnation, birth, state=state, deadline=deadline)
        draft.create(head)
        draft.set_field(BASE_URL, base_url)
        _link(draft, self.config, self.tails)
        return Subscribed(True, self.linking, head)


def _link(draft: Draft, config: Config, tails: Sequence[Tail]) -> None:
    """Write cursors at the tails, but for streams that have one."""
    explicit = set(config.streams)
    for tail in tails:
        key = CURSOR + tail.path
        if draft.field(key) is None:
            cursor = Cursor(tail.incarnation, tail.position, tail.path in explicit, tail.timeline)
            draft.set_field(key, encode(cursor))


class LinkMore(msgspec.Struct, frozen=True, gc=False):
    """Write more of the first cursors; with none left, make the subscription known.

    False if it is not there any more, or was made known by somebody else.
    """

    incarnation: str
    tails: Sequence[Tail]

    @property
    def fields(self) -> Sequence[str]:
        return [CURSOR + tail.path for tail in self.tails]

    def decide(self, draft: Draft, now: int) -> bool:
        head = draft.head
        if head is None or head.incarnation != self.incarnation or draft.state() != LINKING:
            return False
        if self.tails:
            _link(draft, birth_of(head).config, self.tails)
            draft.set_deadline(now + _RELINK_MILLISECONDS)
        else:
            draft.set_state(LIVE)
            draft.set_deadline(0)
        return True


class Unsubscribe(msgspec.Struct, frozen=True, gc=False):
    """Delete: what is in flight for it is refused from now on (§6.3). Answers if it was there."""

    @property
    def fields(self) -> Sequence[str]:
        return ()

    def decide(self, draft: Draft, now: int) -> bool:
        if draft.head is None:
            return False
        draft.remove()
        return True


class AddStreams(msgspec.Struct, frozen=True, gc=False):
    """Link streams explicitly (§6.4): at their tails, or where they stand if they are linked.

    ``wake_streams`` are those of the store, which patterns do not link.
    """

    tails: Sequence[Tail]
    wake_streams: Container[str] = ()

    @property
    def fields(self) -> Sequence[str]:
        return [CURSOR + tail.path for tail in self.tails]

    def decide(self, draft: Draft, now: int) -> None:
        config = birth_of(_require_live(draft)).config
        if any(tail.path == config.wake_stream for tail in self.tails):
            raise SubscriptionError(
                "INVALID_REQUEST", "A subscription cannot be woken by its own wake stream."
            )
        changed = False
        for tail in self.tails:
            key = CURSOR + tail.path
            cursor = decode_cursor(draft.field(key))
            if cursor is not None and cursor.explicit:
                continue
            if cursor is None:
                # The pattern's link of a stream without a cursor stands before its first byte.
                cursor = (
                    NO_CURSOR
                    if config.means(tail.path, self.wake_streams)
                    else Cursor(tail.incarnation, tail.position, False, tail.timeline)
                )
            draft.set_field(key, encode(msgspec.structs.replace(cursor, explicit=True)))
            changed = True
        if changed:
            draft.append(_NUDGE)


class RemoveStream(msgspec.Struct, frozen=True, gc=False):
    """Drop an explicit link (§6.4); the pattern's own link stays where it stands."""

    stream: str

    @property
    def fields(self) -> Sequence[str]:
        return (CURSOR + self.stream,)

    def decide(self, draft: Draft, now: int) -> None:
        config = birth_of(_require_live(draft)).config
        key = CURSOR + self.stream
        cursor = decode_cursor(draft.field(key))
        if cursor is None or not cursor.explicit:
            return
        kept = msgspec.structs.replace(cursor, explicit=False)
        draft.set_field(key, encode(kept) if config.means(self.stream) else None)
        draft.append(_NUDGE)


class ForgetStreams(msgspec.Struct, frozen=True, gc=False):
    """Drop cursors of streams that are gone, but those of explicit links."""

    incarnation: str
    gone: Sequence[Tail]

    @property
    def fields(self) -> Sequence[str]:
        return [CURSOR + stream.path for stream in self.gone]

    def decide(self, draft: Draft, now: int) -> None:
        head = draft.head
        if head is None or head.incarnation != self.incarnation or draft.state() != LIVE:
            return
        for stream in self.gone:
            key = CURSOR + stream.path
            cursor = decode_cursor(draft.field(key))
            if (
                cursor is not None
                and not cursor.explicit
                and cursor.incarnation == stream.incarnation
            ):
                draft.set_field(key, None)


class Step(msgspec.Struct, frozen=True, gc=False):
    """A driver's step of the lease machine: the new lease, or None if it was overtaken.

    ``wake_id`` names the wake that the step is about, or the one that :data:`WAKE` begins.
    ``expire`` only ends a lease whose time is over.
    """

    incarnation: str
    step: str
    wake_id: str = ""
    changes: Changes = NO_CHANGES
    nudge: bool = False

    @property
    def fields(self) -> Sequence[str]:
        return (LEASE,)

    def decide(self, draft: Draft, now: int) -> Lease | None:
        head = draft.head
        if head is None or head.incarnation != self.incarnation or draft.state() != LIVE:
            return None
        lease = decode_lease(draft.field(LEASE))
        if self.step == EXPIRE:
            if not lease.expired(now):
                return None
        elif self.step != WAKE and lease.wake_id != self.wake_id:
            return None
        config = birth_of(head).config
        phase = lease.after(self.step, config.type)
        if phase is None:
            return None
        lease = lease.stepped(self.step, phase, now, config.lease_ttl_ms, self.changes)
        _store(draft, lease, nudge=self.nudge)
        return lease


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A worker takes the wake that waits, or begins one: its caller saw that work is pending
    (§7.2). A lease that has expired does not stand in the way.
    """

    worker: str
    wake_id: str
    stream: str = ""
    nudge: bool = False

    @property
    def fields(self) -> Sequence[str]:
        return (LEASE,)

    def decide(self, draft: Draft, now: int) -> Lease:
        config = birth_of(_require_live(draft)).config
        require_type(config, PULL_WAKE)
        lease = decode_lease(draft.field(LEASE))
        if lease.expired(now):
            lease = lease.stepped(EXPIRE, "idle", now, config.lease_ttl_ms, NO_CHANGES)
        phase = lease.after(CLAIM, config.type)
        if phase is None:
            raise already_claimed(lease)
        changes = Changes(wake_id=self.wake_id, holder=self.worker, stream=self.stream)
        lease = lease.stepped(CLAIM, phase, now, config.lease_ttl_ms, changes)
        _store(draft, lease, nudge=self.nudge)
        return lease


def already_claimed(lease: Lease) -> SubscriptionError:
    """409: another worker holds the lease (§7.2)."""
    return SubscriptionError(
        "ALREADY_CLAIMED",
        "Another worker holds the lease; wait for the next wake.",
        current_holder=lease.holder,
        generation=lease.generation,
    )


class WakeRef(msgspec.Struct, frozen=True, gc=False):
    """Which wake a worker's request is about. ``incarnation`` and ``token_generation`` come from
    its token, the rest from its body.
    """

    incarnation: str
    token_generation: int
    generation: int
    wake_id: str


class AckedStream(msgspec.Struct, frozen=True, gc=False):
    """One ack, with the stream's head as it was when looked at; None if the stream is not there."""

    path: str
    offset: Offset
    head: Head | None = None


class Finish(msgspec.Struct, frozen=True, gc=False):
    """Acks, heartbeat, done or release of a worker, under fencing (§7.1 to §7.3).

    ``step`` is ack, done or release. ``snapshot`` marks the driver's own acks of what a webhook
    reported as done: what was overtaken meanwhile is passed over instead of refused.
    """

    ref: WakeRef
    step: str
    acks: Sequence[AckedStream] = ()
    snapshot: bool = False
    nudge: bool = False

    @property
    def fields(self) -> Sequence[str]:
        return (LEASE, *(CURSOR + path for path in dict.fromkeys(a.path for a in self.acks)))

    def decide(self, draft: Draft, now: int) -> Lease:
        head = _require_live(draft)
        config = birth_of(head).config
        lease = decode_lease(draft.field(LEASE))
        ref = self.ref
        phase = lease.after(self.step, config.type)
        if (
            phase is None
            or lease.expired(now)
            or ref.incarnation != head.incarnation
            or ref.token_generation != lease.generation
            or ref.generation != lease.generation
            or ref.wake_id != lease.wake_id
        ):
            raise _fenced()
        cursors = self._cursors(draft, config)
        for path, cursor in cursors.items():
            draft.set_field(CURSOR + path, encode(cursor))
        lease = lease.stepped(self.step, phase, now, config.lease_ttl_ms, NO_CHANGES)
        _store(draft, lease, nudge=self.nudge and phase != HELD)
        return lease

    def _cursors(self, draft: Draft, config: Config) -> dict[str, Cursor]:
        """Where the cursors go, once every ack was checked."""
        cursors: dict[str, Cursor] = {}
        for ack in self.acks:
            cursor = cursors.get(ack.path) or decode_cursor(draft.field(CURSOR + ack.path))
            fault = None
            acked = LinkedStream(ack.path, cursor, ack.head).acked
            if ack.head is None or (cursor is None and not config.means(ack.path)):
                fault = "is not a stream of this subscription"
            elif ack.offset.position > ack.head.tail:
                fault = "is acked past its tail"
            elif acked is not None and acked.position > ack.offset.position:
                fault = "is acked behind its cursor"
            else:
                cursors[ack.path] = Cursor(
                    ack.head.incarnation,
                    ack.offset.position,
                    cursor is not None and cursor.explicit,
                    ack.offset.timeline,
                )
            if fault is not None and not self.snapshot:
                raise SubscriptionError("INVALID_OFFSET", f"{ack.path} {fault}.")
        return cursors


def _store(draft: Draft, lease: Lease, *, nudge: bool) -> None:
    draft.set_field(LEASE, encode_lease(lease))
    if draft.deadline() != lease.until:
        draft.set_deadline(lease.until)
    if nudge:
        draft.append(_NUDGE)


def _require_live(draft: Draft) -> Head:
    """The head of a subscription that is known; raises :class:`SubscriptionError`."""
    head = draft.head
    if head is None or draft.state() != LIVE:
        raise no_subscription()
    return head


def require_type(config: Config, kind: str) -> None:
    """Raise :class:`SubscriptionError` unless the subscription is of this type."""
    if config.type != kind:
        raise SubscriptionError("INVALID_REQUEST", f"This is for {kind} subscriptions only.")


def no_subscription() -> SubscriptionError:
    """404: there is no such subscription (§6.3)."""
    return SubscriptionError(
        "SUBSCRIPTION_NOT_FOUND", "There is no such subscription; it may have been deleted."
    )


def _fenced() -> SubscriptionError:
    return SubscriptionError(
        "FENCED", "This wake is over: its lease ended, or a newer one took its place. Stop."
    )
