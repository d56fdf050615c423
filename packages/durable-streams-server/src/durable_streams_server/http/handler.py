"""The protocol's operations as HTTP: what a front end asks, in two steps.

``begin`` looks at the head alone and either answers at once (what needs no body: a wrong method,
a bad path, a declared length over the limit) or returns an :class:`Exchange`, which says how many
bytes of body it takes and, once access is permitted, answers with a response, a pending one or a
live one. Nothing is read or told of a stream before access is permitted.
"""

import asyncio
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine
from inspect import isawaitable
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from durable_streams_core.content import to_page
from durable_streams_core.entities import Head
from durable_streams_core.errors import InvalidRequest, NotFound, ProtocolError
from durable_streams_core.expiry import format_expires_at
from durable_streams_core.operations import (
    EMPTY_BODY,
    Append,
    Appended,
    Body,
    Create,
    Created,
    Operation,
)
from durable_streams_core.paths import decode_path
from durable_streams_core.protocol import LIVE_LONG_POLL, LIVE_SSE, NOW, START
from durable_streams_core.reads import etag, etag_matches, page_cache_control, parse_read_offset
from durable_streams_core.streams import Asked, birth_of
from durable_streams_core.subscriptions.records import Place
from durable_streams_server.engine import Engine, is_large_json
from durable_streams_server.http import compression, headers
from durable_streams_server.http.control import (
    MAX_CONTROL_BODY,
    OPEN,
    Route,
    answer,
    check_method,
    control_too_large,
    error_response,
    is_control,
    parse_body,
    parse_route,
)
from durable_streams_server.http.fields import (
    parse_closed,
    parse_creation,
    parse_if_match,
    parse_producer,
    parse_query,
    parse_seq,
)
from durable_streams_server.http.headers import Cors
from durable_streams_server.http.live import LongPoll, Readers, SseReader, needs_base64
from durable_streams_server.http.messages import (
    Answer,
    Header,
    Live,
    Pending,
    RequestHead,
    Response,
    problem,
)
from durable_streams_server.pages import MAX_KEPT, MAX_KEPT_BYTES, Page

log = logging.getLogger("durable_streams_server.http")

Authorize = Callable[[str, str, object], Any]
"""``authorize(action, path, request)``: asked before anything is read or told.

``action`` is ``create``, ``append``, ``read``, ``head`` or ``delete``; a fork also asks for
``read`` of its source. For subscriptions it is ``subscribe`` or ``claim``, with the path
``__ds/subscriptions/<id>``; one that is created asks also for ``subscribe`` of each of its streams
and of its pattern, and for ``append`` to its wake stream. ``request`` is the front end's own
request object. It returns true to permit, false to refuse (403), or a status of 401 or 403; it may
be async.
"""

