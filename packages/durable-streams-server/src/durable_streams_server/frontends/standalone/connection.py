"""One client's connection: it owns time and sending, and has requests answered in order.

* One request is looked at after the other. What arrives behind a response that is not there yet
  stays in the receiver, and beyond a bound is not read, so a flood of pipelined requests costs no
  more than that.
* A request that comes whole costs a look at its head and one write: no task, no timer, no future.
  Time limits are deadlines that the server looks at once a second.
* The last response is followed by a half-close and a moment of reading on, or a client that still
  sends would lose the response to a reset.
"""

import asyncio
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, cast

from durable_streams_core.errors import ProtocolError, Unavailable
from durable_streams_server.frontends.standalone.bodies import MAX_DRAINED, Incoming
from durable_streams_server.frontends.standalone.receiver import BODY_END, Receiver
from durable_streams_server.frontends.standalone.request_head import Head, too_slow
from durable_streams_server.http import wire
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.messages import AnyResponse, Live, Pending, Response

if TYPE_CHECKING:
    from durable_streams_server.frontends.standalone.server import StandaloneServer

MAX_HELD = 64 * 1024
"""Bytes held unread behind a response before the socket is not read any more."""
JOINED = 64 * 1024
"""Bodies up to this size are joined with their head into one write."""
LINGER_SECONDS = 0.5
"""How long the connection reads on after its last response, until the server's next look."""


class Phase(Enum):
    """How far the life of a connection has come."""

    OPEN = "open"
    ENDING = "ending"
    """Bytes that come in are ignored; the connection closes after the response that is due."""
    LINGERING = "lingering"
    """Everything was sent; the connection reads on for a moment so that it arrives."""
    LOST = "lost"


class Awaited(Enum):
    """The things that a connection may wait for."""

    REQUEST = "request"
    HEAD = "head"
    """The rest of a request head."""
    BODY = "body"
    RESPONSE = "response"
    """The response, an access hook's permission, or the end of a live response."""
    CLIENT = "client"
    """That the client takes what was sent."""
    END = "end"


