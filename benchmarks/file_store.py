"""The file store next to our own memory store and to the npm reference server with its file store.

    python benchmarks/file_store.py [--seconds 2] [--out build/benchmarks]

Appends of two sizes from 1, 16 and 64 connections to 1 and 1,000 streams, the replay of a stream of
100 MB, and in this process 100,000 idle streams: what they take of memory and how long a start with
them lasts. Servers are pinned to one core, all figures are of one run. CPU is per request that was
answered with 2xx; requests with other answers are counted beside.
"""

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop
from load import allow_many_sockets, closed_loops, request
from servers import KINDS, Server
from workloads import TEXT, fresh, measured, replay

from durable_streams_server.engine.engine import Engine
from durable_streams_server.stores.file import FileStore

SERVERS = ["ours-file", "ours", "node-file"]
IDLE_STREAMS = 100_000


async def appends(
    server: Server, size: int, connections: int, streams: int, seconds: float
) -> tuple[float, float, int]:
    """Appends a second, CPU in µs for each, and how many had another answer than 2xx."""
    urls = [await fresh(server, TEXT) for _ in range(streams)]
    messages = [request(url, "POST", b"x" * size, TEXT) for url in urls]

    def following(first: int) -> Callable[[object], bytes]:
        number = first

        def one(_: object) -> bytes:
            nonlocal number
            number += connections
            return messages[number % streams]

        return one

    loading = closed_loops(urls[0], following, connections=connections, seconds=seconds)
    measure = await measured(server, loading)
    load = measure.load
    return load.ok / load.seconds, measure.cpu / max(load.ok, 1) * 1e6, load.failed


async def compare(seconds: float) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    servers = {name: Server(KINDS[name], 0) for name in SERVERS}
    try:
        for streams in 1, 1000:
            for size in 100, 1024:
                for connections in 1, 16, 64:
                    row: dict[str, object] = {
                        "what": f"append {size} B",
                        "connections": connections,
                        "streams": streams,
                    }
                    for name, server in servers.items():
                        rate, cpu, failed = await appends(
                            server, size, connections, streams, seconds
                        )
                        row[name] = f"{rate:,.0f}/s, {cpu:.1f} µs" + f", {failed} failed" * bool(
                            failed
                        )
                    rows.append(row)
                    print(row, file=sys.stderr)
        row = {"what": "replay 100 MB", "connections": 1, "streams": 1}
        for name, server in servers.items():
            measure = await replay(server, seconds, False)
            row[name] = f"{measure.extra['MB/s']:,.0f} MB/s, {server.memory() / 2**20:.0f} MiB"
        rows.append(row)
    finally:
        for server in servers.values():
            server.stop()
    return rows


async def fill(directory: str) -> None:
    async with Engine(FileStore(directory)) as engine:
        for begin in range(0, IDLE_STREAMS, 500):
            paths = [f"streams/number/{number}" for number in range(begin, begin + 500)]
            await asyncio.gather(
                *(engine.create(path, content_type="application/json") for path in paths)
            )
            await asyncio.gather(*(engine.append(path, b'{"n":1}') for path in paths))


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def start(directory: str) -> None:
    """Open a full store in a process of its own and say what that took."""

    async def opened() -> str:
        begin = time.perf_counter()
        async with Engine(FileStore(directory)) as engine:
            seconds = time.perf_counter() - begin
            await engine.store.list("", "", 1)
            return f"{seconds:.2f} s, {resident() / 2**20:.0f} MiB"

    print(uvloop.run(opened()))


async def idle() -> str:
    with tempfile.TemporaryDirectory() as directory:
        await fill(directory)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "--start", directory), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
        return said.decode().strip()


async def run(options: argparse.Namespace) -> None:
    rows = await compare(options.seconds)
    rows.append({"what": f"start with {IDLE_STREAMS:,} idle streams", "ours-file": await idle()})
    columns = ["what", "connections", "streams", *SERVERS]
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(row.get(column, "")) for column in columns) + " |")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "file-store.json").write_text(json.dumps(rows, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "build/benchmarks")
    parser.add_argument("--start", metavar="DIRECTORY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    allow_many_sockets()
    if options.start:
        start(options.start)
    else:
        uvloop.run(run(options))


if __name__ == "__main__":
    main()