_ACTIONS = {
    "GET": "read", "HEAD": "head", "POST": "append", "PUT": "create", "DELETE": "delete",
}  # fmt: skip
_CONDITIONS = frozenset(
    (
        b"producer-id", b"producer-epoch", b"producer-seq", b"stream-closed", b"stream-seq",
        b"if-match",
    )
)  # fmt: skip
"""Headers of an append without any of which it is a plain one."""
_HOST = re.compile(rb"[A-Za-z0-9._-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How one front end speaks, beside the engine's limits."""

    authorize: Authorize | None = None
    token: str | None = None
    """Access for whoever sends ``Authorization: Bearer <token>``, and for nobody else."""
    cors_origins: tuple[str, ...] = ("*",)
    public: bool = False
    """Let shared caches keep pages (§10.1); only for streams that everybody may read."""
    public_url: str | None = None
    """Where clients reach the server, for ``Location``; else the request's own Host is used."""
    compress: bool = True
    health: bool = False
    """Answer ``GET /health``, outside of the stream root."""

    def __post_init__(self) -> None:
        if self.token is not None and not self.token.strip():
            raise ValueError(
                "The token is empty, and an empty one keeps nobody out: give a secret, or no "
                "token at all."
            )
        if self.public_url is not None:
            url = urlsplit(self.public_url)
            if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
                raise ValueError(
                    f"The public URL {self.public_url!r} is no address of a server: write it as "
                    "https://streams.example, with the path before the stream root if there is "
                    "one."
                )


class Handler:
    """Answers requests under one stream root, over one engine."""

    def __init__(self, engine: Engine, options: Options | None = None) -> None:
        self.engine = engine
        self.options = options = options or Options()
        self.readers = Readers(engine)
        self._authorize = options.authorize
        self._token = None if options.token is None else options.token.encode()
        self._cors = Cors(options.cors_origins)
        self._cache: Header = (
            b"cache-control",
            page_cache_control(public=options.public).encode(),
        )
        self._kept: dict[tuple[str, str], tuple[Page, list[Header], Response]] = {}
        self._public_url = None if options.public_url is None else options.public_url.rstrip("/")
        self._public_path = urlsplit(self._public_url or "").path
        if self._public_url is not None:
            engine.subscriptions.driver.public_url = self._public_url

    def begin(self, head: RequestHead) -> "Response | Exchange":
        """The first step: an answer that needs no more, or the exchange to go on with."""
        base = self._cors.headers(head.headers.get(b"origin"))
        try:
            return self._begin(head, base)
        except ProtocolError as error:
            return problem(error, base)

    def _begin(self, head: RequestHead, base: list[Header]) -> "Response | Exchange":
        method = head.method
        action = _ACTIONS.get(method)
        if action is None:
            if method == "OPTIONS":
                return Response(204, [*base, *self._cors.preflight()])
            raise ProtocolError(
                "Streams know GET, HEAD, POST, PUT, DELETE and OPTIONS.",
                status=405,
                code="method-not-allowed",
                headers={"Allow": Cors.METHODS.decode()},
            )
        if is_control(head.path):
            return self._begin_control(head, base)
        path = decode_path(head.path, self.engine.limits.max_path)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s", method, path)
        if method in ("POST", "PUT"):
            length = head.headers.get(b"content-length")
            limit = self.engine.limits.max_body
            if length is not None and length.isdigit() and int(length) > limit:
                raise body_too_large(limit)
            coding = head.headers.get(b"transfer-encoding")
            if coding is not None and coding.lower() != b"chunked":
                raise ProtocolError(
                    "The only transfer coding here is chunked.",
                    status=501,
                    code="transfer-encoding",
                )
            coding = head.headers.get(b"content-encoding")
            if coding is not None and coding.lower() != b"identity":
                raise ProtocolError(
                    "Send the body without Content-Encoding: what is stored is what is read.",
                    status=415,
                    code="content-encoding",
                )
        asked = None
        if method == "PUT":
            asked = parse_creation(head, self._public_path + head.root, self.engine.limits.max_path)
        if self._token is not None and not self._has_token(head):
            raise not_authenticated()
        exchange = Exchange(self, head, path, base, asked)
        if self._authorize is not None:
            exchange.ask(self._authorize, action)
        return exchange

    def _begin_control(self, head: RequestHead, base: list[Header]) -> "Response | Exchange":
        """A request under the reserved ``__ds`` prefix (§6)."""
        try:
            route = parse_route(head.path)
            check_method(route, head.method)
        except ProtocolError as error:
            return error_response(error, base)
        length = head.headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length) > MAX_CONTROL_BODY:
            return error_response(control_too_large(), base)
        exchange = ControlExchange(self, head, route, base)
        if route.name not in OPEN:
            if self._token is not None and not self._has_token(head):
                raise not_authenticated()
            if self._authorize is not None:
                exchange.ask(self._authorize, route.action)
        return exchange

    def _has_token(self, head: RequestHead) -> bool:
        scheme, _, given = head.headers.get(b"authorization", b"").partition(b" ")
        return (
            scheme.lower() == b"bearer"
            and self._token is not None
            and hmac.compare_digest(given.strip(), self._token)
        )

    def outside(self, method: str, path: str, root: str) -> Response:
        """For a path that is not under the stream root."""
        base = self._cors.headers(None)
        if self.options.health and path == "/health" and method in ("GET", "HEAD"):
            fields = [*base, (b"content-type", b"application/json"), headers.NO_STORE]
            return Response(200, fields, b'{"status":"ok"}')
        message = f"There is nothing here; streams live under {root}."
        return problem(NotFound(message, code="not-a-stream"), base)

    def too_large(self, head: RequestHead) -> Response:
        """For a body that turned out to be over the limit."""
        base = self._cors.headers(head.headers.get(b"origin"))
        if is_control(head.path):
            return error_response(control_too_large(), base)
        return problem(body_too_large(self.engine.limits.max_body), base)

    def refuse(self, error: ProtocolError) -> Response:
        """A problem that a front end found itself."""
        return problem(error, self._cors.headers(None))

    def close(self) -> None:
        """Say farewell to live readers; new ones get one page and are not kept."""
        self.readers.close()

    def location(self, head: RequestHead, path: str) -> bytes:
        """The URL of a stream: absolute where the host is known."""
        target = head.root + quote(path, safe="/~!$&'()*+,;=:@")
        return (self.origin(head) + target).encode()

    def origin(self, head: RequestHead) -> str:
        """Where the client reached the server, up to the root; empty where that is not known."""
        if self._public_url is not None:
            return self._public_url
        host = head.headers.get(b"host", b"")
        return "" if _HOST.fullmatch(host) is None else f"{head.scheme}://{host.decode()}"

    @property
    def cache(self) -> Header:
        return self._cache

    def kept(self, page: Page, base: list[Header], coding: str) -> Response | None:
        """The answer that was made of this very page before."""
        known = self._kept.get((page.head.incarnation, coding))
        if known is not None and known[0] is page and known[1] is base:
            return known[2]
        return None

    def keep(self, page: Page, base: list[Header], coding: str, response: Response) -> None:
        if len(response.body) <= MAX_KEPT_BYTES:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[page.head.incarnation, coding] = page, base, response

    def base_lines(self, base: list[Header]) -> bytes:
        """What every answer carries, as it goes on the wire."""
        return self._cors.lines(base)