class Connection(asyncio.Protocol):
    """Takes requests in, has them answered, and writes the responses. Also a live response's sink.

    ``deadline`` is the loop's time at which the server calls :meth:`expire`.
    """

    __slots__ = (
        "_advancing", "_eof", "_head", "_head_begun", "_incoming", "_live", "_out", "_paused", "_phase",
        "_receiver", "_secure", "_server", "_stalled", "_transport", "_unread", "_waiting",
        "deadline",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, server: "StandaloneServer", *, secure: bool) -> None:
        self._server = server
        self._secure = secure
        self._phase = Phase.OPEN
        self.deadline = server.now + server.bounds.header_timeout
        self._receiver = Receiver(server.bounds)
        self._head_begun = False
        """Whether a part of a head has come, which set the deadline."""
        self._incoming: Incoming | None = None
        """The request whose body is being received."""
        self._head: Head | None = None
        """The head of the request that is being answered; None for what was not a request."""
        self._waiting: Pending | asyncio.Task[None] | Live | None = None
        """The pending response, permission or live response that is waited for."""
        self._live: Live | None = None
        """The live response that is being sent, which is what is waited for."""
        self._advancing = False
        self._out: list[bytes] = []
        self._paused = False
        """Whether the client is too slow to take more."""
        self._stalled = False
        """Whether the socket is not read, because enough is held."""
        self._eof = False
        """Whether the client sends no more."""
        self._unread = False
        """Whether a part of the last request was not read."""

    # Calls of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        refusal = self._server.welcome(self)
        if refusal is not None:
            self._refuse(refusal)
            self._flush()

    def data_received(self, data: bytes) -> None:
        if self._phase is not Phase.OPEN:
            return
        receiver = self._receiver
        receiver.feed(data)
        if self._waiting is None and not self._paused:
            self._advance()
        elif receiver.buffered > MAX_HELD and not self._transport.is_closing():
            self._stalled = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends no more: it may still wait for responses, but not for live ones."""
        waiting = self._waiting
        live = self._live is not None or (
            type(waiting) is Pending and self._head is not None and "live=" in self._head.target
        )
        if live or self._phase is Phase.LINGERING or self._secure:
            return False
        self._eof = True
        return waiting is not None or self._paused

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = Phase.LOST
        self._server.forget(self)
        waiting, self._waiting = self._waiting, None
        live, self._live = self._live, None
        if live is not None:
            live.gone()
        elif isinstance(waiting, Pending | asyncio.Task):
            waiting.cancel()
        incoming = self._forget_body()
        if incoming is not None and isinstance(incoming.begun, Exchange):
            incoming.begun.abandon()
        self._out.clear()

    def pause_writing(self) -> None:
        self._paused = True
        self.deadline = self._server.now + self._server.bounds.write_timeout

    def resume_writing(self) -> None:
        self._paused = False
        if self._live is not None:
            self.deadline = inf
            self._live.drained()
        elif self._waiting is None:
            server = self._server
            self.deadline = server.now + server.bounds.body_timeout
            self._resume()

    # Calls of the server.

    @property
    def awaited(self) -> Awaited:
        """The thing that this connection waits for."""
        if self._phase is not Phase.OPEN:
            return Awaited.END
        if self._paused:
            return Awaited.CLIENT
        if self._waiting is not None:
            return Awaited.RESPONSE
        if self._incoming is not None:
            return Awaited.BODY
        return Awaited.HEAD if self._head_begun else Awaited.REQUEST

    @property
    def held(self) -> int:
        """Bytes that were received and not looked at, and bytes that wait to be sent."""
        return self._receiver.buffered + self._transport.get_write_buffer_size()

    def expire(self) -> None:
        """The deadline has passed."""
        match self.awaited:
            case Awaited.END if not self._transport.get_write_buffer_size():
                self._transport.close()
            case Awaited.END | Awaited.CLIENT:
                self._transport.abort()
            case Awaited.BODY | Awaited.HEAD as late:
                self._refuse(too_slow(late.value))
                self._flush()
            case _:
                self._transport.close()

    def shut(self) -> None:
        """The server stops: answer what is under way, then close."""
        if self._phase is Phase.LINGERING or self.awaited is Awaited.REQUEST:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # Requests.

    def _advance(self) -> None:
        """Take in and answer requests until one has to be waited for."""
        if self._advancing:
            return
        self._advancing = True
        receiver = self._receiver
        try:
            while self._waiting is None and not self._paused and self._phase is Phase.OPEN:
                event = receiver.next()
                if event is None:
                    break
                if type(event) is Head:
                    self._begin(event)
                elif type(event) is bytes:
                    self._take(event)
                elif event is BODY_END:
                    self._complete()
                else:
                    self._refuse(cast(ProtocolError, event))
        finally:
            self._advancing = False
        self._flush()

    def _begin(self, head: Head) -> None:
        """Begin a request, and answer it if it is all there."""
        begun = self._server.begin(head, secure=self._secure)
        body = head.body
        if body is not None and len(body) <= MAX_DRAINED and head.expectation is None:
            if type(begun) is Response:
                self._respond(head, begun)
                return
            assert isinstance(begun, Exchange)
            if begun.permission is None:
                self._give(head, begun.verdict or begun.run(body))
                return
        self._incoming = incoming = Incoming(head, begun)
        self.deadline = self._server.now + self._server.bounds.body_timeout
        if isinstance(begun, Exchange) and begun.permission is not None:
            self._ask(begun)
        else:
            self._before_body(incoming)

    def _ask(self, exchange: Exchange) -> None:
        """Wait for an access hook that is async."""
        self.deadline = inf
        self._waiting = asyncio.get_running_loop().create_task(self._permission(exchange))

    async def _permission(self, exchange: Exchange) -> None:
        permission, exchange.permission = exchange.permission, None
        assert permission is not None
        await permission
        self._waiting = None
        incoming = self._incoming
        if incoming is not None:
            self.deadline = self._server.now + self._server.bounds.body_timeout
            self._before_body(incoming)
        self._resume()

    def _before_body(self, incoming: Incoming) -> None:
        """Access is settled: wait for the body, or answer without it."""
        head, begun = incoming.head, incoming.begun
        body = head.body
        if body is None and isinstance(begun, Exchange):
            begun.look_ahead()
        if incoming.wanted:
            if body is not None:
                incoming.add(body)
                self._complete()
            elif head.expectation is not None and not self._receiver.buffered and not head.old:
                self._out.append(wire.CONTINUE)
        elif head.expectation is not None or head.length > MAX_DRAINED:
            self._answer_early(incoming)
        elif body is not None:
            # A short body is read all the same, which keeps the connection.
            self._complete()

    def _take(self, piece: bytes) -> None:
        """A piece of a body."""
        incoming = self._incoming
        assert incoming is not None
        server = self._server
        incoming.size += len(piece)
        if incoming.size > incoming.limit:
            if incoming.wanted:
                incoming.begun = server.handler.too_large(cast(Exchange, incoming.begun).request)
            self._answer_early(incoming)
            return
        # A client that sent fast for a while may not be silent for longer because of that.
        bounds = server.bounds
        earned = self.deadline + len(piece) / bounds.body_rate
        self.deadline = min(earned, server.now + bounds.body_timeout)
        if incoming.wanted:
            incoming.add(piece)
            server.bodies.add(self._give_way, len(piece))

    def _give_way(self) -> None:
        """Too much is being received: drop this body."""
        self._refuse(Unavailable("Too much is being received; try again.", code="overloaded"))
        if not self._advancing:
            self._flush()

    def _complete(self) -> None:
        """A request's body is complete."""
        incoming = self._forget_body()
        assert incoming is not None
        begun = incoming.begun
        if isinstance(begun, Exchange):
            self._give(incoming.head, begun.verdict or begun.run(incoming.take_body()))
        else:
            self._respond(incoming.head, begun)

    def _answer_early(self, incoming: Incoming) -> None:
        """Answer before the body has been read; then nothing after it can be."""
        self._forget_body()
        begun = incoming.begun
        incoming.head.keep_alive = False
        self._unread = True
        if isinstance(begun, Exchange):
            self._give(incoming.head, begun.verdict or begun.run(b""))
        else:
            self._respond(incoming.head, begun)

    def _forget_body(self) -> Incoming | None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            self._server.bodies.release(self._give_way)
        return incoming

    def _refuse(self, error: ProtocolError) -> None:
        """Respond to something that is not a request, and close."""
        self._forget_body()
        self._unread = True
        self._respond(None, self._server.handler.refuse(error))

    # Responses.

    def _give(self, head: Head, answer: AnyResponse) -> None:
        """Send an answer, or wait for it."""
        if type(answer) is Response:
            self._respond(head, answer)
            return
        self._head = head
        self.deadline = inf
        if type(answer) is Pending:
            self._waiting = answer
            answer.then(self._settled)
        else:
            self._go_live(head, cast(Live, answer))

    def _settled(self, result: Response | Live) -> None:
        head = self._head
        assert head is not None
        self._waiting = None
        if type(result) is Response:
            self._respond(head, result)
            self._resume()
        else:
            self._go_live(head, cast(Live, result))

    def _respond(self, head: Head | None, response: Response) -> None:
        server = self._server
        status = response.status
        body = response.body
        framing = b""
        if head is not None and head.method == "HEAD":
            body = b""
        elif status not in wire.BODILESS:
            framing = b"content-length: %d\r\n" % len(body)
        if head is None or not head.keep_alive or server.closing:
            framing += wire.CLOSE
            self._phase = Phase.ENDING
        elif head.old:
            framing += wire.KEEP_ALIVE
        out = self._out
        out += server.prefixes[status], response.lines, framing, b"\r\n"
        if len(body) <= JOINED:
            out.append(body)
        else:
            self._push()
            self._transport.write(body)

    def _go_live(self, head: Head, live: Live) -> None:
        self._waiting = self._live = live
        keep = head.keep_alive and not head.old
        framing = wire.CHUNKED if not head.old else b""
        if not keep:
            framing += wire.CLOSE
        self._out.append(
            wire.response_head(self._server.prefixes[live.response.status], live.response, framing)
        )
        live.attach(self)
        self._push()

    def write(self, frame: bytes) -> bool:
        """A live response's frame; False if no more should come until it is drained."""
        if self._phase is Phase.LOST or self._transport.is_closing():
            return False
        if self._head is not None and not self._head.old:
            frame = self._server.framed(frame)
        if self._out:
            self._out.append(frame)
            self._push()
        else:
            self._transport.write(frame)
        return not self._paused

    def end(self) -> None:
        """The live response is complete."""
        head = self._head
        if self._live is None or head is None:
            return
        self._waiting = self._live = None
        if not head.old:
            self._out.append(wire.LAST_CHUNK)
        if head.old or not head.keep_alive or self._server.closing:
            self._phase = Phase.ENDING
        self._resume()

    def _resume(self) -> None:
        """A response is done: go on with what came meanwhile."""
        self._advance()
        if self._stalled and self._receiver.buffered <= MAX_HELD:
            self._stalled = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # Sending.

    def _push(self) -> None:
        """Write what has gathered."""
        out = self._out
        if out:
            data = b"".join(out)
            out.clear()
            if not self._transport.is_closing():
                self._transport.write(data)

    def _flush(self) -> None:
        """Write what has gathered, set the next deadline, and close if that was the last of it."""
        if self._waiting is None and not self._paused and self._phase is Phase.OPEN:
            self._await_request()
        self._push()
        if self._waiting is None:
            if self._phase is Phase.ENDING:
                self._linger()
            elif self._eof and not self._paused and self._phase is Phase.OPEN:
                self._transport.close()

    def _await_request(self) -> None:
        """Set the deadline for what is to come next."""
        if self._incoming is not None:
            self._head_begun = False
        elif not self._receiver.buffered:
            self._head_begun = False
            self.deadline = self._server.idle_deadline
        elif not self._head_begun:
            self._head_begun = True
            self.deadline = self._server.now + self._server.bounds.header_timeout

    def _linger(self) -> None:
        """Everything was said: close so that it arrives (RFC 9112 §9.6).

        To close while the client still sends would reset the connection and take the response away.
        So half-close, and read on until the client closes too or a moment has passed.
        """
        transport = self._transport
        if transport.is_closing():
            return
        server = self._server
        half = transport.can_write_eof()
        if self._eof or not (half or self._unread):
            self.deadline = server.now + server.bounds.write_timeout
            transport.close()
            return
        self._phase = Phase.LINGERING
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
