"""The sending half of a connection: responses, and the half-close after the last of them."""

import asyncio
from enum import Enum
from time import perf_counter
from typing import TYPE_CHECKING

from durable_streams_server.frontends.standalone.request_head import ReceivedHead
from durable_streams_server.http import wire
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.messages import RequestHead, Response
from durable_streams_server.http.peers import Peer

if TYPE_CHECKING:
    from durable_streams_server.frontends.standalone.server import StandaloneServer

JOINED = 64 * 1024
"""Bodies up to this size are joined with their head into one write."""
LINGER_SECONDS = 0.5
"""How long the connection reads on after its last response; checked by the server's timer."""


class ConnectionPhase(Enum):
    """How far the life of a connection has come."""

    OPEN = "open"
    ENDING = "ending"
    """Bytes that come in are ignored; the connection closes after the response that is due."""
    LINGERING = "lingering"
    """Everything was sent; the connection reads on for a moment so that it arrives."""
    LOST = "lost"


class Sender(asyncio.Protocol):
    """Gathers responses and writes them to the transport.

    ``deadline`` is the loop's time at which the server looks at this connection again.
    """

    __slots__ = (
        "_began", "_eof", "_gathered", "_observer", "_out", "_paused", "_peer", "_phase",
        "_received", "_request", "_server", "_transport", "_unread", "deadline", "exchange",
    )  # fmt: skip

    _peer: Peer
    _transport: asyncio.Transport

    def __init__(self, server: "StandaloneServer") -> None:
        self._server = server
        self._phase = ConnectionPhase.OPEN
        self.deadline = server.now + server.bounds.header_timeout
        self._observer = server.handler.observer
        # Of the request that is open, kept for the observer alone.
        self.exchange: Exchange | None = None
        self._request: RequestHead | None = None
        """The head of a request without an exchange."""
        self._began = 0.0
        self._received = 0
        """Bytes of its body."""
        self._out: list[bytes] = []
        self._gathered = 0
        """Bytes of the responses in ``_out``, about."""
        self._paused = False
        """Whether the client is too slow to take more."""
        self._eof = False
        """Whether the client sends no more."""
        self._unread = False
        """Whether a part of the last request was not read."""

    def pause_writing(self) -> None:
        self._paused = True
        self.deadline = self._server.now + self._server.bounds.write_timeout

    def abort(self) -> None:
        self._transport.abort()

    # The caller, as an observer asks for it.

    @property
    def method(self) -> str:
        head = self._reported_head()
        return "" if head is None else head.method

    @property
    def target(self) -> str:
        head = self._reported_head()
        return "" if head is None else head.target

    @property
    def peer(self) -> str:
        return self._peer.address

    def header(self, name: bytes) -> bytes | None:
        head = self._reported_head()
        return None if head is None else head.header(name)

    def _reported_head(self) -> ReceivedHead | None:
        exchange = self.exchange
        # Every request of this front end is one.
        return self._request if exchange is None else exchange.request  # type: ignore[return-value]

    def _report(self, status: int, sent: int) -> None:
        """The request is over, or what was answered is not a request."""
        observer = self._observer
        assert observer is not None
        if self._began:
            observer.finished(self, status, self._received, sent, self._began)
            self._request = self.exchange = None
            self._began = 0.0
        else:
            observer.finished(self, status, 0, sent, perf_counter())

    def _respond(self, head: ReceivedHead | None, response: Response) -> None:
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
            self._phase = ConnectionPhase.ENDING
        elif head.old:
            framing += wire.KEEP_ALIVE
        if self._observer is not None:
            self._report(status, len(body))
        out = self._out
        lines = response.lines
        out += server.prefixes[status], lines, framing, b"\r\n"
        if len(body) <= JOINED:
            out.append(body)
            self._gathered += len(lines) + len(body)
            if self._gathered > JOINED:
                # So that a client that takes nothing pauses this connection.
                self._push()
        else:
            self._push()
            self._transport.write(body)

    def _push(self) -> None:
        """Write what has gathered."""
        out = self._out
        if out:
            data = b"".join(out)
            out.clear()
            self._gathered = 0
            if not self._transport.is_closing():
                self._transport.write(data)

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
        self._phase = ConnectionPhase.LINGERING
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
