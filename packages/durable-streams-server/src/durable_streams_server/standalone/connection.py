"""One client's connection.

* Requests are answered in order, one at a time. What arrives behind an answer that is not there
  yet is held unparsed, and beyond a bound not read, so a flood of pipelined requests costs no more
  than one slice of it.
* Every byte that llhttp is given is counted until it shows progress, because it collects a header
  in memory and tells of it only at its end.
* A plain request costs one parse and one write: no task, no timer, no future. Time limits are
  deadlines that the server looks at once a second.
* The last answer is followed by a half-close and a moment of reading on, or a client that still
  sends would lose the answer to a reset.
"""

import asyncio
import logging
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, cast

import httptools

from durable_streams_core.errors import ProtocolError
from durable_streams_server.http.handler import Exchange, internal_error
from durable_streams_server.http.messages import (
    Answer,
    Live,
    Pending,
    RequestHead,
    Response,
    fold_into,
)
from durable_streams_server.mounting import split_target
from durable_streams_server.standalone import wire
from durable_streams_server.standalone.familiar import Block, Target
from durable_streams_server.standalone.strictness import (
    bad_syntax,
    check_head,
    header_too_large,
    target_too_long,
    too_slow,
    wants_continue,
)

if TYPE_CHECKING:
    from durable_streams_server.standalone.server import StandaloneServer

log = logging.getLogger("durable_streams_server.standalone")

SLICE = 8 * 1024
"""Bytes given to the parser at once where they may hold many requests."""
MAX_HELD = 64 * 1024
"""Bytes held unparsed behind an answer before reading stops."""
MAX_DRAINED = 64 * 1024
"""A body of up to this size is read to its end, though not wanted, to keep the connection."""
JOINED = 64 * 1024
"""Answers up to this size are joined into one write."""
LINGER_SECONDS = 0.5
"""And as long again, until the server looks."""


class State(Enum):
    OPEN = "open"
    LAST = "last"
    """What comes in is ignored; the connection closes after the answers that are due."""
    LINGERING = "lingering"
    """Everything was sent; reading on for a moment so that it arrives."""
    LOST = "lost"


class Request:
    """A request whose head is complete."""

    __slots__ = (
        "begun", "bodiless", "chunks", "direct", "due", "expects", "head", "keep_alive", "length", "limit",
        "old", "size",
    )  # fmt: skip

    def __init__(self, begun: Response | Exchange, *, keep_alive: bool) -> None:
        self.begun = begun
        self.keep_alive = keep_alive
        self.head: RequestHead | None = None
        self.old = self.bodiless = self.expects = False
        self.direct = False
        """The rest of the body goes past the parser: it is long, and its length is known."""
        self.due = False
        """Something is to be said before the body is read, once it is this request's turn."""
        self.chunks: list[bytes] = []
        self.length = self.size = self.limit = 0