def not_authenticated() -> ProtocolError:
    return ProtocolError(
        "Say who you are: send credentials in the Authorization header.",
        status=401,
        code="not-authenticated",
        headers={"WWW-Authenticate": "Bearer"},
    )


def body_too_large(limit: int) -> ProtocolError:
    return ProtocolError(
        f"The body is larger than {limit} bytes; send it in several appends.",
        status=413,
        code="body-too-large",
    )


class Exchange:
    """One request on its way: permission, body, answer."""

    __slots__ = (
        "_base", "_done", "_engine", "_handler", "_pending", "_respond", "_stored_status",
        "asked", "head", "path", "permission", "takes_body", "verdict",
    )  # fmt: skip

    def __init__(
        self,
        handler: Handler,
        head: RequestHead,
        path: str,
        base: list[Header],
        asked: Asked | None,
    ) -> None:
        self._handler = handler
        self._engine = handler.engine
        self._base = base
        self._stored_status = 204
        self._done: Response | None = None
        self._pending: Pending | None = None
        self.head = head
        self.path = path
        self.asked = asked
        self.takes_body = head.method in ("POST", "PUT")
        self.permission: Awaitable[object] | None = None
        """Something to await and give to :meth:`permitted`, when the access hook is async."""
        self.verdict: Response | None = None
        """A refusal, known before any body was read."""

    @property
    def max_body(self) -> int:
        return self._engine.limits.max_body

    def ask(self, authorize: Authorize, action: str) -> None:
        """Ask the hook; a sync one has answered by the time this returns."""
        questions = [(action, self.path)]
        if self.asked is not None and self.asked.forked_from is not None:
            # A fork shows its source's data.
            questions.append(("read", self.asked.forked_from))
        for position, question in enumerate(questions):
            try:
                answer = authorize(*question, self.head.native)
            except Exception:
                log.exception("the authorize hook failed; access is refused")
                answer = False
            if isawaitable(answer):
                self.permission = self._ask_on(authorize, answer, questions[position + 1 :])
                return
            if self.permitted(answer) is not None:
                return

    async def _ask_on(
        self, authorize: Authorize, answer: Awaitable[object], rest: list[tuple[str, str]]
    ) -> object:
        try:
            permitted = await answer
            for action, path in rest:
                if permitted is not True:
                    break
                asked = authorize(action, path, self.head.native)
                permitted = await asked if isawaitable(asked) else asked
        except Exception:
            log.exception("the authorize hook failed; access is refused")
            return False
        return permitted

    def permitted(self, answer: object) -> Response | None:
        """Take the hook's answer; returns the refusal, if it is one."""
        if answer is True:
            return None
        if answer == 401:
            error = not_authenticated()
        else:
            error = ProtocolError("You may not do this here.", status=403, code="forbidden")
        self.verdict = problem(error, self._base)
        return self.verdict

    def run(self, body: bytes) -> Answer:
        """The second step: the answer, given the whole body."""
        try:
            method = self.head.method
            if method == "POST":
                return self._append(body)
            if method == "GET":
                return self._read()
            if method == "HEAD":
                return self._head()
            if method == "PUT":
                return self._create(body)
            return self._later(self._delete())
        except ProtocolError as error:
            return problem(error, self._base)
        except Exception:
            log.exception("answering a request failed")
            return problem(internal_error(), self._base)

    # Writing.

    def _append(self, body: bytes) -> Answer:
        head = self.head
        producer, close, seq, expected = None, False, None, None
        if not _CONDITIONS.isdisjoint(head.headers):
            producer = parse_producer(head)
            close = parse_closed(head)
            seq = parse_seq(head)
            expected = parse_if_match(head)
        content_type = head.text(b"content-type")
        if body and content_type is None:
            raise InvalidRequest(
                "An append needs a Content-Type, that of the stream.", code="missing-content-type"
            )
        if not body and not close:
            raise InvalidRequest(
                "The body is empty; send data, or Stream-Closed: true to close the stream.",
                code="empty-body",
            )
        wanted = Body(body) if body else EMPTY_BODY
        operation = Append(
            wanted,
            content_type if body else None,
            close,
            seq,
            producer,
            expected,
        )
        if body and producer is not None:
            self._stored_status = 200
        if body and is_large_json(wanted, content_type or ""):
            return self._later(self._append_large(operation))
        return self._submit(operation, self._appended)

    async def _append_large(self, operation: Append) -> Response:
        await self._engine.prepare(operation.body, operation.content_type or "")
        return self._appended(await self._engine.perform(self.path, operation))

    def _appended(self, appended: Appended) -> Response:
        if appended.epoch < 0 and not appended.closed:
            base = self._handler.base_lines(self._base)
            return Response(204, lines=headers.appended_lines(base, appended.tail))
        fields = [*self._base, headers.next_offset(appended.tail)]
        if appended.closed:
            fields.append(headers.CLOSED)
        if appended.epoch >= 0:
            fields.append((b"producer-epoch", b"%d" % appended.epoch))
            fields.append((b"producer-seq", b"%d" % appended.seq))
        return Response(204 if appended.duplicate else self._stored_status, fields)

    def _create(self, body: bytes) -> Answer:
        asked = self.asked
        assert asked is not None
        closed = parse_closed(self.head)
        wanted = Body(body) if body else EMPTY_BODY
        if asked.forked_from is not None:
            return self._later(self._fork(asked, wanted, closed=closed))
        operation: Create = self._engine.creation(asked, wanted, closed=closed)
        if body and is_large_json(wanted, operation.content_type):
            return self._later(self._create_large(operation))
        return self._submit(operation, self._created)

    async def _create_large(self, operation: Create) -> Response:
        await self._engine.prepare(operation.body, operation.content_type)
        return self._created(await self._engine.perform(self.path, operation))

    async def _fork(self, asked: Asked, body: Body, *, closed: bool) -> Response:
        return self._created(await self._engine.create_fork(self.path, asked, body, closed=closed))

    def _created(self, created: Created) -> Response:
        fields = [
            *self._base,
            headers.content_type(birth_of(created.head)),
            headers.next_offset(created.tail),
        ]
        if created.closed:
            fields.append(headers.CLOSED)
        if not created.new:
            return Response(200, fields)
        fields.append((b"location", self._handler.location(self.head, self.path)))
        return Response(201, fields)

    async def _delete(self) -> Response:
        await self._engine.delete(self.path)
        return Response(204, list(self._base))

    # Reading.

    def _head(self) -> Answer:
        head = self._engine.head_now(self.path)
        if head is not None:
            return self._described(head)
        return self._later(self._head_later())

    async def _head_later(self) -> Response:
        return self._described(await self._engine.live_head(self.path))

    def _described(self, head: Head) -> Response:
        birth = birth_of(head)
        fields = [
            *self._base,
            headers.content_type(birth),
            headers.next_offset(head.tail),
            headers.NO_STORE,
        ]
        if head.closed:
            fields.append(headers.CLOSED)
        if birth.ttl is not None:
            fields.append((b"stream-ttl", b"%d" % birth.ttl))
        if birth.expires_at is not None:
            fields.append((b"stream-expires-at", format_expires_at(birth.expires_at).encode()))
        return Response(200, fields)

    def _read(self) -> Answer:
        offset, live, cursor = parse_query(self.head.query)
        if live is None:
            position = 0 if offset is None else parse_read_offset(offset)
            now = offset == NOW
            page = self._engine.page_now(self.path, position)
            if page is None:
                return self._later(self._catch_up_later(position, now=now))
            return self._caught_up(page, now=now)
        if live not in (LIVE_LONG_POLL, LIVE_SSE):
            raise InvalidRequest("The live modes are long-poll and sse.", code="invalid-live-mode")
        if offset is None:
            raise InvalidRequest(
                f"A live read needs an offset: one of this stream, {START} or {NOW}.",
                code="missing-offset",
            )
        position = parse_read_offset(offset)
        if live == LIVE_SSE:
            return self._sse(position, cursor)
        return self._long_poll(position, cursor)

    async def _catch_up_later(self, position: int | None, *, now: bool) -> Response | Live:
        page = await self._engine.page(self.path, position)
        answer = self._caught_up(page, now=now)
        if isinstance(answer, Pending):
            return await _awaited(answer)
        return answer

    def _caught_up(self, page: Page, *, now: bool) -> Response | Pending:
        if now:
            fields = self._page_fields(page)
            fields.append(headers.NO_STORE)
            return Response(200, fields, to_page(page.birth.kind, b""))
        return self._page_response(page, None)

    def _page_fields(self, page: Page) -> list[Header]:
        fields = [
            *self._base,
            headers.content_type(page.birth),
            headers.next_offset(page.end),
        ]
        if page.up_to_date:
            fields.append(headers.UP_TO_DATE)
        if page.closed:
            fields.append(headers.CLOSED)
        return fields

    def _page_response(self, page: Page, cursor: str | None) -> Response | Pending:
        handler = self._handler
        options = handler.options
        request = self.head.headers
        birth = page.birth
        coding = ""
        compressible = (
            len(page.data) >= compression.MIN_BYTES
            and options.compress
            and compression.is_compressible(birth.content_type)
        )
        if compressible and compression.accepts_gzip(request.get(b"accept-encoding")):
            coding = compression.GZIP
        if_none_match = request.get(b"if-none-match")
        plain = cursor is None and if_none_match is None
        if plain:
            kept = handler.kept(page, self._base, coding)
            if kept is not None:
                return kept
        fields = self._page_fields(page)
        # An empty page at an open tail says what is true only now.
        fields.append(handler.cache if page.data or page.closed else headers.NO_CACHE)
        if cursor is not None and not page.closed:
            fields.append((b"stream-cursor", cursor.encode()))
        if compressible:
            fields.append(headers.VARY_ENCODING)
        tag = etag(page.head, page.start, page.end, page.closed, coding)
        fields.append((b"etag", tag.encode()))
        if if_none_match is not None and etag_matches(if_none_match.decode("latin-1"), tag):
            return Response(304, fields)
        body = to_page(birth.kind, page.data)
        if coding:
            fields.append((b"content-encoding", coding.encode()))
            if len(body) >= compression.OFF_LOOP_BYTES:
                return self._later(self._compressed(fields, body))
            body = compression.compress(body)
        response = Response(200, fields, body)
        if plain:
            handler.keep(page, self._base, coding, response)
        return response

    @staticmethod
    async def _compressed(fields: list[Header], body: bytes) -> Response:
        return Response(200, fields, await asyncio.to_thread(compression.compress, body))

    def _long_poll(self, position: int | None, cursor: str | None) -> Answer:
        engine = self._engine
        poll = LongPoll(self._handler.readers, self.path, cursor)
        try:
            page = engine.page_now(self.path, position)
        except BaseException:
            poll.leave()
            raise
        pending = Pending()
        if page is not None:
            self._poll(poll, page, pending)
        else:
            self._first_page(poll, position, None, pending, self._poll)
        return pending.result or pending

    def _poll(self, poll: LongPoll, page: Page, pending: Pending) -> None:
        if page.data or page.closed or self._handler.readers.closing:
            poll.leave()
            cursor = self._engine.cursor(poll.asked)
            self._resolve(pending, self._polled(page, cursor))
        else:
            poll.wait(page, pending, self._poll_answer)

    def _poll_answer(self, pending: Pending, page: Page | ProtocolError, cursor: str) -> None:
        if isinstance(page, ProtocolError):
            pending.resolve(problem(page, self._base))
        else:
            self._resolve(pending, self._polled(page, cursor))

    def _polled(self, page: Page, cursor: str) -> Response | Pending:
        if page.data:
            return self._page_response(page, cursor)
        fields = self._page_fields(page)
        fields.append(headers.NO_STORE)
        if not page.closed:
            fields.append((b"stream-cursor", cursor.encode()))
        return Response(204, fields)

    def _sse(self, position: int | None, cursor: str | None) -> Answer:
        reader = SseReader(self._handler.readers, self.path, cursor)
        limit = reader.page_bytes
        try:
            page = self._engine.page_now(self.path, position, limit)
        except BaseException:
            reader.leave()
            raise
        if page is not None:
            return self._live(reader, page)
        pending = Pending()
        self._first_page(reader, position, limit, pending, self._resolve_live)
        return pending

    def _live(self, reader: SseReader, page: Page) -> Live:
        fields = [*self._base, headers.SSE_TYPE, headers.NO_CACHE, (b"x-accel-buffering", b"no")]
        if needs_base64(page):
            fields.append(headers.SSE_BASE64)
        reader.begin(page, Response(200, fields))
        return reader

    def _resolve_live(self, reader: SseReader, page: Page, pending: Pending) -> None:
        pending.resolve(self._live(reader, page))

    def _first_page(
        self,
        reader: Any,
        position: int | None,
        limit: int | None,
        pending: Pending,
        then: Callable[[Any, Page, Pending], None],
    ) -> None:
        """The first look of a live reader, where it has to be waited for."""

        async def look() -> None:
            try:
                page = await self._engine.page(self.path, position, limit)
                then(reader, page, pending)
            except ProtocolError as error:
                reader.leave()
                pending.resolve(problem(error, self._base))
            except asyncio.CancelledError:
                reader.leave()
                raise
            except Exception:
                log.exception("a live read failed")
                reader.leave()
                pending.resolve(problem(internal_error(), self._base))

        task = self._engine.spawn(look())

        def cancel() -> None:
            # A task that has not begun yet ends without a word.
            task.cancel()
            reader.leave()

        pending.on_cancel(cancel)

    # Ways to an answer.

    def _submit(
        self, operation: Operation[Any], respond: Callable[[Any], Response]
    ) -> Response | Pending:
        """Put an operation in its lane, and answer at once if it is done at once."""
        self._respond = respond
        ticket = self._engine.submit(self.path, operation, self._settle)
        if self._done is not None:
            return self._done
        pending = self._pending = Pending()
        pending.on_cancel(ticket.cancel)
        return pending

    def _settle(self, answer: object) -> None:
        """The operation's outcome, while it is being submitted or later."""
        if isinstance(answer, ProtocolError):
            response = problem(answer, self._base)
        else:
            response = self._respond(answer)
        if self._pending is None:
            self._done = response
        else:
            self._pending.resolve(response)

    def _later(self, work: Coroutine[Any, Any, Response | Live]) -> Pending:
        """An answer that a coroutine works out."""
        pending = Pending()

        async def run() -> None:
            try:
                pending.resolve(await work)
            except ProtocolError as error:
                pending.resolve(problem(error, self._base))
            except Exception:
                log.exception("answering a request failed")
                pending.resolve(problem(internal_error(), self._base))

        task = self._engine.spawn(run())
        # One that is cancelled before it began would leave its work behind, never awaited.
        task.add_done_callback(lambda _: work.close())
        pending.on_cancel(task.cancel)
        return pending

    @staticmethod
    def _resolve(pending: Pending, answer: Response | Pending) -> None:
        if isinstance(answer, Pending):
            pending.on_cancel(answer.cancel)
            answer.then(pending.resolve)
        else:
            pending.resolve(answer)


