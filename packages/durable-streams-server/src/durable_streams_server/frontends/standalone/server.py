"""All connections of one server: their welcome, their clock and their end."""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from durable_streams_core.errors import ProtocolError, Unavailable
from durable_streams_server.access.access import Access
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.sockets import BACKLOG, listen_at, port_of
from durable_streams_server.frontends.standalone.bodies import Bodies
from durable_streams_server.frontends.standalone.bounds import Bounds, connections_allowed
from durable_streams_server.frontends.standalone.connection import Connection
from durable_streams_server.frontends.standalone.request_head import (
    ReceivedHead,
    expectation_failed,
)
from durable_streams_server.http import wire
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.messages import RequestHead, Response
from durable_streams_server.http.peers import Peer
from durable_streams_server.http.targets import path_below, split_target

log = logging.getLogger("durable_streams_server.frontends.standalone")

TICK_SECONDS = 1.0
ACCEPT_RETRY_SECONDS = 0.1
FRESH_SECONDS = 0.25
"""How long a client that just connected may take to send its request when the server stops."""
MAX_REFUSED = 64
"""Connections beyond the bound that are told so at once; any more are closed without a word."""


SHARED_FRAME_BYTES = 256 * 1024
"""The largest frame of an event that is shared by many readers."""


class StandaloneServer:
    """Serves a mount under a root, on any number of addresses."""

    def __init__(self, mount: Mount, root: str, bounds: Bounds | None = None) -> None:
        self.handler = mount.handler
        self.root = root
        self.bounds = bounds or Bounds()
        authorize = mount.handler.options.authorize
        # An access object of ours looks at headers that are known anyway.
        self._asks = authorize is not None and not isinstance(authorize, Access)
        self.closing = False
        self.now = self.idle_deadline = 0.0
        self.bodies = Bodies(self.bounds.max_bodies)
        self.prefixes: dict[int, bytes] = {}
        """An answer's status line and Date header, by status."""
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._accepting = True
        self._listeners: dict[socket.socket, tuple[asyncio.Task[None], ssl.SSLContext | None]] = {}
        self._opening: dict[Connection, asyncio.Task[None]] = {}
        """Connections that were accepted and have no transport yet: most are in a handshake."""
        self._allowed = self.bounds.max_connections
        self._timer: asyncio.TimerHandle | None = None
        self._frame = self._chunk = b""

    def __len__(self) -> int:
        return len(self._connections) + len(self._opening)

    @property
    def connections(self) -> frozenset[Connection]:
        """The connections that have a transport."""
        return frozenset(self._connections)

    # Life.

    async def listen(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> int:
        """Accept connections; returns the port, which 0 lets the system pick."""
        # Looking a name up may take a while.
        listeners = await asyncio.to_thread(listen_at, host, port)
        self.accept(listeners, tls=tls)
        return port_of(listeners)

    def accept(
        self, listeners: Sequence[socket.socket], *, tls: ssl.SSLContext | None = None
    ) -> None:
        """Accept connections of sockets that listen; they are closed when the server stops."""
        loop = asyncio.get_running_loop()
        self._allowed = connections_allowed(self.bounds)
        if self._timer is None:
            self._tick()
        for listener in listeners:
            self._listeners[listener] = (loop.create_task(self._accept(listener, tls)), tls)

    async def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accept connections until the server stops; an error of the system only delays that."""
        loop = asyncio.get_running_loop()
        while self._accepting:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("accepting a connection failed: %s", error)
                await asyncio.sleep(ACCEPT_RETRY_SECONDS)
                continue
            self._take(client, tls)
            await asyncio.sleep(0)

    def _take(self, client: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Take an accepted connection in, or close it where there are too many."""
        crowded = len(self) - self._allowed
        if crowded >= (MAX_REFUSED if tls is None else 0):
            # To say why would take a descriptor, or a handshake.
            client.close()
        else:
            connection = Connection(self, secure=tls is not None)
            loop = asyncio.get_running_loop()
            self._opening[connection] = loop.create_task(self._open(connection, client, tls))

    def _take_waiting(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Take in the connections that wait in the system's queue, which closing would reset."""
        for _ in range(BACKLOG):
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.setblocking(False)
            self._take(client, tls)

    async def _open(
        self, connection: Connection, client: socket.socket, tls: ssl.SSLContext | None
    ) -> None:
        """Give an accepted connection its transport, after the handshake where there is one."""
        loop = asyncio.get_running_loop()
        bounds = self.bounds
        limits: dict[str, Any] = {}
        if tls is not None:
            limits = {
                "ssl": tls,
                "ssl_handshake_timeout": bounds.header_timeout,
                "ssl_shutdown_timeout": bounds.shutdown_timeout,
            }
        try:
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(lambda: connection, client, **limits)
        except OSError as error:
            log.debug("a connection failed before its first request: %s", error)
            client.close()
        except asyncio.CancelledError:
            client.close()
            raise
        finally:
            self._opening.pop(connection, None)

    def drain(self) -> None:
        """Ask clients to leave: each connection ends with its next response. New ones are accepted
        all the same, for one response each.
        """
        self.closing = True

    async def stop(self) -> None:
        """Accept nothing more, tell live readers, let answers under way finish, then close.

        A client that connected a moment ago gets a moment to send its request, and its response.
        """
        self.closing = True
        try:
            await self._stop_listening()
            self.handler.close()
            fresh = asyncio.get_running_loop().time() - FRESH_SECONDS
            for connection in tuple(self._connections):
                if connection.opened_at <= fresh:
                    connection.shut()
            if self._connections and not await self._emptied(FRESH_SECONDS):
                for connection in tuple(self._connections):
                    connection.shut()
                if not await self._emptied(self.bounds.shutdown_timeout):
                    log.info("%d connections are cut", len(self._connections))
                    for connection in tuple(self._connections):
                        connection.abort()
                    # One round of the loop lets them say goodbye to what they waited for.
                    await asyncio.sleep(0)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    async def _emptied(self, seconds: float) -> bool:
        """Whether all connections end within so many seconds."""
        self._empty.clear()
        if not self._connections:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def _stop_listening(self) -> None:
        loop = asyncio.get_running_loop()
        self._accepting = False
        for listener in self._listeners:
            with suppress(NotImplementedError):
                # A connection that is accepted while its task is cancelled would be lost.
                loop.remove_reader(listener)
        await asyncio.sleep(0)
        tasks = [task for task, _ in self._listeners.values()]
        for task in tasks:
            task.cancel()
        # Also begins each task that was just created: one cancelled before would leave its socket.
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener, (_, tls) in self._listeners.items():
            self._take_waiting(listener, tls)
            listener.close()
        self._listeners.clear()
        opening = tuple(self._opening.values())
        if opening:
            await asyncio.wait(opening, timeout=FRESH_SECONDS)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)

    def _tick(self) -> None:
        """Once a second: the time, the Date header, and deadlines."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(TICK_SECONDS, self._tick)
        self.note_time(loop.time())

    def note_time(self, now: float) -> None:
        """Take note of the loop's time, and end what is late."""
        self.now = now
        self.idle_deadline = now + self.bounds.idle_timeout
        date = wire.date_line(time.time())
        self.prefixes = {status: line + date for status, line in wire.STATUS_LINES.items()}
        late = [connection for connection in self._connections if connection.deadline < now]
        for connection in late:
            try:
                connection.expire()
            except Exception:
                log.exception("ending a slow connection failed")

    # What connections ask.

    def welcome(self, connection: Connection) -> Unavailable | None:
        """Take a new connection in; what is returned is why it cannot stay."""
        self._opening.pop(connection, None)
        self._connections.add(connection)
        if len(self) > self._allowed:
            return Unavailable("Too many connections; try again.", code="too-many-connections")
        return None

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def begin(self, head: ReceivedHead, peer: Peer, *, secure: bool) -> Response | Exchange:
        """Have the handler look at a request's head."""
        handler, root = self.handler, self.root
        try:
            if head.expectation is not None and head.expectation.lower() != b"100-continue":
                head.expectation = None
                raise expectation_failed()
            target = head.target
            if target.startswith(root) and "#" not in target:
                head.path, _, head.query = target[len(root) :].partition("?")
            else:
                path, head.query = split_target(target)
                below = path_below(path, root)
                if below is None:
                    return handler.outside(head.method, path, root)
                head.path = below
            head.root = root
            head.peer = peer
            if secure:
                head.scheme = "https"
            if self._asks:
                # The hook gets all headers, in a dictionary of its own.
                head.native = RequestHead(
                    head.method,
                    head.path,
                    head.query,
                    head.all_headers(),
                    root=root,
                    scheme=head.scheme,
                    peer=peer,
                )
        except ProtocolError as error:
            return handler.refuse(error)
        return handler.begin(head)

    def framed(self, frame: bytes) -> bytes:
        """A frame as a chunk, made once for all readers that get the same one."""
        if len(frame) > SHARED_FRAME_BYTES:
            # Larger ones are made for one reader, and would be kept for nobody.
            return wire.chunk(frame)
        if frame is not self._frame:
            self._frame, self._chunk = frame, wire.chunk(frame)
        return self._chunk
