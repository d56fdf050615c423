"""Live answers: long-polls and SSE (§5.7, §5.8).

Both are listeners at a topic: registered before they look at the stream, told of each commit
once, and never advanced past bytes that they did not get, be it at a time limit, a close or a
shutdown. What is the same for many readers is made once and shared through the news.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable

from durable_streams_core.content import Kind, incomplete_suffix
from durable_streams_core.entities import Change, Head
from durable_streams_core.errors import InvalidRequest, ProtocolError
from durable_streams_core.offsets import format_offset
from durable_streams_core.operations import Touch
from durable_streams_core.sse import KEEP_ALIVE, encode_control, encode_data
from durable_streams_server.engine import Engine
from durable_streams_server.http.messages import Pending, Response, Sink
from durable_streams_server.news import News
from durable_streams_server.pages import Page

log = logging.getLogger("durable_streams_server.http")

SSE_PAGE_BYTES = 64 * 1024
"""What one SSE event carries in catch-up, and so about what a client that stalls may cost."""
KEPT_FRAMES = 16
TICK_SECONDS = 1.0


class Readers:
    """The live readers of one front end: their clock, and their farewell."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._readers: set[Reader] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._frames: OrderedDict[tuple[str, int, int, bool], bytes] = OrderedDict()
        self.closing = False
        self.now = 0.0
        """The loop's time at the last tick: near enough for keep-alives, and free to read."""

    def __len__(self) -> int:
        return len(self._readers)

    def add(self, reader: "Reader") -> None:
        self._readers.add(reader)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self.now = loop.time()
            self._timer = loop.call_later(TICK_SECONDS, self._tick)

    def discard(self, reader: "Reader") -> None:
        self._readers.discard(reader)
        if not self._readers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_event(self, page: Page, data: bytes, *, base64: bool) -> bytes:
        """The data event of a page, encoded once for a herd that reads the same bytes."""
        frames = self._frames
        key = (page.head.incarnation, page.start, len(data), base64)
        frame = frames.get(key)
        if frame is None:
            frame = frames[key] = encode_data(page.birth.kind, data, base64=base64)
            if len(frames) > KEPT_FRAMES:
                frames.popitem(last=False)
        return frame

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(TICK_SECONDS, self._tick)
        now = self.now = loop.time()
        for reader in tuple(self._readers):
            try:
                reader.tick(now)
            except Exception:
                log.exception("a live reader's timer failed")

    def close(self) -> None:
        """Answer every long-poll and end every SSE response, as at a time limit."""
        self.closing = True
        for reader in tuple(self._readers):
            reader.farewell()


