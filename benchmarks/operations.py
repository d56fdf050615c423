"""Measures what metrics, the access log and tracing cost of a realistic append.

    python benchmarks/operations.py [--rounds 400]

Every way is served by a server of its own in this process, as in in_process.py, and they take turns
of a few milliseconds each, so that other work on the machine disturbs all of them alike. Each
request has a turn of the event loop for itself. The median of each pair's difference counts. The
share is of the CPU that an append costs over a socket, which is more: what the kernel and the event
loop take is not measured here, and is given by --whole.
"""

import argparse
import asyncio
import itertools
import logging
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from in_process import Nowhere, to_streams
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from durable_streams_server.cli.process import loop_runner
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.standalone import StandaloneServer
from durable_streams_server.frontends.standalone.connection import Connection
from durable_streams_server.http.options import Options
from durable_streams_server.operations.access_log import LOGGER, AccessLog
from durable_streams_server.operations.log_formats import JsonFormatter, LineFormatter
from durable_streams_server.operations.log_handler import LineHandler
from durable_streams_server.operations.metrics import MetricsCollector
from durable_streams_server.operations.tracing import Tracing

STREAMS = 200
TURN = 100
"""Requests in one turn."""


def off(_mount: Mount) -> None:
    """Observe nothing."""


def metrics(mount: Mount) -> None:
    MetricsCollector(mount)


class Discarding(logging.Handler):
    """Formats each line as the command does, and writes it nowhere."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


def through_logging(mount: Mount) -> None:
    log = logging.getLogger(LOGGER)
    handler = Discarding()
    handler.setFormatter(LineFormatter(["a secret", "another"]))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    mount.handler.observe(AccessLog())


def access_log(formatter: type[LineFormatter]) -> Callable[[Mount], None]:
    """The access log of the command, written to nowhere once in each turn of the loop."""

    def observe(mount: Mount) -> None:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        handler = LineHandler(descriptor, formatter(["a secret", "another"]))
        mount.handler.observe(AccessLog(take=handler.write_entry))

    return observe


def tracing(mount: Mount) -> None:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    Tracing(mount, provider=provider)


WAYS: dict[str, Callable[[Mount], None]] = {
    "off": off,
    "off again": off,
    "metrics": metrics,
    "access log": access_log(LineFormatter),
    "… as JSON": access_log(JsonFormatter),
    "… by logging": through_logging,
    "tracing, 1 %": tracing,
}


def sampled(message: bytes, number: int) -> bytes:
    """The request of a client whose own tracing samples one in a hundred."""
    return message if number % 100 == 0 else message.replace(b"-01\r\nX-", b"-00\r\nX-")


def connection_to(mount: Mount) -> Connection:
    server = StandaloneServer(mount, "/v1/stream/")
    server.note_time(0.0)
    transport: Any = Nowhere()
    connection = Connection(server, secure=False)
    connection.connection_made(transport)
    return connection


async def measure(rounds: int, whole: float) -> None:
    sends: dict[str, Callable[[bytes], None]] = {}
    mounts = []
    for name, observe in WAYS.items():
        mount = Mount("memory:", Options(), None)
        await mount.engine.start()
        mounts.append(mount)
        observe(mount)
        for number in range(STREAMS):
            await mount.engine.create(f"r{number}", content_type="application/json")
        sends[name] = connection_to(mount).data_received
    make = to_streams("append", STREAMS)
    numbers = itertools.count()
    spent: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds):
        messages = [sampled(make(n), n) for n in itertools.islice(numbers, TURN)]
        # Each begins as often as the others, because the first of a round finds cold caches.
        order = [*sends.items()]
        turn = number % len(order)
        for name, send in [*order[turn:], *order[:turn]]:
            begin = time.process_time_ns()
            for message in messages:
                send(message)
                await asyncio.sleep(0)
            spent[name].append((time.process_time_ns() - begin) / TURN / 1000)
    base = spent["off"]
    print(f"{'':14}{'us':>8}{'more':>8}{'in process':>12}{'of the whole':>14}")
    for name, times in spent.items():
        more = statistics.median(one - other for one, other in zip(times, base, strict=True))
        median = statistics.median(times)
        share, of_whole = more / statistics.median(base), more / whole
        print(f"{name:14}{median:8.2f}{more:+8.2f}{share:+12.1%}{of_whole:+14.1%}")
    for mount in mounts:
        await mount.engine.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="What it costs to be observed.")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument(
        "--whole", type=float, default=64.7, help="CPU of an append over a socket, in us"
    )
    options = parser.parse_args()
    loop_runner()(measure(options.rounds, options.whole))


if __name__ == "__main__":
    main()
