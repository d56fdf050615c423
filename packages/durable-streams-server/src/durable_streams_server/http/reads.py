"""What reads streams: GET in its three modes, and HEAD (§5.5 to §5.8)."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from durable_streams_core.content import to_page
from durable_streams_core.entities import Head
from durable_streams_core.errors import InvalidRequest, PreconditionFailed, ProtocolError
from durable_streams_core.expiry import format_time
from durable_streams_core.offsets import BEGINNING, Offset
from durable_streams_core.protocol import LIVE_LONG_POLL, LIVE_SSE, NOW, START
from durable_streams_core.reads import etag, parse_read_offset
from durable_streams_core.streams import birth_of
from durable_streams_server.engine.engine import Engine
from durable_streams_server.engine.pages import Page
from durable_streams_server.http import compression, headers, names
from durable_streams_server.http.conditions import Conditions, parse_conditions
from durable_streams_server.http.errors import internal_error
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.live import Registration
from durable_streams_server.http.longpoll import LongPoll
from durable_streams_server.http.messages import (
    AnyResponse,
    Live,
    Pending,
    Response,
    awaited,
)
from durable_streams_server.http.parsing import parse_query
from durable_streams_server.http.sse import SseReader, needs_base64, page_bytes

log = logging.getLogger("durable_streams_server.http")


_NONE_KEPT: Final = (None, None)


class Describing(Exchange):
    """HEAD."""

    def _respond(self, body: bytes) -> AnyResponse:
        conditions = parse_conditions(self.request)
        head = None if conditions is not None else self._engine.head_nowait(self.path)
        if head is not None:
            return self._described(head)
        return self._later(self._head_later(conditions))

    async def _head_later(self, conditions: Conditions | None) -> Response:
        described = self._described(await self._engine.live_head(self.path))
        if conditions is not None:
            try:
                await conditions.check(self._engine, self.path)
            except PreconditionFailed:
                if conditions.requires_stream:
                    raise
                return Response(304, described.headers)
        return described

    def _described(self, head: Head) -> Response:
        birth = birth_of(head)
        fields = [
            *self._common,
            headers.content_type(birth),
            headers.next_offset(head.tail_timeline, head.tail),
            headers.NO_STORE,
        ]
        if head.closed:
            fields.append(headers.CLOSED)
        if birth.ttl is not None:
            fields.append((names.STREAM_TTL, b"%d" % birth.ttl))
        if birth.expires_at is not None:
            fields.append((names.STREAM_EXPIRES_AT, format_time(birth.expires_at).encode()))
        return Response(200, fields)


class Reading(Exchange):
    """GET: one page, a long-poll, or events."""

    _query: tuple[Offset | None, bool, str | None, str | None] | None = None

    def _parsed(self) -> tuple[Offset | None, bool, str | None, str | None]:
        """Offset (None: the tail), whether that was asked for as ``now``, mode and cursor."""
        token, live, cursor = parse_query(self.request.query)
        if live == LIVE_SSE:
            token = self._resumed_offset() or token
        if live is not None:
            if live not in (LIVE_LONG_POLL, LIVE_SSE):
                raise InvalidRequest(
                    "The live modes are long-poll and sse.", code="invalid-live-mode"
                )
            if token is None:
                raise InvalidRequest(
                    f"A live read needs an offset: one of this stream, {START} or {NOW}.",
                    code="missing-offset",
                )
        offset = BEGINNING if token is None else parse_read_offset(token)
        return offset, token == NOW, live, cursor

    def _resumed_offset(self) -> str | None:
        """Where an ``EventSource`` that reconnects stands: its ``Last-Event-ID``, if it has one."""
        return self.request.text(names.LAST_EVENT_ID) or None

    def _respond(self, body: bytes) -> AnyResponse:
        query = self._query
        if query is None:
            # Once, and after access was permitted: an error tells something too.
            query = self._query = self._parsed()
        offset, now, live, cursor = query
        if live is not None:
            self.kind = live
        if live is None:
            page = self._engine.page_nowait(self.path, offset)
            if page is None:
                return self._look(offset, now=now)
            return self._caught_up(page, now=now)
        if live == LIVE_SSE:
            return self._sse(offset, cursor)
        return self._long_poll(offset, cursor)

    # One page (§5.6).

    def _look(self, offset: Offset | None, *, now: bool) -> Pending:
        """Wait for the page, without a task where the store can look at the stream without one."""
        pending = Pending()

        def found(page: Page | Head | Exception) -> None:
            response: Response | Pending
            try:
                if isinstance(page, Page):
                    response = self._caught_up(page, now=now)
                elif isinstance(page, Head):
                    response = self._later(self._catch_up_later(offset, page, now=now))
                else:
                    raise page
            except ProtocolError as error:
                response = self.problem(error)
            except Exception:
                log.exception("responding to a request failed")
                response = self.problem(internal_error())
            self._resolve(pending, response)

        if self._engine.look_for_page(self.path, offset, found):
            return pending
        return self._later(self._catch_up_later(offset, now=now))

    async def _catch_up_later(
        self, offset: Offset | None, head: Head | None = None, *, now: bool
    ) -> Response | Live:
        page = await self._engine.page(self.path, offset, head=head)
        response = self._caught_up(page, now=now)
        if isinstance(response, Pending):
            return await awaited(response)
        return response

    def _caught_up(self, page: Page, *, now: bool) -> Response | Pending:
        if now:
            lines = self._page_lines(page, headers.NO_STORE_LINE)
            return Response(200, body=to_page(page.birth.kind, b""), lines=lines)
        return self._page_response(page, None)

    def _page_lines(self, page: Page, more: bytes) -> bytes:
        """The headers of a page's response: those of every page, and ``more``."""
        return self._context.common_headers.page_lines(self._common, page) + more

    def _page_response(self, page: Page, cursor: str | None) -> Response | Pending:
        context = self._context
        options = context.options
        request = self.request.headers
        birth = page.birth
        coding = ""
        compressible = (
            len(page.data) >= compression.MIN_BYTES
            and options.compress
            and compression.is_compressible(birth.content_type)
        )
        if compressible and compression.accepts_gzip(request.get(names.ACCEPT_ENCODING)):
            coding = compression.GZIP
        conditions = None if self.request.ordinary else parse_conditions(self.request)
        plain = cursor is None and conditions is None
        if plain:
            # Each front end has its own object for the common headers of most requests.
            common, kept = page.responses.get(coding, _NONE_KEPT)
            if common is self._common:
                response: Response = kept
                return response
        # Only a page with more behind it says the same for ever. One that reaches the tail grows,
        # and a cache that kept it would hide appends, a close and a deletion.
        lines = headers.NO_CACHE_LINE if page.up_to_date else context.cache_line
        if cursor is not None and not page.closed:
            lines += headers.cursor_line(cursor)
        if compressible:
            lines += headers.VARY_ENCODING_LINE
        tag = etag(
            page.head, page.start, page.offset, page.closed, coding, more=not page.up_to_date
        )
        lines += headers.etag_line(tag)
        if conditions is not None:
            try:
                conditions.check_page(tag)
            except PreconditionFailed as error:
                return self.problem(error)
            if conditions.is_fresh(tag):
                return Response(304, lines=self._page_lines(page, lines))
        body = to_page(birth.kind, page.data)
        if coding:
            lines += headers.GZIP_LINE
            if len(body) >= compression.OFF_LOOP_BYTES:
                return self._later(self._compressed(self._page_lines(page, lines), body))
            body = compression.compress(body)
        response = Response(200, body=body, lines=self._page_lines(page, lines))
        if plain:
            page.responses[coding] = self._common, response
        return response

    @staticmethod
    async def _compressed(lines: bytes, body: bytes) -> Response:
        compressed = await asyncio.to_thread(compression.compress, body)
        return Response(200, body=compressed, lines=lines)

    # A long-poll (§5.7).

    def _long_poll(self, offset: Offset | None, cursor: str | None) -> AnyResponse:
        pending = Pending()

        def begin(registration: Registration, page: Page) -> None:
            if page.data or page.closed or self._context.readers.closing:
                registration.leave()
                self._resolve(pending, self._polled(page, self._engine.cursor(cursor)))
            else:
                LongPoll(registration, page, pending, self._poll_done, cursor)

        self._first_page(offset, None, pending, begin)
        return pending.result or pending

    def _poll_done(self, pending: Pending, page: Page | ProtocolError, cursor: str) -> None:
        if isinstance(page, ProtocolError):
            pending.resolve(self.problem(page))
        else:
            self._resolve(pending, self._polled(page, cursor))

    def _polled(self, page: Page, cursor: str) -> Response | Pending:
        if page.data:
            return self._page_response(page, cursor)
        lines = headers.NO_STORE_LINE
        if not page.closed:
            lines += headers.cursor_line(cursor)
        return Response(204, lines=self._page_lines(page, lines))

    # Events (§5.8).

    def _sse(self, offset: Offset | None, cursor: str | None) -> AnyResponse:
        pending = Pending()

        def begin(registration: Registration, page: Page) -> None:
            pending.resolve(self._live(registration, page, cursor))

        self._first_page(offset, page_bytes(self._engine), pending, begin)
        return pending.result or pending

    def _live(self, registration: Registration, page: Page, cursor: str | None) -> Live | Response:
        if page.closed and not page.data and self._resumed_offset() is not None:
            # It has everything. 204 is what stops an EventSource from reconnecting for ever.
            registration.leave()
            return Response(204, lines=self._page_lines(page, headers.NO_STORE_LINE))
        fields = [*self._common, headers.SSE_TYPE, headers.NO_CACHE, (b"x-accel-buffering", b"no")]
        if needs_base64(page):
            fields.append(headers.SSE_BASE64)
        return SseReader(registration, page, Response(200, fields), cursor)

    # Both.

    def _first_page(
        self,
        offset: Offset | None,
        limit: int | None,
        pending: Pending,
        begin: Callable[[Registration, Page], None],
    ) -> None:
        """Register, look at the stream, and begin with the page that is there."""
        limited = self._context.options.limiter is not None
        registration = Registration(
            self._context.readers, self.path, self.principal if limited else None
        )
        try:
            page = self._engine.page_nowait(self.path, offset, limit)
            if page is not None:
                begin(registration, page)
            else:
                _FirstPage(self, self._engine, registration, pending, begin).look(offset, limit)
        except BaseException:
            registration.leave()
            raise

    @staticmethod
    def _resolve(pending: Pending, response: Response | Pending) -> None:
        if isinstance(response, Pending):
            pending.on_cancel(response.cancel)
            response.then(pending.resolve)
        else:
            pending.resolve(response)


