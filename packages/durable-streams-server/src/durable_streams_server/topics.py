"""Who waits for what: one topic per stream that somebody follows.

Waiting is register, then check, then wait, or a wake-up is lost. What the store's ``watch`` brings
is told once per batch to everybody at the topic; a page or frame made of it is made once and
shared by all who stand at the same position.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from durable_streams_core.entities import Change
from durable_streams_core.errors import ProtocolError

log = logging.getLogger("durable_streams_server.engine")


class News:
    """One change at a topic, or None-like for a resync: look at the store again.

    ``start`` and ``end`` are the positions of ``data``, when the change brought its bytes.
    ``shared`` keeps what listeners derived from it, so that it is derived once.
    """

    __slots__ = ("change", "shared", "start")

    def __init__(self, change: Change | None) -> None:
        self.change = change
        self.start = -1
        if change is not None and change.data is not None:
            self.start = change.tail - len(change.data)
        self.shared: dict[object, object] = {}


class Listener(Protocol):
    """Anything that waits at a topic."""

    def news(self, news: News) -> None:
        """Called in the event loop; must neither wait nor raise."""


class Topics:
    """The topics of one engine."""

    def __init__(self, max_listeners: int) -> None:
        self._topics: dict[str, dict[Listener, None]] = {}
        self._max = max_listeners

    def __len__(self) -> int:
        return len(self._topics)

    def listeners(self, path: str) -> int:
        """How many wait for news of a stream."""
        return len(self._topics.get(path, ()))

    def join(self, path: str, listener: Listener) -> Callable[[], None]:
        """Register before looking at the stream. Call what is returned to leave."""
        topic = self._topics.get(path)
        if topic is None:
            topic = self._topics[path] = {}
        elif len(topic) >= self._max:
            raise ProtocolError(
                "Too many readers wait on this stream; try again later.",
                status=429,
                code="too-many-readers",
                headers={"Retry-After": "5"},
            )
        topic[listener] = None

        def leave() -> None:
            topic.pop(listener, None)
            if not topic and self._topics.get(path) is topic:
                del self._topics[path]

        return leave

    def publish(self, changes: Sequence[Change] | None) -> None:
        """Tell everybody concerned; None concerns everybody."""
        topics = self._topics
        if changes is None:
            for topic in list(topics.values()):
                self._tell(topic, News(None))
            return
        if not topics:
            return
        for change in changes:
            found = topics.get(change.path)
            if found:
                self._tell(found, News(change))

    @staticmethod
    def _tell(topic: dict[Listener, None], news: News) -> None:
        for listener in tuple(topic):
            try:
                listener.news(news)
            except Exception:
                log.exception("a live reader failed")
