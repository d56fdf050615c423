"""Measures requests inside the process, from the bytes that arrive to those that leave.

    python benchmarks/in_process.py [--profile append]

No socket and no event loop take part, so the kernel's share is missing and the figures are steady:
the best of many short runs counts. With ``--profile`` the functions that the time goes to follow.
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
TEXT = "Content-Type: text/plain\r\n"
JSON = "Content-Type: application/json\r\n"
RUNS = 40
TURNS = 2000


class Nowhere:
    """A transport that keeps the last answer."""

    def __init__(self) -> None:
        self.last = b""

    def write(self, data: bytes) -> None:
        self.last = data

    def is_closing(self) -> bool:
        return False


def best(send: Callable[[], None]) -> float:
    """Microseconds a call."""
    found = float("inf")
    for _ in range(RUNS):
        begin = time.perf_counter()
        for _ in range(TURNS):
            send()
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

        def sending(messages: Callable[[], bytes]) -> Callable[[], None]:
            return lambda: connection.data_received(messages())

        def appends(path: str, body: bytes, headers: str) -> Callable[[], None]:
            message = request(URL + path, "POST", body, headers)
            return sending(lambda: message)

        for path, headers in (("read", TEXT), ("text", TEXT), ("json", JSON)):
            connection.data_received(request(URL + path, "PUT", b"", headers))
        connection.data_received(request(URL + "read", "POST", b"x" * 100, TEXT))
        read = request(URL + "read?offset=-1")

        def claiming() -> Iterator[str]:
            claim = f"{TEXT}Producer-Id: p\r\nProducer-Epoch: 0\r\nProducer-Seq: "
            return (f"{claim}{n}\r\n" for n in itertools.count())

        claims, unused = claiming(), claiming()
        traced = (f"{TEXT}Traceparent: 00-{n:032x}\r\n" for n in itertools.count())
        lengths = itertools.cycle(range(80, 120))
        workloads = {
            "read": sending(lambda: read),
            "append": appends("text", b"x" * 100, TEXT),
            "append of varying length": sending(
                lambda: request(URL + "text", "POST", b"x" * next(lengths), TEXT)
            ),
            "append by a producer": sending(
                lambda: request(URL + "text", "POST", b"x" * 100, next(claims))
            ),
            "append with a header that is new each time": sending(
                lambda: request(URL + "text", "POST", b"x" * 100, next(traced))
            ),
            "append of JSON": appends("json", b'{"text":"hello","n":1234}', JSON),
        }
        making = best(lambda: len(request(URL + "text", "POST", b"x" * 100, next(unused))) and None)
        made = ("append of varying length", "append by a producer")
        for name, send in workloads.items():
            spent = best(send)
            if name in made or name.endswith("each time"):
                # Each of these requests was made anew, which is not the server's work.
                spent -= making
            print(f"{name:45} {spent:6.2f} us   {bytes(transport.last[9:12]).decode()}")
        if profile is not None:
            profiler = cProfile.Profile()
            profiler.enable()
            for _ in range(5000):
                workloads[profile]()
            profiler.disable()
            pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a request costs inside the process.")
    parser.add_argument("--profile", metavar="WORKLOAD")
    asyncio.run(measure(parser.parse_args().profile))


if __name__ == "__main__":
    main()
