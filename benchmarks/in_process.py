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

from realistic import MESSAGE, realistic_request, stream_request
from workloads import BATCH

from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.standalone import StandaloneServer
from durable_streams_server.frontends.standalone.connection import Connection
from durable_streams_server.http.options import Options

URL = "http://127.0.0.1:4437/v1/stream/r"
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

    def get_extra_info(self, name: str) -> object:
        return ("127.0.0.1", 1) if name == "peername" else None


def to_streams(operation: str, streams: int = 200, body: bytes = MESSAGE) -> Callable[[int], bytes]:
    """The n-th request of the realistic load."""
    return lambda n: stream_request(operation, f"{URL}{n % streams}", n, n // streams, "p", body)


WORKLOADS: dict[str, Callable[[int], bytes]] = {
    # First what reads the one small message that each stream begins with.
    "read": to_streams("read"),
    "read, 20,000 streams": to_streams("read", 20_000),
    "read, repeated": lambda _: to_streams("read")(1),
    "append": to_streams("append"),
    "append, 20,000 streams": to_streams("append", 20_000),
    "append by a producer": to_streams("producers"),
    "append, repeated": lambda _: to_streams("append")(1),
    "append of 100 messages": to_streams("append", body=BATCH),
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
        server.note_time(0.0)
        transport: Any = Nowhere()
        connection = Connection(server, secure=False)
        connection.connection_made(transport)
        send = connection.data_received
        for n in range(20_000):
            send(realistic_request(f"{URL}{n}", "PUT", n, MESSAGE))
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
