"""A server of the protocol that misbehaves when told to.

It keeps streams in memory, exactly and simply, and asks ``faults`` about every request: None
serves it as it should be. It runs in a thread of its own, so that async and sync tests use it
alike, and can be stopped and started again at the same address with its streams intact.
"""

import asyncio
import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Asked:
    """A request as it came."""

    method: str
    path: str
    params: dict[str, str]
    query: str
    headers: dict[str, str]
    body: bytes
    count: int
    """How many requests of this method came before it."""
    peer: tuple[str, int] = ("", 0)
    """The address of the connection's other end."""

    @property
    def live(self) -> str:
        return self.params.get("live", "")


async def close_listening(server: asyncio.Server) -> None:
    """Close a server, but not before what it accepted in this turn of the loop.

    asyncio would leave such a connection open, and whatever test runs when it is collected would
    be blamed.
    """
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    await asyncio.sleep(0)
    server.close()


@dataclass
class Fault:
    """What goes wrong with one answer."""

    apply: bool = True
    """Whether the request is carried out."""
    status: int | None = None
    """Answer with this instead."""
    headers: dict[str, str] = field(default_factory=dict)
    drop: list[str] = field(default_factory=list)
    """Headers to leave out."""
    body: bytes | None = None
    cut: int | None = None
    """Close after so many bytes of the answer."""
    twice: bool = False
    """Carry the request out twice, as a proxy does that repeats it, and give the second answer."""
    stall: bool = False
    """Never answer."""
    pieces: int | None = None
    """Send so many bytes at a time."""
    pause: float = 0.0
    """Seconds between the pieces."""
    hold: threading.Event | None = None
    """Answer once this is set."""


LOST = Fault(cut=0)
IGNORED = Fault(apply=False, cut=0)


def refuse(status: int, **headers: str) -> Fault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(apply=False, status=status, headers=named)


@dataclass
class Held:
    content_type: str
    messages: list[bytes] = field(default_factory=list)
    closed: bool = False
    closer: tuple[str, int, int] | None = None
    producers: dict[str, tuple[int, int]] = field(default_factory=dict)
    seq: str = ""
    ttl: str | None = None
    expires: str | None = None
    born: int = 0

    @property
    def is_json(self) -> bool:
        return self.content_type.startswith("application/json")

    @property
    def tail(self) -> int:
        return len(self.messages) if self.is_json else sum(map(len, self.messages))

    def slice(self, start: int, limit: int) -> tuple[bytes, int]:
        if self.is_json:
            part = self.messages[start : start + limit]
            return b"[" + b",".join(part) + b"]", start + len(part)
        data = b"".join(self.messages)[start : start + limit]
        return data, start + len(data)


def token(position: int) -> str:
    return f"{position:08d}"


