"""The workloads that servers are measured with.

Each prepares a stream, then loads it for a while.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from live import MESSAGE as LIVE_MESSAGE
from live import LiveReaders, Schedule, append_on_schedule
from load import Load, Loop, ask, closed_loops, request, wrk
from realistic import MESSAGE, create_streams, realistic_load, realistic_wrk
from servers import Server

TEXT = "Content-Type: text/plain\r\n"
BYTES = "Content-Type: application/octet-stream\r\n"
MIB = 1024 * 1024

names = itertools.count()


@dataclass
class Measure:
    """One round: the load, and what the server spent on it."""

    load: Load
    cpu: float = 0.0
    memory: int = 0
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Workload:
    name: str
    what: str
    run: Callable[[Server, float, bool], Awaitable[Measure]]
    live: bool = False


async def measured(server: Server, loading: Awaitable[Load]) -> Measure:
    before = server.cpu()
    load = await loading
    return Measure(load, server.cpu() - before, server.memory())


async def fresh(server: Server, headers: str = BYTES, body: bytes = b"") -> str:
    """A new stream's URL."""
    url = f"{server.url}/bench-{next(names)}"
    status, _, _ = await ask(url, "PUT", body, headers)
    if status != 201:
        raise RuntimeError(f"{server.name} answered a creation with {status}")
    return url


def realistic(
    operation: str, streams: int, body: bytes | None = None
) -> Callable[[Server, float, bool], Awaitable[Measure]]:
    """The realistic load over so many streams, which a server keeps between its rounds."""

    async def run(server: Server, seconds: float, use_wrk: bool) -> Measure:
        prefix = f"{server.url}/r"
        if server.streams < streams:
            await create_streams(prefix, streams)
            server.streams = streams
        producer = f"p{next(names)}"
        if use_wrk and body is None:
            before = server.cpu()
            load = await asyncio.to_thread(
                realistic_wrk, operation, prefix, streams, producer, seconds
            )
            if load is not None:
                return Measure(load, server.cpu() - before, server.memory())
        loading = realistic_load(operation, prefix, streams, producer, seconds, body or MESSAGE)
        return await measured(server, loading)

    return run


def append(
    size: int, connections: int, most: int | None = None, headers: str = TEXT
) -> Callable[[Server, float, bool], Awaitable[Measure]]:
    body = b"x" * size

    async def run(server: Server, seconds: float, use_wrk: bool) -> Measure:
        url = await fresh(server, headers)
        message = request(url, "POST", body, headers)
        if use_wrk and size < MIB:
            measure = await by_wrk(server, url, "POST", body, headers, connections, seconds)
            if measure is not None:
                return measure
        measure = await measured(
            server,
            closed_loops(
                url,
                lambda _: lambda _: message,
                connections=connections,
                seconds=seconds,
                most=most,
            ),
        )
        await ask(url, "DELETE")
        return measure

    return run


async def by_wrk(
    server: Server,
    url: str,
    method: str,
    body: bytes,
    headers: str,
    connections: int,
    seconds: float,
) -> Measure | None:
    before = server.cpu()
    given = dict(line.split(": ", 1) for line in headers.strip().split("\r\n") if line)
    load = await asyncio.to_thread(
        wrk, url, method, body, given, connections=connections, seconds=seconds
    )
    return None if load is None else Measure(load, server.cpu() - before, server.memory())


async def hot_read(server: Server, seconds: float, use_wrk: bool) -> Measure:
    url = await fresh(server, TEXT, b"x" * 100) + "?offset=-1"
    if use_wrk:
        measure = await by_wrk(server, url, "GET", b"", "", 64, seconds)
        if measure is not None:
            return measure
    message = request(url)
    return await measured(
        server, closed_loops(url, lambda _: lambda _: message, connections=64, seconds=seconds)
    )


