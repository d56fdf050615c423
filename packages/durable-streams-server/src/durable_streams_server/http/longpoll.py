"""A long-poll: one page, waited for at the tail (§5.7)."""

from collections.abc import Callable
from enum import Enum
from typing import Final

import msgspec

from durable_streams_core.entities import Change
from durable_streams_core.errors import InvalidRequest, OffsetGone, ProtocolError
from durable_streams_core.protocol import LIVE_LONG_POLL
from durable_streams_server.engine.fanout import Notification
from durable_streams_server.engine.pages import Page
from durable_streams_server.http.live import Reader, Registration
from durable_streams_server.http.messages import Pending


class LongPollPhase(Enum):
    """The state of a long-poll. An empty page leads from reading back to waiting."""

    WAITING = "waiting"
    READING = "reading"
    ENDED = "ended"


# Looking a member up in its enum costs more than calling a function.
_WAITING: Final = LongPollPhase.WAITING
_READING: Final = LongPollPhase.READING
_ENDED: Final = LongPollPhase.ENDED


class LongPoll(Reader):
    """Waits at the tail for one page (§5.7)."""

    __slots__ = ("_cursor", "_missed", "_pending", "_phase", "_respond")

    mode = LIVE_LONG_POLL

    def __init__(
        self,
        registration: Registration,
        page: Page,
        pending: Pending,
        respond: Callable[[Pending, Page | ProtocolError, str], None],
        cursor: str | None,
    ) -> None:
        """Wait from the end of an empty page; ``respond`` makes a response of the next one."""
        super().__init__(registration, page, page.end)
        self._cursor = cursor
        self._pending = pending
        self._respond = respond
        self._phase = _WAITING
        self._missed = False
        """Whether something happened while a page was read."""
        pending.on_cancel(self.leave)
        self.enlist()
        registration.readers.time_limits.add(self)
        if registration.missed:
            self._look(None)

    def leave(self) -> None:
        self._phase = _ENDED
        super().leave()
        self._readers.time_limits.discard(self)

    def notify(self, notification: Notification) -> None:
        change = notification.change
        if self._phase is not _WAITING:
            # The page that is being read may be older than this.
            self._missed = True
            return
        if change is not None and self.concerns(change) and not change.gone:
            same_timeline = change.timeline == self.timeline
            if same_timeline and change.tail == self.position and not change.closed:
                return
            data = change.data
            if (
                notification.start == self.position
                and same_timeline
                and data is not None
                and len(data) <= self.engine.limits.page_bytes
            ):
                page = notification.shared.get("page")
                if page is None:
                    page = notification.shared["page"] = self._page_of(change, data)
                assert isinstance(page, Page)
                self._complete(page)
                return
        self._look(notification)

    def _page_of(self, change: Change, data: bytes) -> Page:
        """The page that a change brought with it, without a look at the store."""
        birth, old = self._birth, self._head
        head = msgspec.structs.replace(old, tail=change.tail, closed=change.closed)
        start = change.tail - len(data)
        return Page(head, birth, start, change.tail, data, True, change.closed, change.timeline)

    def _look(self, notification: Notification | None) -> None:
        self._phase = _READING
        self._missed = False
        self.read(self.engine.limits.page_bytes, self._looked, notification)

    def _looked(self, page: Page | ProtocolError) -> None:
        if self._phase is _ENDED:
            return
        if isinstance(page, ProtocolError) or page.data or page.closed:
            self._complete(page)
            return
        self._phase = _WAITING
        if self._missed:
            self._look(None)

    def finish(self) -> None:
        """The time is up: respond with what is there by now, which may be nothing."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._phase = _READING
        self.read(self.engine.limits.page_bytes, self._complete)

    def _complete(self, page: Page | ProtocolError) -> None:
        if self._phase is _ENDED:
            return
        self._task = None
        self.leave()
        if isinstance(page, InvalidRequest):
            # It was an offset of the stream when the wait began.
            page = OffsetGone()
        self._respond(self._pending, page, self.engine.cursor(self._cursor))
