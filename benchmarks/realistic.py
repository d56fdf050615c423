"""The realistic load: many streams, and requests with a trace id and a request id of their own.

realistic.lua has wrk make the same requests.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from load import Load, closed_loops, run_wrk

SCRIPT = Path(__file__).with_suffix(".lua")
CONNECTIONS = 32
MESSAGE = b'{"t":"tok","n":12345}'


def realistic_request(url: str, method: str, n: int, body: bytes = b"", headers: str = "") -> bytes:
    """The n-th request: eight headers of a client and a proxy, and those of the operation."""
    place = urlsplit(url)
    target = place.path + (f"?{place.query}" if place.query else "")
    framing = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    return (
        f"{method} {target} HTTP/1.1\r\nHost: {place.netloc}\r\n"
        "User-Agent: python-httpx/0.28.1\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
        "Authorization: Bearer abcdefghijklmnopqrstuvwxyz\r\nX-Forwarded-For: 10.1.2.3\r\n"
        f"traceparent: 00-{n * 7919:032x}-{n:016x}-01\r\n"
        f"X-Request-Id: {n * 31:08x}-{n % 65536:04x}\r\n"
        f"{headers}{framing}\r\n"
    ).encode() + body


def claim(producer: str, seq: int) -> str:
    """The headers of a producer's batch."""
    return f"Producer-Id: {producer}\r\nProducer-Epoch: 0\r\nProducer-Seq: {seq}\r\n"


def stream_request(
    operation: str, stream: str, n: int, seq: int, producer: str, body: bytes = MESSAGE
) -> bytes:
    """The n-th request of a workload; ``seq`` counts the requests to its stream."""
    if operation == "read":
        return realistic_request(stream + "?offset=-1", "GET", n)
    headers = claim(producer, seq) if operation == "producers" else ""
    return realistic_request(stream, "POST", n, body, headers)


async def create_streams(prefix: str, streams: int) -> None:
    """Create the streams, each with one small JSON message."""
    numbers = iter(range(streams))

    def following(_: object) -> bytes | None:
        n = next(numbers, None)
        return None if n is None else realistic_request(f"{prefix}{n}", "PUT", n, MESSAGE)

    load = await closed_loops(
        prefix, lambda _: following, connections=min(CONNECTIONS, streams), seconds=120
    )
    if load.ok != streams:
        raise RuntimeError(f"{load.ok} of {streams} streams could be created")


async def realistic_load(
    operation: str, prefix: str, streams: int, producer: str, seconds: float, body: bytes = MESSAGE
) -> Load:
    """Closed loops over the streams; each stream belongs to one connection."""
    numbers = itertools.count()

    def walk(connection: int) -> Callable[[object], bytes | None]:
        own = range(connection, streams, CONNECTIONS)
        steps = ((seq, stream) for seq in itertools.count() for stream in own)

        def following(_: object) -> bytes | None:
            seq, stream = next(steps)
            n = next(numbers)
            return stream_request(operation, f"{prefix}{stream}", n, seq, producer, body)

        return following

    return await closed_loops(prefix, walk, connections=CONNECTIONS, seconds=seconds)


def realistic_wrk(
    operation: str, prefix: str, streams: int, producer: str, seconds: float
) -> Load | None:
    """The same by wrk, or None where there is none."""
    path = urlsplit(prefix).path
    return run_wrk(
        SCRIPT, prefix, operation, path, str(streams), producer,
        connections=CONNECTIONS, seconds=seconds,
    )  # fmt: skip
