"""A long-poll: one page, waited for at the tail (§5.7)."""

import asyncio
from collections.abc import Callable

import msgspec

from durable_streams_core.entities import Change
from durable_streams_core.errors import InvalidRequest, OffsetGone, ProtocolError
from durable_streams_server.engine.fanout import Notification
from durable_streams_server.engine.pages import Page
from durable_streams_server.http.live import Reader, Readers
from durable_streams_server.http.messages import Pending


class LongPoll(Reader):
    """Waits at the tail for one page (§5.7). Created registered; ``wait`` begins it."""

    __slots__ = ("_pending", "_reading", "_respond", "_timer", "_told", "cursor")

    def __init__(self, readers: Readers, path: str, cursor: str | None) -> None:
        super().__init__(readers, path)
        self.cursor = cursor
        self._timer: asyncio.TimerHandle | None = None
        self._reading = self._told = False

    def wait(
        self,
        page: Page,
        pending: Pending,
        respond: Callable[[Pending, Page | ProtocolError, str], None],
    ) -> None:
        """Wait from the end of an empty page; ``respond`` makes the response of what comes."""
        self.see(page)
        self.position, self.timeline = page.end, page.timeline
        self._pending = pending
        self._respond = respond
        pending.on_cancel(self.leave)
        self.enlist()
        timeout = self.engine.limits.long_poll_timeout
        self._timer = asyncio.get_running_loop().call_later(timeout, self.finish)
        if self._told:
            # Something came after the page was read and before it arrived here.
            self._look(None)

    def leave(self) -> None:
        super().leave()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def notify(self, notification: Notification) -> None:
        change = notification.change
        if self._timer is None or self._reading:
            # The page that is being read may be older than this.
            self._told = True
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
                and len(data) <= self.engine.limits.chunk
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
        self._reading = True
        self._told = False
        self.read(self.engine.limits.chunk, self._looked, notification)

    def _looked(self, page: Page | ProtocolError) -> None:
        self._reading = False
        if isinstance(page, Page) and not (page.data or page.closed):
            if self._told and self._timer is not None:
                self._look(None)
            return
        self._complete(page)

    def finish(self) -> None:
        """The time is up: respond with what is there by now, which may be nothing."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._reading = True
        self.read(self.engine.limits.chunk, self._complete)

    def _complete(self, page: Page | ProtocolError) -> None:
        if self._timer is None:
            return
        self._task = None
        self.leave()
        if isinstance(page, InvalidRequest):
            # It was an offset of the stream when the wait began.
            page = OffsetGone()
        self._respond(self._pending, page, self.engine.cursor(self.cursor))
