"""The idempotent producer as a machine without I/O (§5.2.1).

    append ──▶ open batch ──sealed──▶ queue ──numbered──▶ in flight ──acknowledged──▶ forgotten
                                                             ▲   │
                                                             └───┘ repeated under its own number

Rules:

* A batch keeps its number until it is acknowledged. Repeating it is then harmless.
* The first batch of a session goes alone: a server takes a new epoch only with sequence 0.
* A gap (409) means that an earlier batch was overtaken: the batch waits until all before it are
  acknowledged and is then sent once more. If they were acknowledged before it was sent, the
  server has lost data, and the producer stops.
* An epoch is claimed only while nothing of this session has been acknowledged. Later, being
  fenced means that a newer instance took over, and the producer stops.
* A batch that is too large for the server (413) was not stored by any try, so none after it was
  either: they are numbered anew, in halves.
* A producer that cannot store a batch stores none after it: what it accepted stays in order.

The caller passes in a clock (seconds, monotonic), and sends what :meth:`ProducerMachine.next`
returns, from as many places at once as it likes.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from durable_streams_client.errors import ClientError, Fenced, InvalidArgument, NotStored
from durable_streams_client.options import is_whole
from durable_streams_core import protocol

MAX_CLAIMS: Final = 5
MAX_PARENTS: Final = 32
"""The most spans that are known of one batch's appends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerLimits:
    """The sizes of a producer's batches and queue, and how long it waits to fill a batch.

    Bytes are those of encoded items. Raises ``InvalidArgument`` for a value that has no meaning.

    >>> with stream.producer(limits=ProducerLimits(batch_items=100, linger=0.05)) as producer:
    ...     producer.append_many(range(4, 7))
    >>> stream.head().offset
    '00000006'
    """

    batch_bytes: int = 1024 * 1024
    """A batch of this many bytes is sent at once; a single item may be larger."""
    batch_items: int = 50_000
    """A batch of this many items is sent at once."""
    linger: float = 0.005
    """A smaller batch is sent this many seconds after its first item."""
    in_flight: int = 4
    """How many batches may be sent and not yet acknowledged."""
    queue_bytes: int = 32 * 1024 * 1024
    """``append`` waits while this many bytes are accepted and not yet acknowledged."""
    queue_items: int = 1_000_000
    """``append`` waits while this many items are accepted and not yet acknowledged."""

    def __post_init__(self) -> None:
        for name in ("batch_bytes", "batch_items", "in_flight", "queue_bytes", "queue_items"):
            if not is_whole(getattr(self, name), 1):
                raise InvalidArgument(f"{name} must be a whole number, 1 or more")
        if not self.linger >= 0:
            raise InvalidArgument("linger must be 0 or more seconds")


def check_producer(producer_id: str, epoch: int | None) -> None:
    """Raise ``InvalidArgument`` unless a server takes this id and epoch."""
    if not producer_id or not producer_id.isprintable() or not producer_id.isascii():
        raise InvalidArgument("producer_id must be printable ASCII and not empty")
    if producer_id != producer_id.strip():
        raise InvalidArgument("producer_id must not begin or end with a space")
    if epoch is not None and (not is_whole(epoch, 0) or epoch > protocol.MAX_SAFE_INTEGER):
        raise InvalidArgument("epoch must be a whole number from 0 to 2**53 - 1")


class Added(Enum):
    """What :meth:`ProducerMachine.add` did."""

    QUIETLY = 0
    WAKE = 1
    """Added, and a sender has something new to look at."""
    FULL = 2
    """Not added: wait for acknowledgements."""


QUIETLY: Final = Added.QUIETLY
WAKE: Final = Added.WAKE
FULL: Final = Added.FULL


@dataclass(slots=True, eq=False)
class Outgoing:
    """One batch on its way. ``seq`` is -1 until it is numbered."""

    parts: list[bytes]
    size: int
    close: bool = False
    seq: int = -1
    uncertain: bool = False
    """Whether an earlier try may have been stored."""
    sent: bool = False
    floor: int = 0
    """The lowest unacknowledged number when it was sent last."""
    parents: dict[int, Any] = field(default_factory=dict)
    """The spans, by their ids, below which its items were appended. See ``TracedMachine``."""


