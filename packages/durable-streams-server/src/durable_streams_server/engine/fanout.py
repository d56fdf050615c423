"""Fan-out: notifies the readers that wait for a stream of each commit to it.

A reader subscribes first, then looks at the stream, then waits; in any other order it would miss a
commit. A page or frame made from a notification is made once and shared by every subscriber at the
same position.

Large fan-outs are sliced so that they never block the event loop. A few subscribers are notified
inside :meth:`Fanout.publish`. Many are notified in slices, one slice in each turn of the loop,
those furthest behind first. Commits that arrive in the meantime are kept in a :class:`Backlog`, and
a subscriber that fell behind gets one notification covering everything it missed. So appends do not
wait for readers, and under overload readers get larger pieces instead of ever later ones.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import groupby, islice
from operator import itemgetter
from time import perf_counter
from typing import Protocol

from durable_streams_core.entities import Change
from durable_streams_core.errors import ProtocolError
from durable_streams_core.metrics import Histogram
from durable_streams_server.engine.meter import EngineMeter

log = logging.getLogger("durable_streams_server.engine")

SLICE = 64
"""Subscribers notified in one turn of the loop: about a millisecond."""
FEW = 16
"""A stream with at most this many subscribers is never sliced."""
BACKLOG_CHANGES = 256
BACKLOG_BYTES = 64 * 1024
"""How much one stream's backlog keeps: about one event of catching up."""


class Notification:
    """What happened to a stream: one change, or None for "look at the store".

    ``start`` is the position from which a subscriber can follow the change without a look at the
    store, or -1. ``frames`` and ``shared`` keep what subscribers derived from this notification,
    so that it is derived once.
    """

    __slots__ = ("change", "frames", "shared", "start")

    def __init__(self, change: Change | None) -> None:
        self.change = change
        self.start = -1
        if change is not None and not change.gone:
            data = change.data
            if data or (change.closed and data is not None):
                self.start = change.tail - len(data)
        self.frames: dict[object, bytes] = {}
        self.shared: dict[object, object] = {}


class Backlog:
    """The latest changes of one stream, numbered on from ``last``.

    It is bounded. A subscriber that missed more than is kept is told to look at the store, which is
    always right.
    """

    __slots__ = ("_changes", "_merged", "_merged_after", "_size", "_times", "last")

    def __init__(self, last: int) -> None:
        self.last = last
        self._changes: deque[Change | None] = deque()
        self._times: deque[float] = deque()
        """When each change came."""
        self._size = 0
        self._merged_after = -1
        self._merged = Notification(None)

    def add(self, change: Change | None) -> None:
        """Keep a change; None stands for one whose content is not known."""
        self.last += 1
        self._merged_after = -1
        self._changes.append(change)
        self._times.append(perf_counter())
        self._size += _size(change)
        while len(self._changes) > BACKLOG_CHANGES or (
            self._size > BACKLOG_BYTES and len(self._changes) > 1
        ):
            self._size -= _size(self._changes.popleft())
            self._times.popleft()

    def age(self, number: int) -> float:
        """Seconds since the change after ``number``, or since the oldest that is kept."""
        missed = min(self.last - number, len(self._times))
        return perf_counter() - self._times[-missed]

    def since(self, number: int) -> Notification:
        """Everything after change ``number`` as one notification, shared by all who ask for it."""
        if number != self._merged_after:
            self._merged_after = number
            missed = self.last - number
            changes = self._changes
            self._merged = (
                merged(list(changes)[-missed:]) if missed <= len(changes) else Notification(None)
            )
        return self._merged


def _size(change: Change | None) -> int:
    return 0 if change is None or change.data is None else len(change.data)


def merged(changes: Sequence[Change | None]) -> Notification:
    """One notification for consecutive bytes of one timeline; else "look at the store"."""
    last = changes[-1]
    if len(changes) == 1 or last is None:
        return Notification(last)
    parts: list[bytes] = []
    position: int | None = None
    for change in changes:
        if (
            change is None
            or change.data is None
            or change.gone
            or change.incarnation != last.incarnation
            or change.timeline != last.timeline
            or position not in (None, change.tail - len(change.data))
        ):
            return Notification(None)
        parts.append(change.data)
        position = change.tail
    return Notification(
        Change(
            last.path,
            last.incarnation,
            last.tail,
            last.closed,
            data=b"".join(parts),
            timeline=last.timeline,
        )
    )


class Subscriber(Protocol):
    """A reader that waits for a stream."""

    def notify(self, notification: Notification) -> None:
        """Called in the event loop; must neither wait nor raise."""