class Reader:
    """What long-polls and SSE readers share: a place at a topic, and a life to renew."""

    __slots__ = (
        "_leave", "_readers", "_seen", "_task", "_touch_at", "engine", "incarnation", "path",
        "position", "ttl",
    )  # fmt: skip

    def __init__(self, readers: Readers, path: str) -> None:
        """Join the topic: before looking at the stream. Raises when it is full."""
        self._readers = readers
        self.engine = readers.engine
        self.path = path
        self.position = 0
        self.incarnation = ""
        self.ttl: int | None = None
        self._touch_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._leave: Callable[[], None] = self.engine.topics.join(path, self)

    def see(self, page: Page) -> None:
        """Begin from a first page, which renewed the stream's life."""
        self._seen = page
        self.incarnation = page.head.incarnation
        self.ttl = page.birth.ttl

    def enlist(self) -> None:
        """Be told of the time from now on."""
        if self.ttl is not None:
            self._touch_at = asyncio.get_running_loop().time() + self.ttl / 10
        self._readers.add(self)

    def news(self, news: News) -> None:
        raise NotImplementedError

    def tick(self, now: float) -> None:
        """A stream that has live readers does not expire (§5.1)."""
        if self.ttl is not None and now >= self._touch_at:
            self._touch_at = now + max(TICK_SECONDS, self.ttl / 10)
            try:
                self.engine.submit(self.path, Touch(), _ignore)
            except ProtocolError as error:
                log.warning("renewing a stream's life failed: %s", error)

    def farewell(self) -> None:
        raise NotImplementedError

    def leave(self) -> None:
        """Stop listening; safe to call again."""
        self._leave()
        self._readers.discard(self)
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def concerns(self, change: Change) -> bool:
        """Whether a change is one of the incarnation that is being read."""
        return change.incarnation == self.incarnation

    def read(
        self, limit: int, then: Callable[[Page | ProtocolError], None], news: News | None = None
    ) -> None:
        """Read a page from where the reader is, at once if possible.

        Those whom the same news sent to look at the same position share one look.
        """
        if news is not None:
            key = (self.position, limit)
            look = news.shared.get(key)
            if isinstance(look, _SharedLook):
                look.join(then)
                return
            news.shared[key] = look = _SharedLook(then)
            then = look.settle
        try:
            page = self.engine.page_now(self.path, self.position, limit)
        except ProtocolError as error:
            then(error)
            return
        if page is not None:
            then(page)
        elif news is not None:
            # A look that is shared goes on when the reader that began it leaves.
            _ = self.engine.spawn(self._read_later(limit, then))
        else:
            self._task = asyncio.create_task(self._read_later(limit, then))

    async def _read_later(self, limit: int, then: Callable[[Page | ProtocolError], None]) -> None:
        result: Page | ProtocolError
        try:
            result = await self.engine.page(self.path, self.position, limit)
        except ProtocolError as error:
            result = error
        except Exception:
            log.exception("reading for a live reader failed")
            result = ProtocolError("The server failed; see its log.")
        then(result)


class _SharedLook:
    """One read on behalf of many readers."""

    __slots__ = ("_result", "_waiting")

    def __init__(self, first: Callable[[Page | ProtocolError], None]) -> None:
        self._waiting = [first]
        self._result: Page | ProtocolError | None = None

    def join(self, then: Callable[[Page | ProtocolError], None]) -> None:
        if self._result is None:
            self._waiting.append(then)
        else:
            then(self._result)

    def settle(self, result: Page | ProtocolError) -> None:
        self._result = result
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then(result)


