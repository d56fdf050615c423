"""Runs producers and consumers through a network that damages connections, forks included.

    python packages/durable-streams-client/tests/storm.py --minutes 30 [--seed 1]

A proxy stands before our server. It cuts connections, truncates answers, delays, sends requests a
second time, and lets later requests overtake earlier ones. Each round writes one stream with
producers and plain appends, from threads, tasks on both event loops and forked processes, while
readers of every kind follow it. Afterwards every acknowledged message must be there once, in its
writer's order, and every reader must have read exactly what is there. Prints counts as JSON; the
exit status says whether anything was lost, doubled, reordered or ended silently. Linux and macOS.
"""

import argparse
import asyncio
import json
import multiprocessing as mp
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvloop

from durable_streams_client import (
    AsyncClient,
    Client,
    NotUsableHere,
    ProducerLimits,
    RetryPolicy,
    Timeouts,
)

JSON = "application/json"
PATIENT = RetryPolicy(initial=0.01, maximum=0.2, attempts=10_000, read_attempts=10_000)
LIMITS = Timeouts(connect=5, read=5, idle=20, first_event=2)
SMALL = ProducerLimits(batch_items=7, linger=0.001, in_flight=4)
PER_WRITER = 100
FORKS = mp.get_context("fork")


# The network.


class Proxy:
    """A TCP proxy that damages some of its connections."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.counts: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._passed = asyncio.Event()

    async def connected(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self.counts["connections"] += 1
        kinds = ["well", "well", "cut", "truncated", "delayed", "repeated", "overtaken"]
        kind = self._chance.choice(kinds)
        self.counts[kind] += 1
        far, forth = await asyncio.open_connection("127.0.0.1", self.port)
        tasks = [
            asyncio.create_task(self._requests(near, forth, kind)),
            asyncio.create_task(self._answers(far, back, kind)),
        ]
        life = self._chance.uniform(0.05, 3)
        with suppress(asyncio.CancelledError):
            done, _ = await asyncio.wait(tasks, timeout=life, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                self.counts["cut at a ripe age"] += 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in back, forth:
            writer.close() if kind == "truncated" else writer.transport.abort()

    async def _requests(
        self, near: asyncio.StreamReader, forth: asyncio.StreamWriter, kind: str
    ) -> None:
        while data := await near.read(1 << 16):
            if kind == "delayed":
                await asyncio.sleep(self._chance.uniform(0, 0.2))
            elif kind == "overtaken":
                self._passed = asyncio.Event()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await self._passed.wait()
            elif kind == "repeated":
                await self._again(data)
            forth.write(data)
            await forth.drain()
            self._passed.set()

    async def _again(self, data: bytes) -> None:
        """The same bytes over another connection, before or after the first ones."""
        _, extra = await asyncio.open_connection("127.0.0.1", self.port)
        extra.write(data)
        await extra.drain()
        if self._chance.random() < 0.5:
            await asyncio.sleep(0.02)
        extra.close()

    async def _answers(
        self, far: asyncio.StreamReader, back: asyncio.StreamWriter, kind: str
    ) -> None:
        left = self._chance.randrange(3000) if kind in {"cut", "truncated"} else sys.maxsize
        while left > 0 and (data := await far.read(1 << 16)):
            if kind == "delayed":
                await asyncio.sleep(self._chance.uniform(0, 0.2))
            back.write(data[:left])
            left -= len(data)
            await back.drain()


async def serve_proxy(port: int, seed: int) -> None:
    proxy = Proxy(port, seed)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(proxy.connected, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    print(json.dumps(proxy.counts), flush=True)


@contextmanager
def process(*command: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A program of Python, and the first line it prints."""
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            yield started.stdout.readline(), started
        finally:
            started.kill()


# Writers: each numbers its messages, and returns once all of them are acknowledged.


def produce(client: Client, name: str, writer: str) -> None:
    with client.stream(name).producer(limits=SMALL) as producer:
        for n in range(PER_WRITER):
            producer.append([writer, n])


def append(client: Client, name: str, writer: str) -> None:
    stream = client.stream(name, content_type=JSON)
    for n in range(PER_WRITER):
        stream.append([writer, n])


async def write_async(client: AsyncClient, name: str, writer: str) -> None:
    async def plainly() -> None:
        for n in range(PER_WRITER):
            await client.stream(name).append([f"{writer}, plain", n])

    async def fast() -> None:
        async with client.stream(name).producer(limits=SMALL) as producer:
            for n in range(PER_WRITER):
                await producer.append([f"{writer}, producer", n])

    await asyncio.gather(plainly(), fast())


def run_async(runner: Any, url: str, name: str, writer: str) -> None:
    async def main() -> None:
        async with AsyncClient(url, retry=PATIENT, timeouts=LIMITS) as client:
            await write_async(client, name, writer)

    runner(main())