class _FirstPage:
    """Looks for the first page of a live read where that takes a while.

    An object, because functions that refer to each other would keep the response until the garbage
    collector runs.
    """

    __slots__ = ("_begin", "_engine", "_gone", "_pending", "_reading", "_registration", "_task")

    def __init__(
        self,
        reading: Reading,
        engine: Engine,
        registration: Registration,
        pending: Pending,
        begin: Callable[[Registration, Page], None],
    ) -> None:
        self._reading = reading
        self._engine = engine
        self._registration = registration
        self._pending = pending
        self._begin = begin
        self._task: asyncio.Task[None] | None = None
        self._gone = False

    def look(self, offset: Offset | None, limit: int | None) -> None:
        """Begin to look."""
        engine = self._engine

        def found(page: Page | Head | Exception) -> None:
            if isinstance(page, Head):
                if not self._gone:
                    self._task = engine.spawn(self._wait(offset, limit, page))
            else:
                self._found(page)

        self._pending.on_cancel(self._cancel)
        if not engine.look_for_page(self._reading.path, offset, found, limit):
            self._task = engine.spawn(self._wait(offset, limit, None))

    async def _wait(self, offset: Offset | None, limit: int | None, head: Head | None) -> None:
        try:
            page: Page | Exception = await self._engine.page(
                self._reading.path, offset, limit, head=head
            )
        except asyncio.CancelledError:
            self._registration.leave()
            raise
        except Exception as error:
            page = error
        self._found(page)

    def _found(self, page: Page | Exception) -> None:
        if self._gone:
            return
        try:
            if isinstance(page, Exception):
                raise page
            self._begin(self._registration, page)
        except ProtocolError as error:
            self._registration.leave()
            self._pending.resolve(self._reading.problem(error))
        except Exception:
            log.exception("a live read failed")
            self._registration.leave()
            self._pending.resolve(self._reading.problem(internal_error()))

    def _cancel(self) -> None:
        self._gone = True
        if self._task is not None:
            # If it has not begun yet, it ends without a word.
            self._task.cancel()
        self._registration.leave()