class Connection(asyncio.Protocol):
    """Parses requests, has them answered, and writes the answers. Also a live answer's sink."""

    __slots__ = (
        "_asking", "_between", "_busy", "_chunked", "_ending", "_eof", "_feeding", "_handler", "_head_size",
        "_headers", "_held", "_in_head", "_keep", "_live", "_out", "_parser", "_paused",
        "_pending", "_queue", "_quiet", "_request", "_secure", "_server", "_state", "_target",
        "_transport", "_unfamiliar", "_unread", "deadline",
    )  # fmt: skip

    _transport: asyncio.Transport
    _parser: httptools.HttpRequestParser

    def __init__(self, server: "StandaloneServer", *, secure: bool) -> None:
        self._server = server
        self._handler = server.handler
        self._secure = secure
        self._state = State.OPEN
        self.deadline = server.now + server.bounds.header_timeout
        # The head that is being received. No headers means that trailers are.
        self._target = b""
        self._headers: dict[bytes, bytes] | None = {}
        self._head_size = 0
        self._in_head = False
        self._quiet = 0
        # The parser has no part of a request.
        self._between = True
        # What it is being given, where that may turn out to be one whole request.
        self._unfamiliar = b""
        # The request whose body is being received, and those received before their turn.
        self._request: Request | None = None
        self._queue: list[Request] = []
        self._held = b""
        # The request that is being answered.
        self._busy = False
        self._pending: tuple[Request, Pending] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._live: Live | None = None
        self._chunked = self._keep = False
        # What goes out.
        self._out: list[bytes] = []
        self._paused = self._feeding = self._eof = False
        self._ending = self._unread = False

    # What the event loop says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        refusal = self._server.welcome(self)
        if refusal is not None:
            self._refuse(refusal)
            self._flush()

    def data_received(self, data: bytes) -> None:
        if self._state is not State.OPEN:
            return
        if self._busy or self._paused or self._held:
            self._hold(self._held + data)
            return
        if self._between:
            seen = self._server.familiar.recognise(data)
            if seen is not None:
                target, block, body = seen
                self._take_familiar(target, block, data[body:] if block.length else b"")
                return
            self._unfamiliar = data
        self._feed(data)
        self._unfamiliar = b""
        self._flush()
        self._wait()

    def eof_received(self) -> bool:
        """The client sends no more: it may still be waiting for answers, but not for live ones."""
        if self._state is State.LINGERING or self._live is not None or self._secure:
            return False
        if self._pending is not None and _is_live_read(self._pending[0]):
            return False
        self._eof = True
        return self._busy or bool(self._queue)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = State.LOST
        self._server.forget(self)
        pending, self._pending = self._pending, None
        live, self._live = self._live, None
        if self._asking is not None:
            self._asking.cancel()
        if pending is not None:
            pending[1].cancel()
        if live is not None:
            live.gone()
        self._queue.clear()
        self._out.clear()
        self._request = None
        # The parser holds this object's methods.
        del self._parser

    def pause_writing(self) -> None:
        self._paused = True
        self.deadline = self._server.now + self._server.bounds.write_timeout

    def resume_writing(self) -> None:
        self._paused = False
        bounds = self._server.bounds
        self.deadline = inf if self._busy else self._server.now + bounds.body_timeout
        if self._live is not None:
            self._live.drained()
        elif not self._feeding:
            self._next()
        self._wait()

    # What the server says.

    def expire(self) -> None:
        """The deadline has passed."""
        if self._state is State.LINGERING and not self._transport.get_write_buffer_size():
            self._transport.close()
        elif self._paused or self._state is not State.OPEN:
            self._transport.abort()
        elif self._request is not None:
            self._refuse(too_slow("body"))
            self._flush()
        elif self._in_head:
            self._refuse(too_slow("head"))
            self._flush()
        else:
            self._transport.close()

    def shut(self) -> None:
        """The server stops: answer what is under way, then close."""
        if self._state is State.LINGERING or not (
            self._busy or self._in_head or self._queue or self._request is not None
        ):
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # What the parser says.

    def on_message_begin(self) -> None:
        self._between = False

    def on_url(self, piece: bytes) -> None:
        self._target = target = self._target + piece if self._target else piece
        if len(target) > self._server.bounds.max_target:
            raise target_too_long(self._server.bounds.max_target)

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers
        if headers is None:
            return  # A trailer: nothing of it counts.
        self._head_size += len(name) + len(value) + 4
        if self._head_size > self._server.bounds.max_header:
            raise header_too_large(self._server.bounds.max_header)
        name = name.lower()
        if name in headers:
            fold_into(headers, name, value)
        else:
            headers[name] = value

    def on_headers_complete(self) -> None:
        if self._state is not State.OPEN:
            raise _Ignored
        headers, self._headers = self._headers, None
        assert headers is not None
        self._quiet = 0
        self._in_head = False
        parser = self._parser
        method = parser.get_method()
        version = parser.get_http_version()
        check_head(method, version, headers)
        self._request = request = self._begin(method.decode(), headers)
        if version != "1.1" or b"connection" in headers:
            request.keep_alive = parser.should_keep_alive()
            request.old = version != "1.1"
        length = headers.get(b"content-length")
        if length is None and b"transfer-encoding" not in headers:
            return
        if length is not None:
            request.length = int(length)
        begun = request.begun
        if not isinstance(begun, Exchange) or not begun.takes_body:
            request.limit = MAX_DRAINED
        else:
            request.limit = begun.max_body
        request.direct = SLICE < request.length <= request.limit
        bounds = self._server.bounds
        self.deadline = self._server.now + bounds.body_timeout
        request.due = True
        if not (self._busy or self._paused or self._queue):
            self._take_turn(request)

    def on_body(self, piece: bytes) -> None:
        self._quiet = 0
        request = self._request
        if request is None:
            return
        request.size += len(piece)
        if request.size > request.limit:
            self._overflow(request)
            return
        request.chunks.append(piece)
        self.deadline += len(piece) / self._server.bounds.body_rate

    def on_message_complete(self) -> None:
        request = self._request
        if request is None:
            raise _Ignored
        self._request = None
        self._between = True
        if self._unfamiliar and request.keep_alive and not request.old:
            head = request.head
            if head is not None:
                self._server.familiar.learn(self._unfamiliar, head.headers, request.size)
            self._unfamiliar = b""
        self._headers = {}
        self._target = b""
        self._head_size = self._quiet = 0
        request.due = False
        if not request.keep_alive:
            self._state = State.LAST
        if self._busy or self._paused or self._queue:
            self._queue.append(request)
        else:
            self._answer(request)

    # Receiving.

    def _take_familiar(self, target: Target, block: Block, body: bytes) -> None:
        """A whole request that needed no parsing."""
        server = self._server
        method = target.method
        answer: Answer | None = None
        begun: Response | Exchange
        if target.path is None:
            begun = answer = self._handler.outside(method, target.outside, server.root)
        else:
            head = RequestHead(
                method,
                target.path,
                target.query,
                block.headers,
                root=server.root,
                scheme="https" if self._secure else "http",
            )
            if server.asks:
                # The hook is a stranger's: it gets headers of its own.
                head.headers = dict(block.headers)
                head.native = head
            begun = self._handler.begin(head)
            if type(begun) is Response:
                answer = begun
            elif begun.permission is None and begun.verdict is None:  # type: ignore[union-attr]
                answer = begun.run(body)  # type: ignore[union-attr]
        if (
            type(answer) is Response
            and method != "HEAD"
            and not server.closing
            and len(answer.body) <= JOINED
        ):
            # Most requests end here.
            status = answer.status
            end = b"\r\n"
            if status not in wire.BODILESS:
                end = b"content-length: %d\r\n\r\n%b" % (len(answer.body), answer.body)
            self._transport.write(server.prefix(status) + answer.lines + end)
            self.deadline = server.now + server.bounds.idle_timeout
            return
        request = Request(begun, keep_alive=True)
        request.bodiless = method == "HEAD"
        if isinstance(begun, Exchange):
            request.head = begun.head
            request.chunks = [body]
        if answer is None:
            self._answer(request)
        else:
            self._give(request, answer)
        self._flush()
        self._wait()

    def _feed(self, data: bytes) -> None:
        """Parse as much as may be parsed now and hold the rest."""
        self._feeding = True
        size = len(data)
        if size <= SLICE and (self._request is None or not self._request.direct):
            self._parse(data)
        else:
            view = memoryview(data)
            position = 0
            while position < size and self._state is State.OPEN:
                if self._busy or self._paused:
                    self._hold(bytes(view[position:]))
                    break
                request = self._request
                if request is not None and request.direct:
                    need = request.length - request.size
                    whole = not position and size <= need
                    piece = data if whole else bytes(view[position : position + need])
                    position += len(piece)
                    self._take_directly(request, piece)
                else:
                    self._parse(view[position : position + SLICE])
                    position += SLICE
        self._feeding = False

    def _hold(self, data: bytes) -> None:
        """Keep bytes unparsed; what one read brings beyond the bound is the last."""
        self._held = data
        if len(data) > MAX_HELD and not self._transport.is_closing():
            self._transport.pause_reading()

    def _parse(self, data: bytes | memoryview) -> None:
        self._quiet += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._state is not State.OPEN:
                return  # Bytes behind the last request.
            reason = error.__context__
            if not isinstance(error, httptools.HttpParserCallbackError):
                self._refuse(bad_syntax(str(error)))
            elif isinstance(reason, ProtocolError):
                self._refuse(reason)
            else:
                log.exception("receiving a request failed", exc_info=reason)
                self._refuse(internal_error())
        except httptools.HttpParserUpgrade:
            self._refuse(bad_syntax("it asks for an upgrade"))
        else:
            bounds = self._server.bounds
            # Spaces and line ends count here, and a target: a head that is no larger than it may
            # be is never refused, however it was cut.
            unfinished = 2 * bounds.max_header + bounds.max_target
            if self._quiet > unfinished and self._state is State.OPEN:
                self._refuse(header_too_large(bounds.max_header))

    def _take_directly(self, request: Request, piece: bytes) -> None:
        """A piece of a long body, as it came."""
        request.chunks.append(piece)
        request.size += len(piece)
        self.deadline += len(piece) / self._server.bounds.body_rate
        if request.size == request.length:
            # The parser still waits for the body that it was not shown; the next one starts anew.
            self._parser = httptools.HttpRequestParser(self)
            self.on_message_complete()

    def _begin(self, method: str, headers: dict[bytes, bytes]) -> Request:
        server = self._server
        root = server.root
        expects = False
        head: RequestHead | None = None
        begun: Response | Exchange
        try:
            expects = wants_continue(headers)
            path, query = split_target(self._target.decode("latin-1"))
            if path.startswith(root):
                head = RequestHead(
                    method,
                    path[len(root) :],
                    query,
                    headers,
                    root=root,
                    scheme="https" if self._secure else "http",
                )
                if server.asks:
                    head.native = head
                begun = self._handler.begin(head)
            else:
                begun = self._handler.outside(method, path, root)
        except ProtocolError as error:
            begun = self._handler.refuse(error)
        request = Request(begun, keep_alive=True)
        request.head = head
        request.bodiless = method == "HEAD"
        request.expects = expects
        return request

    def _take_turn(self, request: Request) -> None:
        """Say what is to be said before the body: go on, or not."""
        request.due = False
        begun = request.begun
        if isinstance(begun, Exchange) and begun.permission is not None:
            request.due = True
            self._ask(begun)
        elif not isinstance(begun, Exchange) or begun.verdict is not None or not begun.takes_body:
            # It is not wanted. A short one is read all the same, which keeps the connection.
            if request.expects or request.length > MAX_DRAINED:
                self._answer_early(request)
        elif request.expects and not request.size and not request.old:
            self._out.append(wire.CONTINUE)

    def _overflow(self, request: Request) -> None:
        """The body is larger than it may be: the rest of it is not read."""
        begun = request.begun
        if isinstance(begun, Exchange) and begun.takes_body and begun.verdict is None:
            request.begun = self._handler.too_large(begun.head)
        self._answer_early(request)

    def _answer_early(self, request: Request) -> None:
        """Answer before the body has been read; then nothing after it can be."""
        self._request = None
        request.keep_alive = False
        request.chunks = []
        self._state = State.LAST
        self._unread = True
        if self._busy or self._paused or self._queue:
            self._queue.append(request)
        else:
            self._answer(request)

    def _refuse(self, error: ProtocolError) -> None:
        """Answer something that is no request, after those before it, and close."""
        request = Request(self._handler.refuse(error), keep_alive=False)
        self._held = b""
        self._answer_early(request)

    # Answering.

    def _answer(self, request: Request) -> None:
        begun = request.begun
        if type(begun) is Response:
            self._respond(request, begun)
            return
        assert isinstance(begun, Exchange)
        if begun.permission is not None:
            self._queue.insert(0, request)
            self._ask(begun)
            return
        if begun.verdict is not None:
            self._respond(request, begun.verdict)
            return
        chunks = request.chunks
        self._give(request, begun.run(chunks[0] if len(chunks) == 1 else b"".join(chunks)))

    def _give(self, request: Request, answer: Answer) -> None:
        """Send an answer, or wait for it."""
        if type(answer) is Response:
            self._respond(request, answer)
        elif type(answer) is Pending:
            request.chunks = []
            self._busy = True
            self.deadline = inf
            self._pending = request, answer
            answer.then(self._settled)
        else:
            self._go_live(request, answer)  # type: ignore[arg-type]

    def _settled(self, result: Response | Live) -> None:
        assert self._pending is not None
        request, _ = self._pending
        self._pending = None
        if type(result) is Response:
            self._busy = False
            self._respond(request, result)
        else:
            self._go_live(request, result)  # type: ignore[arg-type]
        if not self._feeding:
            self._next()

    def _ask(self, exchange: Exchange) -> None:
        """Wait for an access hook that is async; the request then takes its turn again."""
        self._busy = True
        self.deadline = inf
        self._asking = asyncio.get_running_loop().create_task(self._permission(exchange))

    async def _permission(self, exchange: Exchange) -> None:
        permission, exchange.permission = exchange.permission, None
        assert permission is not None
        exchange.permitted(await permission)
        self._asking = None
        self._busy = False
        self.deadline = self._server.now + self._server.bounds.body_timeout
        self._next()

    def _respond(self, request: Request, response: Response) -> None:
        framing = b""
        status = response.status
        body = b"" if request.bodiless else response.body
        if status not in wire.BODILESS and not request.bodiless:
            framing = b"content-length: %d\r\n" % len(body)
        if not request.keep_alive or self._server.closing:
            framing += wire.CLOSE
            self._state = State.LAST
            self._ending = True
        elif request.old:
            framing += wire.KEEP_ALIVE
        head = wire.head(self._server.prefix(status), response, framing)
        if len(body) <= JOINED:
            self._out.append(head + body)
        else:
            self._out.append(head)
            self._push()
            self._transport.write(body)

    def _go_live(self, request: Request, live: Live) -> None:
        self._busy = True
        self.deadline = inf
        self._live = live
        self._chunked = not request.old
        self._keep = request.keep_alive and self._chunked
        framing = wire.CHUNKED if self._chunked else b""
        if not self._keep:
            framing += wire.CLOSE
        self._out.append(wire.head(self._server.prefix(live.head.status), live.head, framing))
        live.attach(self)
        self._push()

    def write(self, frame: bytes) -> bool:
        """A live answer's frame; False if no more should come until it is drained."""
        if self._state is State.LOST or self._transport.is_closing():
            return False
        if self._chunked:
            frame = self._server.framed(frame)
        if self._out:
            self._out.append(frame)
            self._push()
        else:
            self._transport.write(frame)
        return not self._paused

    def end(self) -> None:
        """The live answer is complete."""
        if self._live is None:
            return
        self._live = None
        self._busy = False
        if self._chunked:
            self._out.append(wire.LAST_CHUNK)
        if not self._keep or self._server.closing:
            self._state = State.LAST
            self._ending = True
        if not self._feeding:
            self._next()

    def _next(self) -> None:
        """An answer is done: go on with what came meanwhile."""
        while not (self._busy or self._paused or self._ending or self._state is State.LOST):
            request = self._request
            if self._queue:
                self._answer(self._queue.pop(0))
            elif request is not None and request.due:
                self._take_turn(request)
            elif self._held and self._state is State.OPEN:
                held, self._held = self._held, b""
                self._feed(held)
                if not self._held:
                    self._transport.resume_reading()
            else:
                break
        self._flush()
        self._wait()

    def _push(self) -> None:
        """Write what has gathered."""
        out = self._out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            if not self._transport.is_closing():
                self._transport.write(data)

    def _flush(self) -> None:
        """Write what has gathered, and close if that was the last of it."""
        self._push()
        if self._ending:
            self._end()
        elif self._eof and not (self._busy or self._queue or self._state is State.LOST):
            self._transport.close()

    def _end(self) -> None:
        """Everything was said: close so that it arrives (RFC 9112 §9.6).

        To close while the client still sends would reset the connection and take the answer away.
        So half-close, and read on until the client closes too or a moment has passed.
        """
        self._ending = False
        transport = self._transport
        if self._state is State.LOST or transport.is_closing():
            return
        server = self._server
        half = transport.can_write_eof()
        if self._eof or not (half or self._unread):
            self.deadline = server.now + server.bounds.write_timeout
            transport.close()
            return
        self._state = State.LINGERING
        self._held = b""
        patience = LINGER_SECONDS
        if transport.get_write_buffer_size():
            patience = server.bounds.write_timeout
        self.deadline = server.now + patience
        try:
            if half:
                transport.write_eof()
            transport.resume_reading()
        except OSError:
            # asyncio's own transport says so where the client is gone already.
            transport.abort()

    def _wait(self) -> None:
        """Set the deadline for what is to come next."""
        if self._busy or self._paused or self._request is not None:
            return
        if self._state is State.OPEN:
            server = self._server
            if not self._quiet:
                self.deadline = server.now + server.bounds.idle_timeout
            elif not self._in_head:
                self._in_head = True
                self.deadline = server.now + server.bounds.header_timeout


class _Ignored(Exception):
    """Bytes behind the last request: stop parsing them."""


def _is_live_read(request: Request) -> bool:
    head = request.head
    return head is not None and head.method == "GET" and "live=" in head.query