class Hostile:
    """Use as a context manager. ``page`` is how much one answer holds: bytes, or JSON messages."""

    def __init__(self, *, page: int = 1 << 20, poll: float = 0.2) -> None:
        self.page = page
        self.poll = poll
        self.rotate: float | None = None
        self.streams: dict[str, Held] = {}
        self.asked: list[Asked] = []
        self.faults: Callable[[Asked], Fault | None] = lambda asked: None
        self.live = 0
        """Live answers that are open now."""
        self.connections = 0
        self.extended = False
        """Whether it has the extensions of our server: If-Match, and a listing."""
        self._born = 0
        self._counts: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- its life ----------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        # It holds the port while the server is stopped, or another test's server may get it.
        self._holder = socket.socket()
        self._holder.bind(("127.0.0.1", 0))
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.port: int = self._holder.getsockname()[1]
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._holder.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        self._run(self._start())

    def stop(self) -> None:
        self._run(self._stop())

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(
            self._accepted, "127.0.0.1", self.port, limit=1 << 26
        )

    async def _stop(self) -> None:
        if self._server is not None:
            await close_listening(self._server)
            self._server = None
        # Connections that are only being accepted are waited for: what is left open in a loop that
        # has ended is reported in whatever test runs when it is collected.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(others)
        await asyncio.sleep(0)  # the loop closes their sockets in its next round

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait, for a minute at most, until something is so in the server."""

        async def wait() -> None:
            async with asyncio.timeout(60):
                while not condition():
                    await asyncio.sleep(0.001)

        self._run(wait())

    def put(
        self, path: str, *messages: bytes, content_type: str = "application/octet-stream"
    ) -> Held:
        """Make a stream without asking over HTTP."""
        self.streams["/" + path] = held = Held(content_type, list(messages))
        return held

    def write(self, path: str, *messages: bytes, close: bool = False) -> None:
        """Append from outside, and wake who waits."""

        def change() -> None:
            held = self.streams["/" + path]
            held.messages.extend(messages)
            held.closed = held.closed or close
            self._wake()

        self._loop.call_soon_threadsafe(change)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # -- HTTP --------------------------------------------------------------------------------------

    def _accepted(self, reader: Any, writer: Any) -> None:
        transport = writer.transport

        def end(task: asyncio.Task[None]) -> None:
            """Close the connection, also if the task was cancelled before it began."""
            transport.abort() if transport.get_write_buffer_size() else transport.close()

        task = self._loop.create_task(self._connected(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(end)

    async def _connected(self, reader: Any, writer: Any) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.connections -= 1

    async def _one(self, reader: Any, writer: Any) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:-2])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        parts = urlsplit(target)
        count = self._counts.get(method, 0)
        self._counts[method] = count + 1
        asked = Asked(
            *(method, parts.path, dict(parse_qsl(parts.query)), parts.query, headers, body, count),
            peer=writer.get_extra_info("peername"),
        )
        self.asked.append(asked)
        fault = self.faults(asked) or Fault()
        if fault.hold is not None:
            await asyncio.get_running_loop().run_in_executor(None, fault.hold.wait, 10)
        if fault.stall:
            await asyncio.Event().wait()
        out = Wire(writer, fault, reader)
        if fault.apply:
            if fault.twice:
                await self._serve(asked, out)
            status, answer, content = await self._serve(asked, out)
            if status == 0:
                return False  # a live answer has ended
        else:
            status, answer, content = 503, {}, b""
        if fault.status is not None:
            status, answer, content = fault.status, fault.headers, fault.body or b"told to"
        for name in fault.drop:
            answer.pop(name, None)
        answer = {**answer, **fault.headers}
        if fault.body is not None:
            content = fault.body
        if method == "HEAD":
            out.head(status, answer, None)
        else:
            out.head(status, answer, len(content))
            out.write(content)
        await out.flush()
        return not out.over

    async def _serve(self, asked: Asked, out: "Wire") -> tuple[int, dict[str, str], bytes]:
        if asked.path == "/__ds/streams" and self.extended:
            return self._list(asked)
        held = self.streams.get(asked.path)
        if held is not None and self.extended and asked.method == "HEAD":
            wanted = asked.headers.get("if-match")
            if wanted is not None and wanted != f'"{token(held.tail)}"':
                return 412, self._facts(held), b""
        if asked.method == "PUT":
            return self._create(asked, held)
        if held is None:
            return 404, {}, b"no such stream"
        if asked.method == "DELETE":
            del self.streams[asked.path]
            self._wake()
            return 204, {}, b""
        if asked.method == "POST":
            answer = self._append(asked, held)
            self._wake()
            return answer
        if asked.method == "HEAD":
            answer = self._facts(held)
            answer["Content-Type"] = held.content_type
            if held.ttl:
                answer["Stream-TTL"] = held.ttl
            if held.expires:
                answer["Stream-Expires-At"] = held.expires
            return 200, answer, b""
        return await self._read(asked, held, out)

    def _list(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        prefix, after = asked.params.get("prefix", ""), asked.params.get("after", "")
        names = sorted(path[1:] for path in self.streams)
        found = [name for name in names if name.startswith(prefix) and name > after]
        page = found[: self.page]
        streams = [
            {
                "path": name,
                "contentType": self.streams[f"/{name}"].content_type,
                "offset": token(self.streams[f"/{name}"].tail),
                "closed": self.streams[f"/{name}"].closed,
                "size": 1,
                "createdAt": "2026-01-01T00:00:00Z",
            }
            for name in page
        ]
        more = page[-1] if len(found) > len(page) else None
        body = json.dumps({"streams": streams, "next": more}).encode()
        return 200, {"Content-Type": "application/json"}, body

    @staticmethod
    def _facts(held: Held) -> dict[str, str]:
        facts = {"Stream-Next-Offset": token(held.tail)}
        if held.closed:
            facts["Stream-Closed"] = "true"
        return facts

    def _create(self, asked: Asked, held: Held | None) -> tuple[int, dict[str, str], bytes]:
        content_type = asked.headers.get("content-type", "application/octet-stream")
        closed = asked.headers.get("stream-closed") == "true"
        source = asked.headers.get("stream-forked-from")
        if held is not None:
            same = held.content_type == content_type and held.closed == closed
            answer = {**self._facts(held), "Content-Type": held.content_type}
            return (200, answer, b"") if same or source else (409, {}, b"another configuration")
        self._born += 1
        if source is not None:
            origin = self.streams.get(source)
            if origin is None:
                return 404, {}, b"no source"
            at = int(asked.headers.get("stream-fork-offset", origin.tail))
            at += int(asked.headers.get("stream-fork-sub-offset", 0))
            made = Held(origin.content_type, origin.messages[:at], born=self._born)
        else:
            made = Held(content_type, closed=closed, born=self._born)
            self._store(made, asked.body)
        made.ttl = asked.headers.get("stream-ttl")
        made.expires = asked.headers.get("stream-expires-at")
        self.streams[asked.path] = made
        return 201, {**self._facts(made), "Content-Type": made.content_type}, b""

    @staticmethod
    def _store(held: Held, body: bytes) -> None:
        if not body:
            return
        if held.is_json:
            value = json.loads(body)
            values = value if isinstance(value, list) else [value]
            held.messages += [json.dumps(v, separators=(",", ":")).encode() for v in values]
        else:
            held.messages.append(body)

    def _append(self, asked: Asked, held: Held) -> tuple[int, dict[str, str], bytes]:
        close = asked.headers.get("stream-closed") == "true"
        name = asked.headers.get("producer-id")
        who = None
        if name is not None:
            who = name, int(asked.headers["producer-epoch"]), int(asked.headers["producer-seq"])
        if held.closed:
            if (who == held.closer and who is not None) or (close and not asked.body):
                return 204, self._facts(held), b""
            return 409, self._facts(held), b"closed"
        if not asked.body and not close:
            return 400, {}, b"empty"
        if asked.body and asked.headers.get("content-type") != held.content_type:
            return 409, {}, b"content type"
        echo: dict[str, str] = {}
        if who is not None:
            epoch, seq = held.producers.get(who[0], (-1, -1))
            if who[1] < epoch:
                return 403, {"Producer-Epoch": str(epoch)}, b"fenced"
            if who[1] > epoch:
                if who[2] != 0:
                    status = 409 if epoch < 0 else 400
                    gap = {"Producer-Expected-Seq": "0", "Producer-Received-Seq": str(who[2])}
                    return status, gap if epoch < 0 else {}, b"an epoch begins with 0"
                seq = -1
            echo = {"Producer-Epoch": str(who[1]), "Producer-Seq": str(max(seq, who[2]))}
            if who[2] <= seq:
                return 204, {**self._facts(held), **echo}, b""
            if who[2] > seq + 1:
                gap = {
                    "Producer-Expected-Seq": str(seq + 1),
                    "Producer-Received-Seq": str(who[2]),
                }
                return 409, gap, b"gap"
        wanted = asked.headers.get("if-match")
        if self.extended and wanted is not None and wanted != f'"{token(held.tail)}"':
            return 412, self._facts(held), b"the tail has moved"
        order = asked.headers.get("stream-seq")
        if order is not None:
            if order <= held.seq:
                return 409, {}, b"sequence"
            held.seq = order
        if who is not None:
            held.producers[who[0]] = who[1], who[2]
        self._store(held, asked.body)
        if close:
            held.closed = True
            held.closer = who
        return 200 if who else 204, {**self._facts(held), **echo}, b""

    # -- reading -----------------------------------------------------------------------------------

    async def _read(
        self, asked: Asked, held: Held, out: "Wire"
    ) -> tuple[int, dict[str, str], bytes]:
        asked_for = asked.params.get("offset", "-1")
        if asked_for == "now":
            start = held.tail
        elif asked_for == "-1":
            start = 0
        elif len(asked_for) == 8 and asked_for.isdigit():
            start = int(asked_for)
        else:
            return 400, {}, b"offset"
        if asked.live == "sse":
            await self._events(asked, held, start, out)
            return 0, {}, b""
        if asked.live == "long-poll":
            try:
                async with asyncio.timeout(self.poll):
                    while held.tail <= start and not held.closed:
                        await self._changed.wait()
            except TimeoutError:
                pass
        data, end = held.slice(start, self.page)
        answer = {
            "Content-Type": held.content_type,
            "Stream-Next-Offset": token(end),
            "Stream-Cursor": str(int(asked.params.get("cursor", 0)) + 1),
        }
        if end == held.tail:
            answer["Stream-Up-To-Date"] = "true"
            if held.closed:
                answer["Stream-Closed"] = "true"
        if asked.live and end == start:
            del answer["Content-Type"]
            return 204, answer, b""
        etag = f'"{held.born}:{start}:{end}:{held.closed}"'
        if asked_for != "now" and not asked.live:
            answer["ETag"] = etag
            if asked.headers.get("if-none-match") == etag:
                return 304, {"ETag": etag}, b""
        return 200, answer, data

    async def _events(self, asked: Asked, held: Held, start: int, out: "Wire") -> None:
        textual = held.is_json or held.content_type.startswith("text/")
        headers = {"Content-Type": "text/event-stream"}
        if not textual:
            headers["Stream-SSE-Data-Encoding"] = "base64"
        out.head(200, headers, None)
        cursor = int(asked.params.get("cursor", 0))
        self.live += 1
        try:
            async with asyncio.timeout(self.rotate):
                first = True
                while not out.over:
                    changed = self._changed
                    if held.tail > start or held.closed or first:
                        start = self._event(held, start, cursor, out)
                        first = False
                        await out.flush()
                        if held.closed and start == held.tail:
                            return
                        continue
                    waiting = asyncio.ensure_future(changed.wait())
                    gone = asyncio.ensure_future(out.gone())
                    try:
                        await asyncio.wait([waiting, gone], return_when=asyncio.FIRST_COMPLETED)
                        if gone.done():
                            return
                    finally:
                        waiting.cancel()
                        gone.cancel()
        except TimeoutError:
            pass
        finally:
            self.live -= 1

    def _event(self, held: Held, start: int, cursor: int, out: "Wire") -> int:
        data, end = held.slice(start, self.page)
        if end > start:
            if held.is_json:
                text = data.decode().replace(",{", ",\n{")
            elif held.content_type.startswith("text/"):
                text = data.decode()
            else:
                text = base64.b64encode(data).decode()
            lines = "".join(f"data: {line}\n" for line in text.split("\n"))
            out.write(f"event: data\n{lines}\n".encode())
        control: dict[str, Any] = {"streamNextOffset": token(end)}
        if end == held.tail:
            control["upToDate"] = True
        if end == held.tail and held.closed:
            control["streamClosed"] = True
        else:
            control["streamCursor"] = str(cursor + 1)
        out.write(f"event: control\ndata: {json.dumps(control)}\n\n".encode())
        return end


class Wire:
    """One answer on its way out, through its fault. A body of unknown length goes in chunks."""

    def __init__(self, writer: Any, fault: Fault, reader: Any) -> None:
        self._writer = writer
        self._reader = reader
        self._fault = fault
        self._left = fault.cut
        self._chunked = False
        self._buffer = b""
        self.over = fault.cut == 0
        self.sent = 0

    def head(self, status: int, headers: dict[str, str], length: int | None) -> None:
        lines = [f"HTTP/1.1 {status} X"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if status in {304, 204}:
            lines.append("X-Nothing: 1")
        elif length is not None:
            lines.append(f"Content-Length: {length}")
        elif "text/event-stream" in headers.get("Content-Type", ""):
            lines.append("Transfer-Encoding: chunked")
            self._chunked = True
        else:
            lines.append("Content-Length: 0")
        self._buffer += ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def gone(self) -> None:
        """Wait for the client to close."""
        with contextlib.suppress(ConnectionError):
            await self._reader.read(1)

    def write(self, data: bytes) -> None:
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._buffer += data

    async def flush(self) -> None:
        data, self._buffer = self._buffer, b""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
            self.over = self._left == 0
        self.sent += len(data)
        step = self._fault.pieces or len(data) or 1
        for at in range(0, len(data), step):
            self._writer.write(data[at : at + step])
            await self._writer.drain()
            if self._fault.pieces:
                await asyncio.sleep(self._fault.pause)