@dataclass(slots=True)
class ProducerMachine:
    """The state of one producer.

    ``acknowledged`` and ``accepted`` count items; ``offset`` is the tail after the last
    acknowledged batch, "" before. ``duplicates`` counts items the server had from elsewhere.
    """

    limits: ProducerLimits
    epoch: int
    claims: bool
    clock: Callable[[], float]
    fresh: bool = False
    """Whether nobody else can have used the epoch. A duplicate is then this producer's own batch,
    which a proxy had sent twice."""
    accepted: int = field(default=0, init=False)
    acknowledged: int = field(default=0, init=False)
    duplicates: int = field(default=0, init=False)
    offset: str = field(default="", init=False)
    closed: bool = field(default=False, init=False)
    """Whether the closing batch is acknowledged."""
    failure: NotStored | None = field(default=None, init=False)
    last_seq: int = field(default=-1, init=False)
    """The highest acknowledged sequence number."""
    _established: bool = field(default=False, init=False)
    _claimed: int = field(default=0, init=False)
    _open: list[bytes] = field(default_factory=list, init=False)
    _open_size: int = field(default=0, init=False)
    _open_since: float = field(default=0.0, init=False)
    _held: int = field(default=0, init=False)
    _queue: deque[Outgoing] = field(default_factory=deque, init=False)
    _closing: Outgoing | None = field(default=None, init=False)
    _flying: dict[int, Outgoing] = field(default_factory=dict, init=False)
    _waiting: list[Outgoing] = field(default_factory=list, init=False)
    _active: int = field(default=0, init=False)
    _next_seq: int = field(default=0, init=False)
    _split: Outgoing | None = field(default=None, init=False)
    _cause: ClientError | None = field(default=None, init=False)

    # -- taking in ---------------------------------------------------------------------------------

    def add(self, part: bytes) -> Added:
        """Accept one encoded item, unless the queue is full."""
        size = len(part)
        limits = self.limits
        if self._held + size > limits.queue_bytes and self._held:
            return FULL
        if self.accepted - self.acknowledged >= limits.queue_items:
            return FULL
        self.accepted += 1
        self._held += size
        batch = self._open
        if not batch:
            self._open_since = self.clock()
            batch.append(part)
            self._open_size = size
            if size >= limits.batch_bytes or limits.batch_items == 1:
                self._seal()
            return WAKE
        if self._open_size + size > limits.batch_bytes:
            self._seal()
            self._open_since = self.clock()
            self._open = [part]
            self._open_size = size
            return WAKE
        batch.append(part)
        self._open_size += size
        if len(batch) >= limits.batch_items:
            self._seal()
            return WAKE
        return QUIETLY

    def _seal(self) -> None:
        if self._open:
            self._queue.append(Outgoing(self._open, self._open_size))
            self._open = []
            self._open_size = 0

    def flush(self) -> int:
        """Ask for everything accepted so far to be sent now: the count to wait for."""
        self._seal()
        return self.accepted

    def close(self, parts: list[bytes]) -> None:
        """Ask for the end of the stream after everything accepted, with final data in it."""
        self.flush()
        size = sum(map(len, parts))
        self.accepted += len(parts)
        self._held += size
        self._closing = Outgoing(parts, size, close=True)

    @property
    def closing(self) -> bool:
        return self._closing is not None or self.closed

    @property
    def failing(self) -> bool:
        """Whether nothing more will be sent; ``failure`` is set once all senders have returned."""
        return self._cause is not None

    @property
    def idle(self) -> bool:
        return not (self._active or self._flying or self._queue or self._open or self._closing)

    # -- sending -----------------------------------------------------------------------------------

    def next(self) -> Outgoing | float | None:
        """A batch to send, or seconds until there may be one, or None: wait to be woken."""
        if self._cause is not None:
            return None
        if self._split is not None:
            if self._active:
                return None
            self._renumber(self._split)
        waiting = self._next_waiting()
        if waiting is not None:
            return self._send(waiting)
        if len(self._flying) >= (self.limits.in_flight if self._established else 1):
            return None
        batch = self._next_new()
        if isinstance(batch, Outgoing):
            batch.seq = self._next_seq
            self._next_seq += 1
            self._flying[batch.seq] = batch
            return self._send(batch)
        return batch

    def _next_waiting(self) -> Outgoing | None:
        lowest = self._lowest()
        for batch in self._waiting:
            if batch.seq == lowest:
                self._waiting.remove(batch)
                return batch
        return None

    def _next_new(self) -> Outgoing | float | None:
        if self._queue:
            return self._queue.popleft()
        if self._open:
            wait = self._open_since + self.limits.linger - self.clock()
            if wait > 0:
                return wait
            self._seal()
            return self._queue.popleft()
        if self._closing is not None and not self._flying:
            batch, self._closing = self._closing, None
            return batch
        return None

    def _send(self, batch: Outgoing) -> Outgoing:
        batch.floor = self._lowest()
        batch.sent = True
        self._active += 1
        return batch

    def _lowest(self) -> int:
        return min(self._flying, default=self._next_seq)

    # -- outcomes: each gives the sender's place back ----------------------------------------------

    def stored(
        self, batch: Outgoing, *, duplicate: bool, seq: int | None, epoch: int | None, offset: str
    ) -> None:
        """The server has the batch. ``seq`` and ``epoch`` are those it echoed."""
        self._active -= 1
        if duplicate and not self._established and self.claims and not self.fresh:
            earlier = not batch.uncertain or (seq is not None and seq > batch.seq)
            if earlier and self._claim(batch, self.epoch if epoch is None else epoch):
                return
        if duplicate and not batch.uncertain and not self.fresh:
            self.duplicates += len(batch.parts)
        del self._flying[batch.seq]
        self._established = True
        self.last_seq = max(self.last_seq, batch.seq)
        self.acknowledged += len(batch.parts)
        self._held -= batch.size
        if offset:
            self.offset = max(self.offset, offset)
        if batch.close:
            self.closed = True
        self._finish()

    def gap(self, batch: Outgoing, expected: int | None, error: ClientError) -> None:
        """The server misses a batch before this one."""
        self._active -= 1
        if expected is not None and batch.floor <= expected < batch.seq:
            self._waiting.append(batch)
            self._finish()
        else:
            self._fail(error)

    def fenced(self, batch: Outgoing, error: Fenced) -> None:
        """A newer epoch exists."""
        self._active -= 1
        if (
            not self.claims
            or self._established
            or batch.uncertain
            or error.epoch is None
            or not self._claim(batch, error.epoch)
        ):
            self._fail(error)

    def too_large(self, batch: Outgoing, error: ClientError) -> None:
        """The server does not take bodies of this size."""
        self._active -= 1
        if len(batch.parts) < 2:
            self._fail(error)
        elif self._split is None or batch.seq < self._split.seq:
            self._split = batch
            self._finish()
        else:
            self._finish()

    def refused(self, error: ClientError) -> None:
        """The batch cannot be stored, or tries have run out."""
        self._active -= 1
        self._fail(error)

    def abandon(self, error: ClientError) -> None:
        """Give up everything not acknowledged, whatever its state."""
        if self._cause is None:
            self._cause = error
        self._finish()

    def release(self, batch: Outgoing, error: ClientError) -> None:
        """A sender stopped in the middle of sending ``batch``."""
        batch.uncertain = True
        self._active -= 1
        self._fail(error)

    def _claim(self, batch: Outgoing, epoch: int) -> bool:
        if self._claimed >= MAX_CLAIMS or epoch >= protocol.MAX_SAFE_INTEGER:
            return False
        self._claimed += 1
        self.fresh = False  # another instance may claim the same epoch at the same time
        self.epoch = max(self.epoch, epoch) + 1
        batch.uncertain = False
        self._waiting.append(batch)
        return True

    def _renumber(self, large: Outgoing) -> None:
        """Take back every batch from ``large`` on, none of them stored, ``large`` in halves."""
        self._split = None
        back = [self._flying.pop(seq) for seq in sorted(self._flying) if seq >= large.seq]
        self._waiting = [batch for batch in self._waiting if batch.seq < large.seq]
        self._next_seq = large.seq
        for batch in reversed(back):
            for parts in _halves(batch.parts) if batch is large else [batch.parts]:
                size = sum(map(len, parts))
                self._queue.appendleft(
                    Outgoing(parts, size, close=batch.close, parents=batch.parents)
                )

    def _fail(self, error: ClientError) -> None:
        if self._cause is None:
            self._cause = error
        self._finish()

    def _finish(self) -> None:
        if self._cause is None or self._active or self.failure is not None:
            return
        self._seal()
        flying = [self._flying[seq] for seq in sorted(self._flying)]
        rest = [*flying, *self._queue, *([self._closing] if self._closing else [])]
        maybe = max((i + 1 for i, batch in enumerate(flying) if batch.uncertain), default=0)
        items = [part for batch in rest for part in batch.parts]
        self.failure = NotStored(
            f"{len(items)} of {self.accepted} items were not stored: {self._cause.message}",
            items=items,
            uncertain=sum(len(batch.parts) for batch in flying[:maybe]),
            cause=self._cause,
        )