async def replay(server: Server, seconds: float, use_wrk: bool) -> Measure:
    """A stream of 100 MB, read from its start to its tail."""
    url = await fresh(server)
    block = bytes(range(256)) * 4096
    for _ in range(100):
        await ask(url, "POST", block, BYTES)

    def following(_: int) -> Callable[[Loop], bytes | None]:
        begun = False

        def one(connection: Loop) -> bytes | None:
            nonlocal begun
            if begun and connection.up_to_date:
                return None
            offset = connection.next_offset.decode() if begun else "-1"
            begun = True
            # Bytes are counted, so none may be compressed away.
            message = request(f"{url}?offset={offset}")
            return message.replace(b"Accept-Encoding: gzip, deflate", b"Accept-Encoding: identity")

        return one

    measure = await measured(server, closed_loops(url, following, connections=1, seconds=60))
    # One replay is one request here.
    measure.extra["MB/s"] = measure.load.size / measure.load.seconds / 1e6
    measure.extra["CPU ms/MB"] = measure.cpu / measure.load.size * 1e9
    await ask(url, "DELETE")
    return measure


async def long_poll(server: Server, seconds: float, use_wrk: bool) -> Measure:
    """16 streams, each with one poller; from an append to the poller's answer."""
    urls = [await fresh(server, TEXT) for _ in range(16)]
    latencies: list[float] = []

    async def pair(url: str) -> Load:
        sent = 0.0
        gate = asyncio.Event()
        end = time.perf_counter() + seconds

        def polls(_: int) -> Callable[[Loop], bytes | None]:
            begun = False

            def one(connection: Loop) -> bytes | None:
                nonlocal begun
                if begun and sent:
                    latencies.append(time.perf_counter() - sent)
                if begun and time.perf_counter() >= end:
                    return None
                offset = connection.next_offset.decode() if begun else "-1"
                begun = True
                asyncio.get_running_loop().call_later(0.002, gate.set)
                return request(f"{url}?offset={offset}&live=long-poll")

            return one

        async def appends() -> None:
            nonlocal sent
            message = request(url, "POST", b"x" * 100, TEXT)
            reader, writer = await asyncio.open_connection(*_place(url))
            while not polling.done():
                await gate.wait()
                gate.clear()
                sent = time.perf_counter()
                writer.write(message)
                await reader.readuntil(b"\r\n\r\n")
            writer.close()

        polling = asyncio.ensure_future(closed_loops(url, polls, connections=1, seconds=600))
        appending = asyncio.ensure_future(appends())
        load = await polling
        appending.cancel()
        await asyncio.gather(appending, return_exceptions=True)
        return load

    async def all_pairs() -> Load:
        loads = await asyncio.gather(*(pair(url) for url in urls))
        total = Load(sum(load.ok for load in loads), sum(load.failed for load in loads))
        total.seconds = max(load.seconds for load in loads)
        total.latencies = latencies
        return total

    return await measured(server, all_pairs())


def _place(url: str) -> tuple[str, int]:
    host, _, port = url.split("/")[2].partition(":")
    return host, int(port)


def fan_out(
    readers: int, rate: float, *, streams: int = 1, connections: int = 1
) -> Callable[[Server, float, bool], Awaitable[Measure]]:
    """Readers of one stream, or of many with ``rate`` appends a second each.

    One request is one message at one reader, and takes from when the append was due.
    """

    async def run(server: Server, seconds: float, use_wrk: bool) -> Measure:
        before = server.memory()
        urls: list[str] = []
        while len(urls) < streams:
            urls += await asyncio.gather(
                *(fresh(server, TEXT) for _ in range(min(100, streams - len(urls))))
            )
        clients = LiveReaders()
        try:
            live = [f"{urls[n % streams]}?offset=-1&live=sse" for n in range(readers)]
            await asyncio.to_thread(clients.connect, live)
            await asyncio.sleep(1)
            memory = server.memory()
            messages = [request(url, "POST", LIVE_MESSAGE, TEXT) for url in urls]
            schedule = Schedule(rate * streams, streams, seconds)
            clients.expect(schedule)
            cpu, own = server.cpu(), time.process_time()
            appends = await asyncio.to_thread(
                append_on_schedule, clients, schedule, urls, messages, connections
            )
            if not rate:
                await asyncio.sleep(seconds)
            load = clients.load
            expected = appends.ok * readers // streams
            patience = time.perf_counter() + 30
            while load.ok < expected and time.perf_counter() < patience:
                await asyncio.sleep(0.01)
            elapsed = time.perf_counter() - schedule.begin
            load.seconds = max(clients.last - schedule.begin, 0.0)
            load.failed = expected - load.ok + appends.failed
            measure = Measure(load, server.cpu() - cpu, server.memory())
            measure.extra = {
                "appends/s": appends.ok / max(appends.seconds, seconds),
                "append p99 ms": appends.percentile(0.99),
                "server CPU %": measure.cpu / elapsed * 100,
                "load CPU %": (time.process_time() - own) / elapsed * 100,
                "KiB/reader": (memory - before) / readers / 1024,
                "server MiB": memory / MIB,
            }
        finally:
            await asyncio.to_thread(clients.close)
        await asyncio.sleep(0.2)
        return measure

    return run