def forked(client: Client, inherited: Any, name: str, writer: str) -> None:
    """Write in a child, with a client that its parent made and uses."""
    append(client, name, f"{writer}, plain")
    produce(client, name, f"{writer}, producer")
    try:
        inherited.append(["never", 0])
    except NotUsableHere:
        return
    raise SystemExit("a producer of the parent took an item in its child")


# Readers.


def follow(url: str, name: str, live: str, got: list[Any]) -> None:
    with Client(url, retry=PATIENT, timeouts=LIMITS) as client:
        got.extend(client.stream(name).follow(live=live).items())  # type: ignore[arg-type]


def follow_async(runner: Any, url: str, name: str, live: str, got: list[Any]) -> None:
    async def main() -> None:
        async with AsyncClient(url, retry=PATIENT, timeouts=LIMITS) as client:
            reader = client.stream(name).follow(live=live)  # type: ignore[arg-type]
            got.extend([item async for item in reader.items()])

    runner(main())


def round_of(url: str, through: str, name: str) -> tuple[int, list[str]]:
    """One stream from its beginning to its end: messages, and what went wrong."""
    client = Client(through, retry=PATIENT, timeouts=LIMITS)
    client.stream(name).create(content_type=JSON)
    readings: dict[str, list[Any]] = {}
    readers = []
    for live in "auto", "sse", "long-poll":
        for kind in "sync", "asyncio", "uvloop":
            got = readings[f"{kind} {live}"] = []
            work = (follow, through) if kind == "sync" else (follow_async, RUNNERS[kind], through)
            readers.append(threading.Thread(target=work[0], args=(*work[1:], name, live, got)))
    inherited = client.stream(name).producer(limits=SMALL)
    inherited.append(["parent", 0])
    children = [
        FORKS.Process(target=forked, args=(client, inherited, name, f"child {n}")) for n in range(3)
    ]
    for child in children:
        child.start()
    writers = [
        threading.Thread(target=produce, args=(client, name, "producer")),
        threading.Thread(target=append, args=(client, name, "plain")),
        threading.Thread(target=run_async, args=(asyncio.run, through, name, "asyncio")),
        threading.Thread(target=run_async, args=(uvloop.run, through, name, "uvloop")),
    ]
    for thread in *readers, *writers:
        thread.start()
    for thread in writers:
        thread.join()
    faults = []
    for child in children:
        child.join()
        if child.exitcode:
            faults.append(f"{name}: a child ended with {child.exitcode}")
    inherited.close()
    client.stream(name).close_stream()
    client.close()
    for thread in readers:
        thread.join(60)
        if thread.is_alive():
            faults.append(f"{name}: a reader did not end")
    with Client(url) as direct:
        stored = direct.stream(name).read().read_items()
        direct.stream(name).delete()
    names = [f"child {n}, {kind}" for n in range(3) for kind in ("plain", "producer")]
    names += [f"{kind}, {how}" for kind in ("asyncio", "uvloop") for how in ("plain", "producer")]
    for writer in *names, "producer", "plain":
        numbers = [n for who, n in stored if who == writer]
        if numbers != list(range(PER_WRITER)):
            faults.append(f"{name}: {writer} wrote {PER_WRITER} messages, stored are {numbers}")
    expected = PER_WRITER * (len(names) + 2) + 1
    if len(stored) != expected:
        faults.append(f"{name}: {len(stored)} messages are stored instead of {expected}")
    faults += [
        f"{name}: the {kind} reader got {len(got)} messages of {len(stored)}, or in another order"
        for kind, got in readings.items()
        if got != stored
    ]
    return len(stored), faults


RUNNERS = {"asyncio": asyncio.run, "uvloop": uvloop.run}


def main() -> int:
    parser = argparse.ArgumentParser(description="Clients in a network that damages connections.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--proxy", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.proxy is not None:
        asyncio.run(serve_proxy(options.proxy, options.seed))
        return 0
    counts: Counter[str] = Counter()
    faults: list[str] = []
    command = ["-m", "durable_streams_server", "--store", "memory:", "--port", "0"]
    with process(*command) as (line, _):
        url = next(word for word in line.split() if word.startswith("http"))
        port = url.split(":")[2].partition("/")[0]
        with process(__file__, "--proxy", port, "--seed", str(options.seed)) as (other, proxy):
            through = url.replace(f":{port}/", f":{other.strip()}/")
            until = time.monotonic() + options.minutes * 60
            while time.monotonic() < until:
                counts["rounds"] += 1
                messages, wrong = round_of(url, through, f"round-{counts['rounds']}")
                counts["messages"] += messages
                counts["read"] += messages * 9
                counts["forks"] += 3
                faults += wrong
            proxy.terminate()
            assert proxy.stdout is not None
            counts.update(json.loads(proxy.stdout.readline()))
    print(json.dumps({**counts, "faults": len(faults)}))
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
