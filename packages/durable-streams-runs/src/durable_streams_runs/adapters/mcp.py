"""Keeps what an MCP server sends, so that its clients resume after a lost connection."""

import asyncio
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import msgspec
from mcp.server.streamable_http import EventCallback, EventMessage
from mcp.server.streamable_http import EventStore as McpEventStore
from mcp_types import JSONRPCMessage, jsonrpc_message_adapter

from durable_streams_core.errors import Gone, InvalidRequest, NotFound
from durable_streams_core.paths import check_path
from durable_streams_core.protocol import START
from durable_streams_runs.streams import persistently, streams_of

__all__ = ["EventStore"]

SESSION_HEADER: Final = b"mcp-session-id"

_EVENT_ID: Final = re.compile(r"([0-9a-f]{32})\.([!-.0-~]{1,256})\.([0-9]{1,9})")
"""The stream of a request, an offset in it, which has no slash, and the number of the event."""

NO_MESSAGE: Final = msgspec.Raw(b"null")

SESSIONS: Final = 10_000
"""Sessions whose keys are remembered. A client of one that was forgotten gets no replay."""

CONNECTING: Final = 0.2
"""Seconds in which the SDK connects a client after its replay."""

TAILS: Final = 10_000
"""Streams whose ends are remembered. That of another is found by reading the stream."""


class EventStore(McpEventStore):
    """An event store of the MCP SDK on the streams of an ``Engine`` or an ``AsyncClient``.

    The SDK gives one event store to all sessions, and request ids repeat from session to session.
    So give the application to :meth:`wrap`, which tells the sessions apart::

        events = EventStore(engine)
        app = events.wrap(server.streamable_http_app(event_store=events))

    - ``root``: the path below which the streams are. No client needs access to it.
    - ``ttl``: seconds for which the messages of a request are kept after the last of them.
    - ``patience``: seconds for which a message waits while the store is away.

    Raises ``TypeError`` for streams of another kind.
    """

    def __init__(
        self, streams: Any, *, root: str = "mcp", ttl: int = 3600, patience: float = 10.0
    ) -> None:
        self._streams = streams_of(streams, "")
        self._root = check_path(root)
        self._ttl = ttl
        self._patience = patience
        self._keys: OrderedDict[bytes, str] = OrderedDict()
        self._tails: OrderedDict[str, _Tail] = OrderedDict()

    def wrap(self, app: Any) -> Any:
        """The ASGI application of the MCP server, with each session told from the others."""

        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            headers = dict(scope["headers"])
            session_id = headers.get(SESSION_HEADER)
            # A key that is not the session's id: the id is a secret of the client.
            key = self._key(session_id) if session_id else secrets.token_hex(16)

            async def sending(message: Any) -> None:
                if session_id is None and message["type"] == "http.response.start":
                    self._remember(dict(message.get("headers", ())).get(SESSION_HEADER), key)
                await send(message)

            with self.session(key):
                await app(scope, receive, sending)

        return wrapped

    @contextmanager
    def session(self, key: str) -> Iterator[None]:
        """Everything that is stored or replayed within the block belongs to this session.

        For servers that are not ASGI applications; :meth:`wrap` does it for each request.
        """
        token = _session.set(key)
        try:
            yield
        finally:
            _session.reset(token)

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        """Append a message to the stream of a request. Returns the id of the event.

        Raises ``TimeoutError`` if the store was away for longer than ``patience``.
        """
        path = self._path(_current_session(), stream_id)
        tail = self._tail(path)
        async with asyncio.timeout(self._patience), tail.lock:
            await self._find(path, tail)
            number = tail.number
            try:
                event = await self._append(path, tail, stream_id, message)
            except (NotFound, Gone):
                # The stream expired. Its numbers go on, because a client that has seen the first
                # event before has not seen the first one now.
                await self._find(path, tail)
                tail.number = max(tail.number, number)
                event = await self._append(path, tail, stream_id, message)
        if message is not None:
            await tail.until_connected()
        elif tail.is_connecting:
            tail.begin_connecting()
        return event.id(path)

    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        """Send the messages that came after an event, in order.

        Returns the id of their stream; None if this session has no such event, or none any more.
        """
        key = _current_session()
        position = _EVENT_ID.fullmatch(last_event_id)
        if position is None:
            return None
        path = f"{self._root}/{key}/{position[1]}"
        offset, seen = position[2], int(position[3])
        stream_id = None
        try:
            while True:
                async for event in self._events(path, offset):
                    if event.number < seen:
                        continue
                    stream_id, offset = event.stream, event.after
                    if event.number > seen and event.message != NO_MESSAGE:
                        message = jsonrpc_message_adapter.validate_json(
                            bytes(event.message), by_name=False
                        )
                        await send_callback(EventMessage(message, event.id(path)))
                    seen = event.number
                if stream_id is None or await self._is_all(path, seen):
                    return stream_id
        except (NotFound, Gone, InvalidRequest):
            return None

    async def _append(
        self, path: str, tail: "_Tail", stream_id: str, message: JSONRPCMessage | None
    ) -> "Event":
        event = Event(tail.number + 1, tail.offset, stream_id, _as_json(message))
        # Until the append has succeeded it is not known what the stream holds.
        tail.number = -1
        encoded = msgspec.json.encode(event)
        tail.offset = await persistently(lambda: self._streams.append(path, [encoded]))
        tail.number = event.number
        return event

    async def _is_all(self, path: str, seen: int) -> bool:
        """Whether that was the last event. If so, what is stored next waits for the client."""
        tail = self._tail(path)
        async with tail.lock:
            await self._find(path, tail)
            if tail.number > seen:
                return False
            tail.begin_connecting()
        return True

    def _key(self, session_id: bytes) -> str:
        return self._keys.get(session_id) or hashlib.sha256(session_id).hexdigest()[:32]

    def _remember(self, session_id: bytes | None, key: str) -> None:
        if session_id is not None:
            self._keys[session_id] = key
            if len(self._keys) > SESSIONS:
                self._keys.popitem(last=False)

    def _path(self, key: str, stream_id: str) -> str:
        """The stream for a request. Its id is the client's choice, so it is not in the path."""
        name = hashlib.sha256(f"{key} {stream_id}".encode()).hexdigest()[:32]
        return f"{self._root}/{key}/{name}"

    def _tail(self, path: str) -> "_Tail":
        tail = self._tails.get(path)
        if tail is None:
            tail = self._tails[path] = _Tail()
            if len(self._tails) > TAILS:
                forgotten = next(iter(self._tails))
                if not self._tails[forgotten].lock.locked():
                    del self._tails[forgotten]
        self._tails.move_to_end(path)
        return tail

    async def _find(self, path: str, tail: "_Tail") -> None:
        """Find the last event of a stream, which is created if it is not there."""
        if tail.number >= 0:
            return
        await persistently(lambda: self._read_tail(path, tail))

    async def _read_tail(self, path: str, tail: "_Tail") -> None:
        tail.offset, number = START, 0
        if not await self._streams.create(path, "application/json", ttl=self._ttl):
            async for event in self._events(path):
                # To read from before the last event is enough.
                number, tail.offset = event.number, event.after
        tail.number = number

    async def _events(self, path: str, offset: str = START) -> AsyncIterator["Event"]:
        async for batch in self._streams.read(path, offset):
            for event in _PAGE.decode(batch.data) if batch.data else ():
                yield event