class LongPoll(Reader):
    """Waits at the tail for one page (§5.7). Created registered; ``wait`` begins it."""

    __slots__ = ("_answer", "_pending", "_reading", "_timer", "_told", "asked")

    def __init__(self, readers: Readers, path: str, asked: str | None) -> None:
        super().__init__(readers, path)
        self.asked = asked
        self._timer: asyncio.TimerHandle | None = None
        self._reading = self._told = False

    def wait(
        self,
        page: Page,
        pending: Pending,
        answer: Callable[[Pending, Page | ProtocolError, str], None],
    ) -> None:
        """Wait from the end of an empty page; ``answer`` makes the response of what comes."""
        self.see(page)
        self.position = page.end
        self._pending = pending
        self._answer = answer
        pending.on_cancel(self.leave)
        self.enlist()
        timeout = self.engine.limits.long_poll_timeout
        self._timer = asyncio.get_running_loop().call_later(timeout, self.farewell)
        if self._told:
            # Something came after the page was read and before it arrived here.
            self._look(News(None))

    def leave(self) -> None:
        super().leave()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def news(self, news: News) -> None:
        change = news.change
        if self._timer is None or self._reading:
            # The page that is being read may be older than this.
            self._told = True
            return
        if change is not None and self.concerns(change) and not change.gone:
            if change.tail == self.position and not change.closed:
                return
            data = change.data
            if (
                news.start == self.position
                and data is not None
                and len(data) <= self.engine.limits.chunk
            ):
                page = news.shared.get("page")
                if page is None:
                    page = news.shared["page"] = self._page_of(change, data)
                assert isinstance(page, Page)
                self._finish(page)
                return
        self._look(news)

    def _page_of(self, change: Change, data: bytes) -> Page:
        """The page that a change brought with it, without a look at the store."""
        birth, old = self._seen.birth, self._seen.head
        head = Head(old.incarnation, old.birth, old.start, change.tail, change.closed)
        start = change.tail - len(data)
        return Page(head, birth, start, change.tail, data, True, change.closed)

    def _look(self, news: News) -> None:
        self._reading = True
        self._told = False
        self.read(self.engine.limits.chunk, self._looked, news)

    def _looked(self, page: Page | ProtocolError) -> None:
        self._reading = False
        if (
            isinstance(page, Page)
            and page.head.incarnation == self.incarnation
            and not (page.data or page.closed)
        ):
            if self._told and self._timer is not None:
                self._look(News(None))
            return
        self._finish(page)

    def farewell(self) -> None:
        """The time is up: answer with what is there by now, which may be nothing."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._reading = True
        self.read(self.engine.limits.chunk, self._finish)

    def _finish(self, page: Page | ProtocolError) -> None:
        if self._timer is None:
            return
        self._task = None
        self.leave()
        if isinstance(page, InvalidRequest) or (
            isinstance(page, Page) and page.head.incarnation != self.incarnation
        ):
            # Another stream is here now; what was an offset of the old one may be none of its.
            page = gone_meanwhile()
        self._answer(self._pending, page, self.engine.cursor(self.asked))


class SseReader(Reader):
    """One SSE response (§5.8): catch-up pages, then frames as they are committed.

    Each data event is paired with a control event and written together with it. When the sink is
    full nothing is queued: the reader falls behind and reads on from the store once it drains, so
    a slow client costs one page at most.
    """

    __slots__ = (
        "_asked", "_base64", "_behind", "_born", "_ended", "_first", "_frames_key", "_full",
        "_kind", "_live", "_reading", "_sink", "_written", "head",
    )  # fmt: skip

    def __init__(self, readers: Readers, path: str, asked: str | None) -> None:
        super().__init__(readers, path)
        self._asked = asked
        self._sink: Sink | None = None
        self._live = self._full = self._behind = self._ended = self._reading = False

    @property
    def page_bytes(self) -> int:
        return min(SSE_PAGE_BYTES, self.engine.limits.chunk)

    def begin(self, page: Page, head: Response) -> None:
        """Be ready to send, first of all, ``page``; ``head`` is the answer's head."""
        self.see(page)
        self.head = head
        self._first: Page | None = page
        self.position = page.start
        self._kind = page.birth.kind
        self._base64 = needs_base64(page)
        # Most readers of a herd bring no cursor, and are sent what another has had made.
        self._frames_key = (self._base64, None) if self._asked is None else None

    def attach(self, sink: Sink) -> None:
        self._sink = sink
        self._born = self._written = asyncio.get_running_loop().time()
        page, self._first = self._first, None
        if self._ended or page is None:
            self.leave()
            sink.end()
            return
        self.enlist()
        self._take(page, first=True)
        if self._readers.closing:
            self.farewell()

    def drained(self) -> None:
        self._full = False
        if self._behind and not self._ended:
            self._behind = False
            self._catch_up()

    def gone(self) -> None:
        self._ended = True
        self.leave()

    def farewell(self) -> None:
        """End the response so that the client comes back from where it is."""
        if not self._ended:
            self._ended = True
            self.leave()
            if self._sink is not None:
                self._sink.end()

    def tick(self, now: float) -> None:
        super().tick(now)
        if now - self._born >= self.engine.limits.sse_rotation:
            self.farewell()
        elif not self._full and now - self._written >= (
            self.engine.limits.sse_keep_alive - TICK_SECONDS / 2
        ):
            self._write(KEEP_ALIVE)

    def news(self, news: News) -> None:
        change = news.change
        if (
            news.start == self.position
            and self._live
            and not self._full
            and change is not None
            and change.incarnation == self.incarnation
        ):
            # The way that every message to every reader goes.
            frame = news.frames.get(self._frames_key) or self._frame(news, change)
            if frame is None:
                self._catch_up(news)
                return
            self.position = change.tail
            self._write(frame)
            if change.closed:
                self.farewell()
            return
        if change is not None and self.concerns(change):
            if change.gone:
                if self._sink is not None:
                    self.farewell()
                else:
                    self._ended = True
                return
            if change.tail <= self.position and not change.closed:
                return
        # It is to look, or came before the first page, or is late news of what was here before.
        if self._full or not self._live:
            self._behind = True
        else:
            self._catch_up(news)

    def _frame(self, news: News, change: Change) -> bytes | None:
        """The events of a change, encoded once for all readers at the same position.

        None where this response cannot carry the data.
        """
        data = change.data
        assert data is not None
        frames = news.frames
        event = frames.get((self._base64, "data"))
        if event is None:
            if not self._base64 and self._kind is Kind.TEXT and not is_text(data):
                return None
            event = encode_data(self._kind, data, base64=self._base64) if data else b""
            frames[self._base64, "data"] = event
        plain = self.engine.cursor(None)
        cursor = plain if self._asked is None else self.engine.cursor(self._asked)
        key = (self._base64, None)
        whole = frames.get(key) if cursor == plain else None
        if whole is None:
            whole = event + encode_control(
                format_offset(change.tail), cursor=cursor, up_to_date=True, closed=change.closed
            )
            if cursor == plain:
                frames[key] = whole
        return whole

    def _catch_up(self, news: News | None = None) -> None:
        """Read on until the tail is reached or the sink is full."""
        if self._reading:
            # What is being read may be older than what this is about; two reads at once would
            # send the same data twice.
            self._behind = True
            return
        self._live = False
        self._reading = True
        self.read(self.page_bytes, self._caught, news)

    def _caught(self, page: Page | ProtocolError) -> None:
        self._task = None
        self._reading = False
        if self._ended:
            return
        if isinstance(page, ProtocolError) or page.head.incarnation != self.incarnation:
            self.farewell()
            return
        self._take(page, first=False)

    def _take(self, page: Page, *, first: bool) -> None:
        """Send a page and decide how to go on."""
        data = page.data
        if self._kind is Kind.TEXT and not self._base64:
            # An incomplete last character waits for its other bytes.
            kept = incomplete_suffix(data)
            data = data[: len(data) - kept] if kept else data
            if not is_text(data) or (kept and page.closed):
                # Not text after all: the client comes back and is given base64.
                self.farewell()
                return
        end = page.start + len(data)
        whole = end == page.end
        closed = page.closed and whole
        if data or closed or first:
            frame = encode_control(
                format_offset(end),
                cursor=self.engine.cursor(self._asked),
                up_to_date=page.up_to_date,
                closed=closed,
            )
            if data:
                frame = self._readers.data_event(page, data, base64=self._base64) + frame
            self.position = end
            self._write(frame)
        if closed:
            self.farewell()
        elif page.up_to_date:
            self._live = True
            if self._behind and not self._full:
                # Something came while this page was being read.
                self._behind = False
                self._catch_up()
        elif self._full:
            self._behind = True
        else:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._full:
            self._behind = True
        elif not self._ended:
            self._catch_up()

    def _write(self, frame: bytes) -> None:
        assert self._sink is not None
        self._written = self._readers.now
        if not self._sink.write(frame):
            self._full = True


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def needs_base64(page: Page) -> bool:
    """Whether a response that begins with this page carries base64 (§5.8)."""
    kind = page.birth.kind
    if kind is not Kind.TEXT:
        return kind is Kind.BINARY
    kept = incomplete_suffix(page.data)
    if kept and page.closed:
        return True
    return not is_text(page.data[: len(page.data) - kept])


def gone_meanwhile() -> ProtocolError:
    return ProtocolError("The stream was deleted while you waited.", status=404, code="not-found")


def _ignore(_answer: object) -> None:
    """Renewing a life needs no answer: if it failed, the next tick tries again."""