class StreamSubscribers:
    """The subscribers of one stream, each with the number of the last change it was notified of.

    They are kept in the order of these numbers, so those furthest behind come first. A change
    that everybody learns at once gets no number.
    """

    __slots__ = ("_backlog", "_last", "caught_up", "members")

    def __init__(self) -> None:
        self.members: dict[Subscriber, int] = {}
        # Exists only while a subscriber is behind.
        self._backlog: Backlog | None = None
        self._last = 0
        self.caught_up = True
        """Whether no subscriber is behind and none is being notified right now."""

    def add(self, subscriber: Subscriber) -> None:
        """Notify it of what is published from now on."""
        self.members[subscriber] = self._last

    def notify_all(self, notification: Notification) -> None:
        """Notify every subscriber now; none may be behind."""
        self.caught_up = False
        members = self.members
        for subscriber in tuple(members):
            # It may have left while another was notified.
            if subscriber not in members:
                continue
            try:
                subscriber.notify(notification)
            except Exception:
                log.exception("a live reader failed")
        self._check_caught_up()

    def defer(self, change: Change | None) -> None:
        """Keep a change for every subscriber's next turn."""
        if self._backlog is None:
            self._backlog = Backlog(self._last)
        self._backlog.add(change)
        self._last += 1
        self.caught_up = False

    def notify_slice(self, most: int, lag: Histogram) -> int:
        """Notify those furthest behind of what they missed; returns how many were notified.

        ``lag`` counts how long each has waited.
        """
        backlog = self._backlog
        assert backlog is not None
        members = self.members
        count = 0
        for number, equally_behind in groupby(tuple(islice(members.items(), most)), itemgetter(1)):
            last = self._last
            if number == last:
                # Fewer than a slice were behind.
                break
            notification = backlog.since(number)
            before = count
            for subscriber, _ in equally_behind:
                if subscriber not in members:
                    # It left while another was notified.
                    continue
                if last != self._last:
                    # Another change was published while one was notified.
                    last = self._last
                    notification = backlog.since(number)
                del members[subscriber]
                members[subscriber] = last
                count += 1
                try:
                    subscriber.notify(notification)
                except Exception:
                    log.exception("a live reader failed")
            lag.observe(backlog.age(number), count - before)
        self._check_caught_up()
        return count

    def _check_caught_up(self) -> None:
        if next(iter(self.members.values()), self._last) == self._last:
            self.caught_up = True
            self._backlog = None


class Fanout:
    """All subscribers of one engine, by stream path."""

    def __init__(self, max_subscribers: int, meter: EngineMeter) -> None:
        self._lag = meter.lag
        self._streams: dict[str, StreamSubscribers] = {}
        self._max = max_subscribers
        # Streams with a subscriber that is behind, in the order of their turns.
        self._behind: OrderedDict[StreamSubscribers, None] = OrderedDict()
        self._left = SLICE
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def behind(self) -> bool:
        """Whether any subscriber still has to be notified of something."""
        return bool(self._behind)

    def subscribers(self, path: str) -> int:
        """How many subscribers wait for a stream."""
        stream = self._streams.get(path)
        return 0 if stream is None else len(stream.members)

    def subscribe(self, path: str, subscriber: Subscriber) -> Callable[[], None]:
        """Subscribe to a stream, before looking at it; returns a function that unsubscribes.

        Raises :class:`ProtocolError` (429) when the stream has too many subscribers.
        """
        stream = self._streams.get(path)
        if stream is None:
            stream = self._streams[path] = StreamSubscribers()
        elif len(stream.members) >= self._max:
            raise ProtocolError(
                "Too many readers wait on this stream; try again later.",
                status=429,
                code="too-many-readers",
                headers={"Retry-After": "5"},
            )
        stream.add(subscriber)

        def unsubscribe() -> None:
            stream.members.pop(subscriber, None)
            if not stream.members and self._streams.get(path) is stream:
                del self._streams[path]
                self._behind.pop(stream, None)

        return unsubscribe

    def publish(self, changes: Sequence[Change] | None) -> None:
        """Notify the subscribers of each changed stream, at once or in turn; None: of all streams.

        Each subscriber sees the changes in order, also when notifying one of them leads to another
        call of this method.
        """
        streams = self._streams
        if not streams:
            return
        if changes is None:
            for stream in streams.values():
                self._defer(stream, None)
            return
        for change in changes:
            stream_subscribers = streams.get(change.path)
            if stream_subscribers is None:
                continue
            count = len(stream_subscribers.members)
            if stream_subscribers.caught_up and (count <= FEW or count <= self._left):
                if count > FEW:
                    self._left -= count
                    self._schedule()
                stream_subscribers.notify_all(Notification(change))
                # The shortest: they were notified within the call.
                self._lag.counts[0] += count
            else:
                self._defer(stream_subscribers, change)

    def _defer(self, stream: StreamSubscribers, change: Change | None) -> None:
        stream.defer(change)
        self._behind[stream] = None
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Notify one slice, stream by stream in turn, and leave the rest to the next turn."""
        self._scheduled = False
        self._left = SLICE
        behind = self._behind
        while behind and self._left > 0:
            stream, _ = behind.popitem(last=False)
            self._left -= stream.notify_slice(self._left, self._lag)
            if not stream.caught_up:
                behind[stream] = None
        if behind or self._left < SLICE:
            self._schedule()