class Event(msgspec.Struct, frozen=True, array_like=True):
    """One event as it is stored."""

    number: int
    """Of the events of its stream, from 1 on."""
    after: str
    """An offset of the stream before this event."""
    stream: str
    message: msgspec.Raw

    def id(self, path: str) -> str:
        """The id under which a client knows the event."""
        return f"{path.rpartition('/')[2]}.{self.after}.{self.number}"


class _Tail:
    """The end of a stream. ``number`` is that of its last event, or -1 if that is not known."""

    def __init__(self) -> None:
        self.number = -1
        self.offset = START
        self.lock = asyncio.Lock()
        self._connected = asyncio.Event()
        self._connected.set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_connecting(self) -> bool:
        """Whether the SDK is connecting a client that has got its replay to the request."""
        return not self._connected.is_set()

    def begin_connecting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._connected.clear()
        self._timer = asyncio.get_running_loop().call_later(CONNECTING, self._connected.set)

    async def until_connected(self) -> None:
        """Wait for a client that is being connected: the SDK drops what is sent before that."""
        await self._connected.wait()


_PAGE = msgspec.json.Decoder(list[Event])

_session: ContextVar[str] = ContextVar("session")


def _current_session() -> str:
    key = _session.get(None)
    if key is None:
        raise RuntimeError(
            "The event store does not know the session: serve events.wrap(app) instead of app."
        )
    return key


def _as_json(message: JSONRPCMessage | None) -> msgspec.Raw:
    if message is None:
        return NO_MESSAGE
    return msgspec.Raw(message.model_dump_json(by_alias=True, exclude_unset=True).encode())
