"""Measures a request inside the process: from the bytes that came in to those that go out.

    python benchmarks/in_process.py [--profile append]

No socket and no event loop take part, so the kernel's share is missing. The best of many short runs
counts, because other work on the machine only ever adds to a run. The first workloads are
realistic: they go to many streams, and each request has a trace id and a request id of its own.
Those named "repeated" send one request again and again, which is the best case. ``--profile``
shows the functions that the time of one workload goes to instead.
"""

import argparse
import asyncio
import cProfile
import itertools
import pstats
import time
from collections.abc import Callable, Iterator
from typing import Any

from load import request

from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.standalone import StandaloneServer
from durable_streams_server.frontends.standalone.connection import Connection
from durable_streams_server.http.options import Options

URL = "http://127.0.0.1:4437/v1/stream/"
JSON = "Content-Type: application/json\r\n"
MESSAGE = b'{"t":"tok","n":12345}'
STREAMS = 200
RUNS = 1000
TURNS = 20
"""Requests in one run: few, so that some runs are not interrupted."""


class Nowhere:
    """A transport that keeps the last answer."""

    def __init__(self) -> None:
        self.last = b""

    def write(self, data: bytes) -> None:
        self.last = data

    def is_closing(self) -> bool:
        return False


def ids(n: int) -> str:
    """Headers that are new with each request, and those that a client and a proxy add."""
    return (
        f"traceparent: 00-{n * 7919:032x}-{n:016x}-01\r\nX-Request-Id: {n * 31:08x}-{n % 65536:04x}\r\n"
        "Authorization: Bearer abcdefghijklmnopqrstuvwxyz\r\nX-Forwarded-For: 10.1.2.3\r\n"
    )


def append(n: int, headers: str = "") -> bytes:
    return request(f"{URL}r{n % STREAMS}", "POST", MESSAGE, JSON + ids(n) + headers)


def read(n: int) -> bytes:
    return request(f"{URL}r{n % STREAMS}?offset=-1", "GET", b"", ids(n))


def batch(n: int) -> bytes:
    """The next batch of each stream's producer."""
    claim = f"Producer-Id: p\r\nProducer-Epoch: 0\r\nProducer-Seq: {n // STREAMS}\r\n"
    return append(n, claim)


WORKLOADS: dict[str, Callable[[int], bytes]] = {
    "read": read,
    "append": append,
    "append by a producer": batch,
    "read, repeated": lambda _: read(1),
    "append, repeated": lambda _: append(1),
}


def best(send: Callable[[bytes], None], messages: Iterator[bytes]) -> float:
    """Microseconds a request."""
    found = float("inf")
    for _ in range(RUNS):
        made = list(itertools.islice(messages, TURNS))
        begin = time.perf_counter()
        for message in made:
            send(message)
        found = min(found, (time.perf_counter() - begin) / TURNS)
    return found * 1e6


async def measure(profile: str | None) -> None:
    mount = Mount("memory:", Options(), None)
    async with mount.running():
        server = StandaloneServer(mount, "/v1/stream/")
        server.look(0.0)
        transport: Any = Nowhere()
        connection = Connection(server, secure=False)
        connection.connection_made(transport)
        send = connection.data_received
        for n in range(STREAMS):
            send(request(f"{URL}r{n}", "PUT", MESSAGE, JSON))
        if profile is not None:
            made = [WORKLOADS[profile](n) for n in range(5000)]
            profiler = cProfile.Profile()
            profiler.enable()
            for message in made:
                send(message)
            profiler.disable()
            pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
            return
        for name, make in WORKLOADS.items():
            spent = best(send, map(make, itertools.count()))
            print(f"{name:25} {spent:6.2f} us   {bytes(transport.last[9:12]).decode()}")


def main() -> None:
    parser = argparse.ArgumentParser(description="What a request costs inside the process.")
    parser.add_argument("--profile", metavar="WORKLOAD", choices=WORKLOADS)
    asyncio.run(measure(parser.parse_args().profile))


if __name__ == "__main__":
    main()