@dataclass(slots=True)
class TracedMachine(ProducerMachine):
    """A machine that remembers of each batch below which spans its items were appended.

    ``current`` returns the current span, as OpenTelemetry's ``SpanContext``. It is called whenever
    an item is accepted, by the task or thread that appends.
    """

    current: Callable[[], Any] = field(kw_only=True)
    _parents: dict[int, Any] = field(default_factory=dict, init=False)
    """Those of the open batch."""

    # The base is named because a class with slots has no `super()` before Python 3.14.

    def add(self, part: bytes) -> Added:
        added = ProducerMachine.add(self, part)
        if added is not FULL:
            self._remember(self._parents if self._open else self._queue[-1].parents)
        return added

    def close(self, parts: list[bytes]) -> None:
        ProducerMachine.close(self, parts)
        assert self._closing is not None
        self._remember(self._closing.parents)

    def _seal(self) -> None:
        sealing = bool(self._open)
        ProducerMachine._seal(self)  # noqa: SLF001 - its own, by the name of the base
        if sealing:
            self._queue[-1].parents, self._parents = self._parents, {}

    def _remember(self, parents: dict[int, Any]) -> None:
        span = self.current()
        if len(parents) < MAX_PARENTS:
            parents[span.span_id] = span


def _halves(parts: list[bytes]) -> list[list[bytes]]:
    """The second half first, as they are put back at the front of the queue."""
    middle = len(parts) // 2
    return [parts[middle:], parts[:middle]]
