"""A load generator on httptools: closed loops of prepared requests.

It knows as much HTTP as it takes to count answers by status and to measure how long each took, so
that one core of it is enough to keep any server here busy. `wrk`, where present, checks it.
"""

import asyncio
import itertools
import re
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httptools

# Headers that a browser or an HTTP library sends: with Host, eight on every request.
ORDINARY = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    "Accept: */*\r\n"
    "Accept-Language: en-GB,en;q=0.7\r\n"
    "Accept-Encoding: gzip, deflate\r\n"
    "Cache-Control: no-cache\r\n"
    "Pragma: no-cache\r\n"
    "Connection: keep-alive\r\n"
)


def request(url: str, method: str = "GET", body: bytes = b"", headers: str = "") -> bytes:
    """A request with eight ordinary headers, and those that the operation needs."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    length = f"Content-Length: {len(body)}\r\n" if method in ("POST", "PUT") else ""
    head = f"{method} {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n{ORDINARY}{headers}{length}\r\n"
    return head.encode() + body


def allow_many_sockets() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@dataclass
class Load:
    """The result of a load: responses with 2xx, others, bytes of bodies, seconds, latencies."""

    ok: int = 0
    failed: int = 0
    size: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Milliseconds."""
        if not self.latencies:
            return 0.0
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000


class Loop(asyncio.Protocol):
    """One connection that sends its next request when it has its answer."""

    def __init__(self, load: Load, following: Callable[["Loop"], bytes | None]) -> None:
        self.load = load
        self.following = following
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.parser = httptools.HttpResponseParser(self)
        self.next_offset = b""
        self.up_to_date = False
        self.status = 0
        self.body: list[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.go_on()

    def go_on(self) -> None:
        message = self.following(self)
        if message is None:
            if not self.done.done():
                self.done.set_result(None)
            self.transport.close()
            return
        self.up_to_date = False
        self.sent = time.perf_counter()
        self.transport.write(message)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 18 and name.lower() == b"stream-next-offset":
            self.next_offset = value
        elif len(name) == 17 and name.lower() == b"stream-up-to-date":
            self.up_to_date = True

    def on_body(self, data: bytes) -> None:
        self.load.size += len(data)
        if self.body is not None:
            self.body.append(data)

    def on_message_complete(self) -> None:
        status = self.status = self.parser.get_status_code()
        load = self.load
        if 200 <= status < 300:
            load.ok += 1
            load.latencies.append(time.perf_counter() - self.sent)
        else:
            load.failed += 1
        self.go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.load.failed += 1
            self.done.set_result(None)


async def closed_loops(
    url: str,
    following: Callable[[int], Callable[[Loop], bytes | None]],
    *,
    connections: int,
    seconds: float,
    most: int | None = None,
) -> Load:
    """Run loops until the time is up or ``most`` requests are sent.

    ``following(n)`` is the n-th connection's source of requests.
    """
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    load = Load()
    begin = time.perf_counter()
    end = begin + seconds
    sent = itertools.count()

    def bounded(source: Callable[[Loop], bytes | None]) -> Callable[[Loop], bytes | None]:
        def following_of(connection: Loop) -> bytes | None:
            if time.perf_counter() >= end or (most is not None and next(sent) >= most):
                return None
            return source(connection)

        return following_of

    made = [
        await loop.create_connection(
            lambda n=n: Loop(load, bounded(following(n))),  # type: ignore[misc]
            parts.hostname or "",
            parts.port or 80,
        )
        for n in range(connections)
    ]
    await asyncio.gather(*(protocol.done for _, protocol in made))
    load.seconds = time.perf_counter() - begin
    return load


async def ask(
    url: str, method: str = "GET", body: bytes = b"", headers: str = ""
) -> tuple[int, bytes, bytes]:
    """One request: status, Stream-Next-Offset and body."""
    parts = urlsplit(url)
    load = Load()
    message = iter((request(url, method, body, headers),))
    _, protocol = await asyncio.get_running_loop().create_connection(
        lambda: Loop(load, lambda _: next(message, None)), parts.hostname or "", parts.port or 80
    )
    protocol.body = []
    await protocol.done
    return protocol.status, protocol.next_offset, b"".join(protocol.body)


def wrk(
    url: str, method: str, body: bytes, headers: dict[str, str], *, connections: int, seconds: float
) -> Load | None:
    """Closed loops of one request by wrk, or None where there is none."""
    given = dict(line.split(": ", 1) for line in ORDINARY.strip().split("\r\n")) | headers
    lines = [f"wrk.method = {method!r}"]
    lines += [f"wrk.headers[{name!r}] = {value!r}" for name, value in given.items()]
    if body:
        lines.append(f"wrk.body = {body.decode()!r}")
    with tempfile.NamedTemporaryFile("w", suffix=".lua", delete=False) as script:
        script.write("\n".join(lines))
    try:
        return run_wrk(Path(script.name), url, connections=connections, seconds=seconds)
    finally:
        Path(script.name).unlink()


def run_wrk(
    script: Path, url: str, *arguments: str, connections: int, seconds: float
) -> Load | None:
    """The closed loops of a script by wrk, or None where there is none."""
    program = shutil.which("wrk")
    if program is None:
        return None
    said = subprocess.run(
        [
            *(program, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"),
            *("--latency", "-s", str(script), url, "--", *arguments),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    total = re.search(r"(\d+) requests in ([\d.]+)(s|m)", said)
    assert total is not None, said
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    failed = int(bad[1]) if bad else 0
    load = Load(int(total[1]) - failed, failed, 0, float(total[2]))
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
    for share in ("50", "99"):
        found = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", said)
        assert found is not None, said
        # Two latencies with the right percentiles stand for all.
        load.latencies += [float(found[1]) * units[found[2]]] * (98 if share == "50" else 2)
    return load