class ControlExchange(Exchange):
    """One request to a control route: its questions of access depend on its body too."""

    __slots__ = ("route",)

    def __init__(
        self, handler: Handler, head: RequestHead, route: Route, base: list[Header]
    ) -> None:
        super().__init__(handler, head, route.path, base, None)
        self.route = route

    @property
    def max_body(self) -> int:
        return MAX_CONTROL_BODY

    def run(self, body: bytes) -> Answer:
        pending = Pending()

        async def work() -> None:
            try:
                response = await self._control(body)
            except ProtocolError as error:
                response = error_response(error, self._base)
            except Exception:
                log.exception("answering a control request failed")
                response = error_response(internal_error(), self._base)
            pending.resolve(response)

        # What was begun is finished, also when the client goes away.
        _ = self._engine.spawn(work())
        return pending

    async def _control(self, body: bytes) -> Response:
        wanted = parse_body(self.route, self.head.method, body)
        authorize = self._handler.options.authorize
        if authorize is not None and wanted.questions:
            (action, path), *rest = wanted.questions
            try:
                permitted = authorize(action, path, self.head.native)
                first = permitted if isawaitable(permitted) else _given(permitted)
            except Exception:
                log.exception("the authorize hook failed; access is refused")
                first = _given(False)
            refusal = self.permitted(await self._ask_on(authorize, first, rest))
            if refusal is not None:
                return refusal
        place = Place(self._handler.origin(self.head), self.head.root)
        subscriptions = self._engine.subscriptions
        return await answer(
            subscriptions, self.route, self.head, wanted, place=place, base=self._base
        )


async def _given(value: object) -> object:
    return value


async def _awaited(pending: Pending) -> Response | Live:
    future: asyncio.Future[Response | Live] = asyncio.get_running_loop().create_future()

    def settle(result: Response | Live) -> None:
        if not future.done():
            future.set_result(result)

    pending.then(settle)
    try:
        return await future
    except asyncio.CancelledError:
        pending.cancel()
        raise


def internal_error() -> ProtocolError:
    return ProtocolError("The server failed; its log says how.")
