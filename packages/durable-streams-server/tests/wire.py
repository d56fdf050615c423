"""HTTP/1.1 over bare sockets, so that tests see exactly what goes over the wire."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec

from durable_streams_core.sse import SseDecoder, SseEvent
from durable_streams_server.frontends.mount import Mount

Fields = Mapping[str, str] | Iterable[tuple[str, str]]


class Answer:
    """A response: status, header fields as they came, body without its framing."""

    def __init__(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.fields = fields
        self.body = body

    def get(self, name: str) -> str | None:
        """A header's value; fails for one that came twice."""
        found = [value for key, value in self.fields if key == name.lower()]
        assert len(found) < 2, (name, found)
        return found[0] if found else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name.lower()]

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        assert value is not None, f"no {name} in {self.fields}"
        return value

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """The problem's code; fails for anything but a problem."""
        assert self["content-type"] == "application/problem+json", self
        problem = self.json
        assert problem["status"] == self.status
        assert problem["detail"]
        code: str = problem["code"]
        return code

    def __repr__(self) -> str:
        return f"<{self.status} {self.fields} {self.body[:200]!r}>"


class Connection:
    """One socket to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.pieces: list[bytes] = []
        """A chunked body, chunk by chunk."""

    @classmethod
    async def to(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**26))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        """The next response's status and fields, those of interim responses skipped."""
        while True:
            raw = await self.reader.readuntil(b"\r\n\r\n")
            status_line, *lines = raw[:-4].decode("latin-1").split("\r\n")
            status = int(status_line.split(" ", 2)[1])
            fields = [(n.lower(), v.strip()) for n, _, v in (x.partition(":") for x in lines)]
            if status >= 200:
                return status, fields

    async def answer(self, method: str = "GET") -> Answer:
        status, fields = await self.head()
        known = dict(fields)
        if method == "HEAD" or status in (204, 304):
            return Answer(status, fields, b"")
        if "content-length" in known:
            return Answer(
                status, fields, await self.reader.readexactly(int(known["content-length"]))
            )
        if known.get("transfer-encoding") == "chunked":
            body = b"".join([piece async for piece in self.chunks()])
            return Answer(status, fields, body)
        return Answer(status, fields, await self.reader.read())

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks of a body, as they come."""
        while True:
            size = int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)
            piece = await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
            if not size:
                return
            yield piece

    async def request(
        self, method: str, target: str, fields: Fields = (), body: bytes | None = None
    ) -> Answer:
        await self.send(request_bytes(method, target, fields, body))
        return await self.answer(method)

    def abort(self) -> None:
        """Vanish without closing."""
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def request_bytes(
    method: str, target: str, fields: Fields = (), body: bytes | None = None
) -> bytes:
    """A request as it goes over the wire; a body gets its length unless it is framed already."""
    pairs = list(fields.items() if isinstance(fields, Mapping) else fields)
    names = {name.lower() for name, _ in pairs}
    if "host" not in names:
        pairs.insert(0, ("Host", "test.example"))
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        pairs.append(("Content-Length", str(len(body))))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs), "", ""]
    return "\r\n".join(lines).encode() + (body or b"")


def chunked(*pieces: bytes) -> bytes:
    """A chunked body, whole."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


class Events:
    """An SSE response being read."""

    def __init__(self, connection: Connection, fields: list[tuple[str, str]]) -> None:
        self.connection = connection
        self.head = Answer(200, fields, b"")
        self.raw = b""
        self._decoder = SseDecoder()
        self._chunks = connection.chunks()
        self._ready: list[SseEvent] = []

    async def next(self) -> SseEvent | None:
        """The next event, None at the end of the response."""
        while not self._ready:
            try:
                chunk = await anext(self._chunks)
            except StopAsyncIteration:
                return None
            self.raw += chunk
            self._ready = self._decoder.feed(chunk)
        return self._ready.pop(0)

    async def batch(self) -> tuple[str | None, dict[str, Any]]:
        """Data, if any, and the control event that belongs to it."""
        event = await self.next()
        assert event is not None
        data = None
        if event.event == "data":
            data = event.data
            event = await self.next()
            assert event is not None
        assert event.event == "control"
        return data, msgspec.json.decode(event.data)

    async def rest(self) -> list[tuple[str | None, dict[str, Any]]]:
        """Everything until the response ends."""
        found: list[tuple[str | None, dict[str, Any]]] = []
        while (event := await self.next()) is not None:
            self._ready.insert(0, event)
            found.append(await self.batch())
        return found

    async def comment(self) -> None:
        """Return when a comment came before any further event."""
        assert not self._ready
        chunk = await anext(self._chunks)
        assert chunk == b":\n\n", chunk


class Client:
    """Talks to one server; every request goes over a connection of its own."""

    def __init__(self, port: int, root: str, mount: Mount) -> None:
        self.port = port
        self.root = root
        self.mount = mount
        self.engine = mount.engine
        self._connections: list[Connection] = []

    async def connect(self) -> Connection:
        connection = await Connection.to(self.port)
        self._connections.append(connection)
        return connection

    async def raw(self, request: bytes, method: str = "GET") -> Answer:
        async with await self.connect() as connection:
            await connection.send(request)
            return await connection.answer(method)

    async def request(
        self, method: str, path: str, fields: Fields = (), body: bytes | None = None
    ) -> Answer:
        """``path`` is below the stream root, its query included."""
        return await self.raw(request_bytes(method, self.root + path, fields, body), method)

    async def put(
        self, path: str, content_type: str = "text/plain", body: bytes | None = None, **fields: str
    ) -> Answer:
        return await self.request("PUT", path, named(fields, content_type), body)

    async def post(
        self, path: str, body: bytes | None, content_type: str = "text/plain", **fields: str
    ) -> Answer:
        return await self.request("POST", path, named(fields, content_type), body or b"")

    async def get(self, path: str, **fields: str) -> Answer:
        return await self.request("GET", path, named(fields))

    async def head(self, path: str, **fields: str) -> Answer:
        return await self.request("HEAD", path, named(fields))

    async def delete(self, path: str, **fields: str) -> Answer:
        return await self.request("DELETE", path, named(fields))

    async def waiting(
        self, path: str, readers: int = 1
    ) -> tuple[Connection, "asyncio.Task[Answer]"]:
        """A long-poll that the server has, together with those there were before, put to wait."""
        connection = await self.connect()
        await connection.send(request_bytes("GET", self.root + path))
        await self.listening(path.partition("?")[0], readers)
        return connection, asyncio.create_task(connection.answer())

    async def listening(self, path: str, readers: int = 1) -> None:
        """Return once the engine has so many live readers of a stream."""
        while self.engine.fanout.subscribers(path) < readers:
            await asyncio.sleep(0.001)

    async def quiet(self) -> None:
        """Return once the engine has no live readers left."""
        while len(self.engine.fanout):
            await asyncio.sleep(0.001)

    async def sse(self, path: str, **fields: str) -> Events:
        connection = await self.connect()
        await connection.send(request_bytes("GET", self.root + path, named(fields)))
        status, found = await connection.head()
        assert status == 200, (status, found)
        return Events(connection, found)

    async def close(self) -> None:
        for connection in self._connections:
            connection.abort()


def named(fields: Mapping[str, str], content_type: str | None = None) -> dict[str, str]:
    """Keyword arguments as header fields: ``stream_ttl`` is Stream-TTL."""
    found = {name.replace("_", "-"): value for name, value in fields.items()}
    if content_type:
        found["content-type"] = content_type
    return found
