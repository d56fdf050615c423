"""Who waits for what: one topic per stream that somebody follows.

Waiting is register, then check, then wait, or a wake-up is lost. What the store's ``watch`` brings
is told once to everybody at the topic; a page or frame made of it is made once and shared by all
who stand at the same position.

Nobody's turn of the event loop is spent on telling everybody. A small topic is told inside
``publish``. A large one is told in slices, one each turn, those longest behind first; meanwhile
more may be published there, and whose turn comes is told all that it has missed at once (see
:mod:`~durable_streams_server.news`). So appends wait for no reader, and when there is more to tell
than can be told, readers get it in larger pieces and not ever later.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

from durable_streams_core.entities import Change
from durable_streams_core.errors import ProtocolError
from durable_streams_server.news import Backlog, News

log = logging.getLogger("durable_streams_server.engine")

SLICE = 256
"""Listeners of large topics told in one turn of the loop: about two milliseconds."""
FEW = 16
"""So many at one topic are always told at once: that costs about what the append does."""


class Listener(Protocol):
    """Anything that waits at a topic."""

    def news(self, news: News) -> None:
        """Called in the event loop; must neither wait nor raise."""


class Topic:
    """The listeners of one stream, each with the number of the last news that it was told.

    They are in the order of these numbers, so those longest behind come first. News that everybody
    is told of at once get no number.
    """

    __slots__ = ("_backlog", "_last", "at_once", "listeners")

    def __init__(self) -> None:
        self.listeners: dict[Listener, int] = {}
        # Only while somebody is behind.
        self._backlog: Backlog | None = None
        self._last = 0
        self.at_once = True
        """Whether nobody is behind, nor just being told something."""

    def add(self, listener: Listener) -> None:
        """Tell it what is published from now on."""
        self.listeners[listener] = self._last

    def tell_all(self, news: News) -> None:
        """Tell everybody, nobody being behind."""
        self.at_once = False
        listeners = self.listeners
        for listener in tuple(listeners):
            # It may have left when another was told.
            if listener not in listeners:
                continue
            try:
                listener.news(news)
            except Exception:
                log.exception("a live reader failed")
        self._settle()

    def gather(self, change: Change | None) -> None:
        """Keep something for everybody to be told in their turn."""
        if self._backlog is None:
            self._backlog = Backlog(self._last)
        self._backlog.add(change)
        self._last += 1
        self.at_once = False

    def tell_behind(self, most: int) -> int:
        """Tell those longest behind what they missed; returns how many were told."""
        backlog = self._backlog
        assert backlog is not None
        listeners = self.listeners
        count = 0
        for listener in tuple(islice(listeners, most)):
            told = listeners.get(listener)
            if told is None or told == self._last:
                # It left when another was told, or the last that are behind were fewer.
                continue
            del listeners[listener]
            listeners[listener] = self._last
            count += 1
            try:
                listener.news(backlog.since(told))
            except Exception:
                log.exception("a live reader failed")
        self._settle()
        return count

    def _settle(self) -> None:
        if next(iter(self.listeners.values()), self._last) == self._last:
            self.at_once = True
            self._backlog = None


class Topics:
    """The topics of one engine."""

    def __init__(self, max_listeners: int) -> None:
        self._topics: dict[str, Topic] = {}
        self._max = max_listeners
        # Topics where somebody is behind, in the order of their turns.
        self._behind: OrderedDict[Topic, None] = OrderedDict()
        self._left = SLICE
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._topics)

    @property
    def behind(self) -> bool:
        """Whether somebody has still to be told something."""
        return bool(self._behind)

    def listeners(self, path: str) -> int:
        """How many wait for news of a stream."""
        topic = self._topics.get(path)
        return 0 if topic is None else len(topic.listeners)

    def join(self, path: str, listener: Listener) -> Callable[[], None]:
        """Register before looking at the stream. Call what is returned to leave."""
        topic = self._topics.get(path)
        if topic is None:
            topic = self._topics[path] = Topic()
        elif len(topic.listeners) >= self._max:
            raise ProtocolError(
                "Too many readers wait on this stream; try again later.",
                status=429,
                code="too-many-readers",
                headers={"Retry-After": "5"},
            )
        topic.add(listener)

        def leave() -> None:
            topic.listeners.pop(listener, None)
            if not topic.listeners and self._topics.get(path) is topic:
                del self._topics[path]
                self._behind.pop(topic, None)

        return leave

    def publish(self, changes: Sequence[Change] | None) -> None:
        """Tell everybody concerned, at once or in their turn; None concerns everybody.

        What each listener hears is in order, also when telling one makes another call of this.
        """
        topics = self._topics
        if not topics:
            return
        if changes is None:
            for topic in topics.values():
                self._tell_later(topic, None)
            return
        for change in changes:
            found = topics.get(change.path)
            if found is None:
                continue
            many = len(found.listeners)
            if found.at_once and (many <= FEW or many <= self._left):
                if many > FEW:
                    self._left -= many
                    self._schedule()
                found.tell_all(News(change))
            else:
                self._tell_later(found, change)

    def _tell_later(self, topic: Topic, change: Change | None) -> None:
        topic.gather(change)
        self._behind[topic] = None
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Tell a slice, each topic in its turn, and leave the rest to the next turn of the loop."""
        self._scheduled = False
        self._left = SLICE
        behind = self._behind
        while behind and self._left > 0:
            topic, _ = behind.popitem(last=False)
            self._left -= topic.tell_behind(self._left)
            if not topic.at_once:
                behind[topic] = None
        if behind or self._left < SLICE:
            self._schedule()