async def producers(server: Server, seconds: float, use_wrk: bool) -> Measure:
    """64 idempotent producers on one stream."""
    url = await fresh(server, TEXT)

    def following(n: int) -> Callable[[Loop], bytes | None]:
        sequence = itertools.count()

        def one(_: Any) -> bytes:
            claim = f"Producer-Id: p{n}\r\nProducer-Epoch: 0\r\nProducer-Seq: {next(sequence)}\r\n"
            return request(url, "POST", b"x" * 100, TEXT + claim)

        return one

    measure = await measured(server, closed_loops(url, following, connections=64, seconds=seconds))
    await ask(url, "DELETE")
    return measure


BATCH = (
    b"[" + b",".join(b'{"n":%d,"text":"a message of some length"}' % n for n in range(100)) + b"]"
)

WORKLOADS = {
    workload.name: workload
    for workload in (
        *(
            Workload(
                f"{operation}-{streams}",
                f"realistic: {what}, {streams:,} streams, 32 connections",
                realistic(operation, streams),
            )
            for streams in (200, 20_000)
            for operation, what in (
                ("append", "appends of 21 B"),
                ("read", "reads of 21 B"),
                ("producers", "appends of 21 B, a producer on each stream"),
            )
        ),
        Workload(
            "json-batch",
            "realistic: appends of 100 JSON messages, 200 streams, 32 connections",
            realistic("append", 200, BATCH),
        ),
        Workload(
            "repeated-append",
            "best case: one request repeated, 100 B, 64 connections",
            append(100, 64),
        ),
        Workload(
            "repeated-read", "best case: one read of 100 B repeated, 64 connections", hot_read
        ),
        Workload("append-1k", "one append of 1 KiB repeated, 64 connections", append(1024, 64)),
        Workload(
            "append-1m", "appends of 1 MiB, 4 connections", append(MIB, 4, most=300, headers=BYTES)
        ),
        Workload("replay", "replay of 100 MB, 1 connection", replay),
        Workload("long-poll", "append to poller's answer, 16 streams", long_poll),
        Workload("producers-one-stream", "appends of 100 B by 64 producers", producers),
        Workload("sse-1", "1 SSE reader, 100 appends/s", fan_out(1, 100), live=True),
        Workload("sse-100", "100 SSE readers, 100 appends/s", fan_out(100, 100), live=True),
        Workload("sse-1000", "1,000 SSE readers, 100 appends/s", fan_out(1000, 100), live=True),
        Workload("sse-10000", "10,000 SSE readers, 2 appends/s", fan_out(10_000, 2), live=True),
        Workload(
            "sse-streams",
            "10,000 SSE readers of 10,000 streams, each 1 append in 5 s",
            fan_out(10_000, 0.2, streams=10_000, connections=8),
            live=True,
        ),
        Workload("sse-idle", "10,000 idle SSE readers", fan_out(10_000, 0), live=True),
    )
}
