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
from time import perf_counter
from typing import TYPE_CHECKING, Final, cast

from durable_streams_core.errors import ProtocolError, Unavailable
from durable_streams_server.frontends.standalone.bodies import MAX_DRAINED, Incoming
from durable_streams_server.frontends.standalone.receiver import BODY_END, Receiver
from durable_streams_server.frontends.standalone.request_head import ReceivedHead, too_slow
from durable_streams_server.frontends.standalone.sending import ConnectionPhase, Sender
from durable_streams_server.http import wire
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.messages import AnyResponse, Live, Pending, Response
from durable_streams_server.http.observing import CLIENT_CLOSED_REQUEST
from durable_streams_server.http.peers import Peer

if TYPE_CHECKING:
    from durable_streams_server.frontends.standalone.server import StandaloneServer

# Looking a member up in its enum costs more than calling a function.
_OPEN: Final = ConnectionPhase.OPEN
_ENDING: Final = ConnectionPhase.ENDING
_LOST: Final = ConnectionPhase.LOST
MAX_HELD = 64 * 1024
"""Bytes held unread behind a response before the socket is not read any more."""


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


class Connection(Sender):
    """Takes requests in and has them answered. Also a live response's sink.

    Long because the order of requests, their bodies and their responses is
    one decision: each step looks at what the others wait for.
    """

    __slots__ = (
        "_advancing", "_chunked", "_head", "_head_begun", "_incoming", "_live", "_receiver",
        "_secure", "_stalled", "_waiting", "opened_at",
    )  # fmt: skip

    def __init__(self, server: "StandaloneServer", *, secure: bool) -> None:
        super().__init__(server)
        self._secure = secure
        self.opened_at = asyncio.get_running_loop().time()
        self._receiver = Receiver(server.bounds)
        self._head_begun = False
        """Whether a part of a head has come, which set the deadline."""
        self._incoming: Incoming | None = None
        """The request whose body is being received."""
        self._head: ReceivedHead | None = None
        """The head of the request that is being answered; None for what was not a request."""
        self._waiting: Pending | asyncio.Task[None] | Live | None = None
        """The pending response, permission or live response that is waited for."""
        self._live: Live | None = None
        """The live response that is being sent, which is what is waited for."""
        self._chunked = False
        """Whether the frames of the live response are sent as chunks."""
        self._advancing = False
        self._stalled = False
        """Whether the socket is not read, because enough is held."""

    # Calls of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._peer = Peer(transport)
        refusal = self._server.welcome(self)
        if refusal is not None:
            self._refuse(refusal)
            self._flush()

    def data_received(self, data: bytes) -> None:
        if self._phase is not _OPEN:
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
            isinstance(waiting, Pending) and self._head is not None and "live=" in self._head.query
        )
        if live or self._phase is ConnectionPhase.LINGERING or self._secure:
            return False
        self._eof = True
        return waiting is not None or self._paused

    def connection_lost(self, exc: Exception | None) -> None:
        self._phase = ConnectionPhase.LOST
        self._server.forget(self)
        waiting, self._waiting = self._waiting, None
        live, self._live = self._live, None
        if live is not None:
            live.gone()
        elif isinstance(waiting, Pending | asyncio.Task):
            waiting.cancel()
        incoming = self._drop_body()
        if incoming is not None and isinstance(incoming.begun, Exchange):
            incoming.begun.abandon()
        self._out.clear()
        if self._began:
            if live is not None:
                self._report(live.response.status, live.sent)
            else:
                self._report(CLIENT_CLOSED_REQUEST, 0)

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
        if self._phase is not _OPEN:
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
        if self._phase is ConnectionPhase.LINGERING or self.awaited is Awaited.REQUEST:
            self._transport.close()

    # Requests.

    def _advance(self) -> None:
        """Take in and answer requests until one has to be waited for."""
        if self._advancing:
            return
        self._advancing = True
        receiver = self._receiver
        try:
            while (
                not receiver.empty
                and self._waiting is None
                and not self._paused
                and self._phase is _OPEN
            ):
                event = receiver.next()
                if event is None:
                    break
                if type(event) is ReceivedHead:
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

    def _begin(self, head: ReceivedHead) -> None:
        """Begin a request, and answer it if it is all there."""
        body = head.body
        if self._observer is None:
            begun = self._server.begin(head, self._peer, secure=self._secure)
        else:
            self._began = perf_counter()
            self._received = 0 if body is None else len(body)
            begun = self._server.begin(head, self._peer, secure=self._secure)
            if isinstance(begun, Exchange):
                self.exchange = begun
            else:
                self._request = head
        if body is not None and len(body) <= MAX_DRAINED and head.expectation is None:
            if not isinstance(begun, Exchange):
                self._respond(head, begun)
                return
            if begun.permission is None:
                self._give(head, begun.run(body))
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
                exchange = cast(Exchange, incoming.begun)
                exchange.leave_unused(incoming.size)
                incoming.begun = server.handler.too_large(exchange.request)
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
        if not isinstance(begun, Exchange):
            self._respond(incoming.head, begun)
        elif begun.verdict is not None:
            begun.leave_unused(incoming.size)
            self._give(incoming.head, begun.verdict)
        else:
            self._give(incoming.head, begun.run(incoming.take_body()))

    def _answer_early(self, incoming: Incoming) -> None:
        """Answer before the body has been read; then nothing after it can be."""
        self._drop_body()
        begun = incoming.begun
        incoming.head.keep_alive = False
        self._unread = True
        if isinstance(begun, Exchange):
            self._give(incoming.head, begun.run(b""))
        else:
            self._respond(incoming.head, begun)

    def _forget_body(self) -> Incoming | None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            self._received += incoming.size
            self._server.bodies.release(self._give_way)
        return incoming

    def _drop_body(self) -> Incoming | None:
        """Forget a body that is not used; its sender pays for what came of it."""
        incoming = self._forget_body()
        if incoming is not None and isinstance(incoming.begun, Exchange):
            incoming.begun.leave_unused(incoming.size)
        return incoming

    def _refuse(self, error: ProtocolError) -> None:
        """Respond to something that is not a request, and close."""
        self._drop_body()
        self._unread = True
        self._respond(None, self._server.handler.refuse(error))

    # Responses.

    def _give(self, head: ReceivedHead, response: AnyResponse) -> None:
        """Send an answer, or wait for it."""
        if type(response) is Response:
            self._respond(head, response)
            return
        self._head = head
        self.deadline = inf
        if isinstance(response, Pending):
            self._waiting = response
            response.then(self._settled)
        else:
            self._go_live(head, cast(Live, response))

    def _settled(self, result: Response | Live) -> None:
        head = self._head
        assert head is not None
        self._waiting = None
        if type(result) is Response:
            if self._transport.is_closing():
                # Nothing is sent any more; the end of the connection is reported.
                return
            self._respond(head, result)
            self._resume()
        else:
            self._go_live(head, cast(Live, result))

    def _go_live(self, head: ReceivedHead, live: Live) -> None:
        self._waiting = self._live = live
        keep = head.keep_alive and not head.old and not self._server.closing
        self._chunked = not head.old
        framing = wire.CHUNKED if self._chunked else b""
        if not keep:
            framing += wire.CLOSE
        self._out.append(
            wire.response_head(self._server.prefixes[live.response.status], live.response, framing)
        )
        live.attach(self)
        self._push()

    def write(self, frame: bytes) -> bool:
        """A live response's frame; False if no more should come until it is drained."""
        transport = self._transport
        if self._phase is _LOST or transport.is_closing():
            return False
        if self._chunked:
            frame = self._server.framed(frame)
        if self._out:
            self._out.append(frame)
            self._push()
        else:
            transport.write(frame)
        return not self._paused

    def end(self) -> None:
        """The live response is complete."""
        head = self._head
        if self._live is None or head is None:
            return
        if self._observer is not None:
            self._report(self._live.response.status, self._live.sent)
        self._waiting = self._live = None
        if self._chunked:
            self._out.append(wire.LAST_CHUNK)
        if head.old or not head.keep_alive or self._server.closing:
            self._phase = ConnectionPhase.ENDING
        self._resume()

    def _resume(self) -> None:
        """A response is done: go on with what came meanwhile."""
        self._advance()
        if self._stalled and self._receiver.buffered <= MAX_HELD:
            self._stalled = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # Sending.

    def _flush(self) -> None:
        """Write what has gathered, set the next deadline, and close if that was the last of it."""
        if self._out:
            self._push()
        if self._waiting is not None:
            return
        if self._phase is _ENDING:
            self._linger()
        elif self._phase is _OPEN and not self._paused:
            begun = False
            if self._incoming is None:
                begun = not self._receiver.empty
                if not begun:
                    self.deadline = self._server.idle_deadline
                elif not self._head_begun:
                    self.deadline = self._server.now + self._server.bounds.header_timeout
            self._head_begun = begun
            if self._eof:
                self._transport.close()
