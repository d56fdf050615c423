"""One client's connection.

* Requests are answered in order, one at a time. What arrives behind an answer that is not there
  yet is held as it came, and beyond a bound not read, so a flood of pipelined requests costs no
  more than one slice of it.
* A plain request costs a look at its head and one write: no parse, no task, no timer, no future.
  Time limits are deadlines that the server looks at once a second.
* The last answer is followed by a half-close and a moment of reading on, or a client that still
  sends would lose the answer to a reset.
"""

import asyncio
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, cast

from durable_streams_core.errors import ProtocolError
from durable_streams_server.frontends.standalone.heads import Known, Template
from durable_streams_server.frontends.standalone.inbound import MAX_DRAINED, Inbound
from durable_streams_server.frontends.standalone.request import Request
from durable_streams_server.frontends.standalone.strictness import too_slow
from durable_streams_server.http import wire
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.messages import Answer, Live, Pending, Response

if TYPE_CHECKING:
    from durable_streams_server.frontends.standalone.server import StandaloneServer

MAX_HELD = 64 * 1024
"""Bytes held unparsed behind an answer before reading stops."""
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


class Connection(asyncio.Protocol):
    """Takes requests in, has them answered, and writes the answers. Also a live answer's sink."""

    __slots__ = (
        "_asking", "_busy", "_chunked", "_ending", "_eof", "_heads", "_held", "_inbound", "_keep", "_known", "_live", "_out",
        "_paused", "_pending", "_queue", "_secure", "_server", "_state", "_transport", "_unread",
        "deadline",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, server: "StandaloneServer", *, secure: bool) -> None:
        self._server = server
        self._secure = secure
        self._state = State.OPEN
        self.deadline = server.now + server.bounds.header_timeout
        self._inbound = Inbound(self, server, secure=secure)
        self._heads = server.heads[secure]
        # What the last plain head was, which is most often the next one too.
        self._known: Known | None = None
        # What has come in before its turn: requests, and bytes not looked at.
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
        self._paused = self._eof = False
        self._ending = self._unread = False

    # What the event loop says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        refusal = self._server.welcome(self)
        if refusal is not None:
            self.refuse(refusal)
            self._flush()

    def data_received(self, data: bytes) -> None:
        if self._state is not State.OPEN:
            return
        if self._busy or self._paused or self._held:
            self.hold(self._held + data)
            return
        if self._inbound.idle:
            known = self._known
            if known is not None and self._server.remembers:
                seen = known.template.match(data)
                if seen is not None and self._run_again(known, data, *seen):
                    return
            if self._take_plain(data):
                return
        self._inbound.feed(data)
        self._flush()
        self._wait()

    def eof_received(self) -> bool:
        """The client sends no more: it may still be waiting for answers, but not for live ones."""
        if self._state is State.LINGERING or self._live is not None or self._secure:
            return False
        if self._pending is not None and self._pending[0].is_live_read:
            return False
        self._eof = True
        return self._busy or bool(self._queue or self._held)

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
        for request in (*self._queue, self._inbound.request):
            if request is not None and isinstance(request.begun, Exchange):
                request.begun.abandon()
        self._queue.clear()
        self._out.clear()
        self._inbound.close()

    def pause_writing(self) -> None:
        self._paused = True
        self.deadline = self._server.now + self._server.bounds.write_timeout

    def resume_writing(self) -> None:
        self._paused = False
        bounds = self._server.bounds
        self.deadline = inf if self._busy else self._server.now + bounds.body_timeout
        if self._live is not None:
            self._live.drained()
        elif not self._inbound.feeding:
            self._next()
        self._wait()

    # What the server says.

    def expire(self) -> None:
        """The deadline has passed."""
        if self._state is State.LINGERING and not self._transport.get_write_buffer_size():
            self._transport.close()
        elif self._paused or self._state is not State.OPEN:
            self._transport.abort()
        elif self._inbound.request is not None:
            self.refuse(too_slow("body"))
            self._flush()
        elif self._inbound.in_head:
            self.refuse(too_slow("head"))
            self._flush()
        else:
            self._transport.close()

    def shut(self) -> None:
        """The server stops: answer what is under way, then close."""
        inbound = self._inbound
        if self._state is State.LINGERING or not (
            self._busy or inbound.in_head or self._queue or inbound.request is not None
        ):
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # Plain requests, most of all.

    def _run_again(
        self, known: Known, data: bytes, end: int, length: int, seq: bytes | None
    ) -> bool:
        """Answer a whole request by an exchange that ran before; False if that cannot be."""
        if not len(data) - end == length <= known.max_body:
            return False
        exchange = known.exchange
        if seq is not None:
            following = exchange.next_batch(seq)
            if following is None:
                return False
            exchange = following
        self._answer_plain(exchange, exchange.run(data[end:]), bodiless=known.bodiless)
        return True

    def _take_plain(self, data: bytes) -> bool:
        """Take in a request whose head need not be parsed; False if it has to be."""
        server = self._server
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            return False
        head = data[:end]
        template = Template(head)
        length = template.length
        known = self._heads.exchanges.get(template.key) if server.remembers else None
        if known is not None:
            self._known = known
            if self._run_again(known, data, end, length, template.seq):
                return True
        plain = self._heads.read(head, template)
        come = len(data) - end
        if plain is None or come > length:
            return False
        target, headers, met = plain
        method = target.method
        bodiless = method == "HEAD"
        begun = server.begin(method, target.path, target.query, headers, secure=self._secure)
        if met and server.remembers and isinstance(begun, Exchange):
            # A head that comes once, such as one with a trace id, would push out others.
            self._known = self._heads.remember(template, begun)
        if come == length:
            if isinstance(begun, Response):
                self._answer_plain(begun, begun, bodiless=bodiless)
                return True
            if begun.permission is None and begun.verdict is None:
                self._answer_plain(begun, begun.run(data[end:]), bodiless=bodiless)
                return True
        request = Request(begun)
        request.bodiless = bodiless
        if come == length:
            request.chunks = [data[end:]]
            self.received(request)
        else:
            self._inbound.expect_body(request, length)
            if come and self.is_open:
                self._inbound.feed(data[end:])
        self._flush()
        self._wait()
        return True

    def _answer_plain(self, begun: Response | Exchange, answer: Answer, *, bodiless: bool) -> None:
        """Answer a request that came whole, with nothing before it and nothing behind it."""
        server = self._server
        if (
            type(answer) is Response
            and not bodiless
            and not server.closing
            and len(answer.body) <= JOINED
        ):
            # Most requests end here.
            status = answer.status
            if status in wire.BODILESS:
                parts = server.prefixes[status], answer.lines, b"\r\n"
            else:
                parts = server.prefixes[status], answer.lines, wire.framed_body(answer.body)
            # Before the write, which may find the client too slow and set another.
            self.deadline = server.idle_deadline
            self._transport.write(b"".join(parts))
            return
        request = Request(begun)
        request.bodiless = bodiless
        self._give(request, answer)
        self._flush()
        self._wait()

    # What the receiving half says.

    @property
    def is_open(self) -> bool:
        """Whether requests are taken in."""
        return self._state is State.OPEN

    @property
    def is_blocked(self) -> bool:
        """Whether nothing more is to be taken in for now."""
        return self._busy or self._paused

    def hold(self, data: bytes) -> None:
        """Keep bytes for later; what one read brings beyond the bound is the last."""
        self._held = data
        if len(data) > MAX_HELD and not self._transport.is_closing():
            self._transport.pause_reading()

    def body_begins(self, request: Request) -> None:
        if not (self._busy or self._paused or self._queue):
            self._take_turn(request)

    def body_overflows(self, request: Request) -> None:
        """The body is larger than it may be: the rest of it is not read."""
        if request.wants_body:
            assert request.head is not None
            request.begun = self._server.handler.too_large(request.head)
        self._answer_early(request)

    def received(self, request: Request) -> None:
        """A request is complete."""
        if not request.keep_alive:
            self._state = State.LAST
        if self._busy or self._paused or self._queue:
            self._queue.append(request)
        else:
            self._answer(request)

    def refuse(self, error: ProtocolError) -> None:
        """Answer something that is no request, after those before it, and close."""
        request = Request(self._server.handler.refuse(error), keep_alive=False)
        self._held = b""
        self._answer_early(request)

    # Answering.

    def _take_turn(self, request: Request) -> None:
        """Say what is to be said before the body: go on, or not."""
        request.due = False
        begun = request.begun
        if isinstance(begun, Exchange) and begun.permission is not None:
            request.due = True
            self._ask(begun)
        elif not request.wants_body:
            # A short one is read all the same, which keeps the connection.
            if request.expects or request.length > MAX_DRAINED:
                self._answer_early(request)
        elif request.expects and not request.size and not request.old:
            self._out.append(wire.CONTINUE)

    def _answer_early(self, request: Request) -> None:
        """Answer before the body has been read; then nothing after it can be."""
        self._inbound.request = None
        request.keep_alive = False
        request.chunks = []
        self._state = State.LAST
        self._unread = True
        if self._busy or self._paused or self._queue:
            self._queue.append(request)
        else:
            self._answer(request)

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
        self._give(request, begun.run(request.body))

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
        if not self._inbound.feeding:
            self._next()

    def _ask(self, exchange: Exchange) -> None:
        """Wait for an access hook that is async; the request then takes its turn again."""
        self._busy = True
        self.deadline = inf
        self._asking = asyncio.get_running_loop().create_task(self._permission(exchange))

    async def _permission(self, exchange: Exchange) -> None:
        permission, exchange.permission = exchange.permission, None
        assert permission is not None
        await permission
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
        head = wire.head(self._server.prefixes[status], response, framing)
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
        self._known = None
        self._chunked = not request.old
        self._keep = request.keep_alive and self._chunked
        framing = wire.CHUNKED if self._chunked else b""
        if not self._keep:
            framing += wire.CLOSE
        self._out.append(wire.head(self._server.prefixes[live.head.status], live.head, framing))
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
        if not self._inbound.feeding:
            self._next()

    def _next(self) -> None:
        """An answer is done: go on with what came meanwhile."""
        while not (self._busy or self._paused or self._ending or self._state is State.LOST):
            request = self._inbound.request
            if self._queue:
                self._answer(self._queue.pop(0))
            elif request is not None and request.due:
                self._take_turn(request)
            elif self._held and self._state is State.OPEN:
                held, self._held = self._held, b""
                self._inbound.feed(held)
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
        elif self._eof and not (
            self._busy or self._queue or self._held or self._state is State.LOST
        ):
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
        inbound = self._inbound
        if self._busy or self._paused or inbound.request is not None:
            return
        if self._state is State.OPEN:
            server = self._server
            if not inbound.quiet:
                self.deadline = server.idle_deadline
            elif not inbound.in_head:
                inbound.in_head = True
                self.deadline = server.now + server.bounds.header_timeout
