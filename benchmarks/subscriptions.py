"""What subscriptions cost and how promptly they are told.

    python benchmarks/subscriptions.py [cost] [load] [--seconds 20] [--store file:]

`cost`: CPU per append in an engine, with no subscription and with 1,000 whose patterns do not
match, in turns. `load`: 1,000 webhook subscriptions, 500 appends a second spread over them, one
receiver in forty down and one in forty answering after a minute; the time from append to webhook at
the healthy ones, and the server's memory as it goes. The server of `load` is a process of its own.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web

from durable_streams_core.subscriptions.records import BaseUrl, parse_config
from durable_streams_server import Engine

SUBSCRIPTIONS = 1000
PER_SECOND = 500


async def appends(engine: Engine, count: int) -> float:
    """CPU microseconds an append."""
    begin = time.process_time()
    for n in range(count):
        await engine.append(f"other/{n % 50}", b"x" * 100)
    return (time.process_time() - begin) / count * 1e6


async def cost() -> None:
    async with Engine("memory:") as plain, Engine("memory:") as crowded:
        for engine in (plain, crowded):
            for n in range(50):
                await engine.create(f"other/{n}")
        for n in range(SUBSCRIPTIONS):
            wish = {"type": "pull-wake", "pattern": f"tenants/{n}/**", "wake_stream": "wake"}
            await crowded.subscriptions.create(f"s{n}", parse_config(wish), BaseUrl("", "/"))
        figures: dict[str, list[float]] = {"none": [], "1,000": []}
        for _ in range(9):
            figures["none"].append(await appends(plain, 20_000))
            figures["1,000"].append(await appends(crowded, 20_000))
    for name, found in figures.items():
        print(f"{name:>6} subscriptions: {statistics.median(found):.2f} us CPU an append")


def kind_of(n: int) -> str:
    return "down" if n % 40 == 0 else "slow" if n % 40 == 1 else "healthy"


class Receivers:
    """All receivers in one process; how long an event took, by the time in its data."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.sent: dict[str, list[float]] = {}
        self.over = asyncio.Event()

    async def healthy(self, request: web.Request) -> web.Response:
        now = time.monotonic()
        told = await request.json()
        for stream in told["streams"]:
            waiting = self.sent.get(stream["path"], [])
            end = int(stream["tail_offset"][-16:]) // 100
            done = 0 if stream["acked_offset"] == "-1" else int(stream["acked_offset"][-16:]) // 100
            self.times += [now - sent for sent in waiting[done:end]]
        return web.json_response({"done": True})

    async def down(self, _request: web.Request) -> web.Response:
        return web.Response(status=503)

    async def slow(self, _request: web.Request) -> web.Response:
        with suppress(TimeoutError):
            async with asyncio.timeout(60):
                await self.over.wait()
        return web.Response()


def memory_of(pid: int) -> int:
    """Resident MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) // 1024
    return 0


def cpu_of(pid: int) -> float:
    """CPU seconds so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(seconds: float, store: str) -> None:  # noqa: PLR0915 - one story
    receivers = Receivers()
    app = web.Application()
    for kind in ("healthy", "down", "slow"):
        app.router.add_post(f"/{kind}/{{n}}", getattr(receivers, kind))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    with tempfile.TemporaryDirectory() as directory:
        url = f"file:{directory}/data" if store == "file:" else store
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "durable_streams_server", "--store", url, "--port", "0"),
            *("--log-level", "error"),
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None
        line = (await server.stdout.readline()).decode()
        root = line.split(" at ")[1].strip()
        text = {"content-type": "text/plain"}
        async with aiohttp.ClientSession(root) as http:

            async def prepare(n: int) -> None:
                wish = {"type": "webhook", "pattern": f"t/{n}/*"}
                hook = {"webhook": {"url": f"{base}/{kind_of(n)}/{n}"}}
                async with http.put(f"__ds/subscriptions/s{n}", json={**wish, **hook}) as made:
                    assert made.status == 201, await made.text()
                async with http.put(f"t/{n}/a", headers=text) as made:
                    assert made.status == 201, await made.text()

            await asyncio.gather(*(prepare(n) for n in range(SUBSCRIPTIONS)))
            rest, cpu = memory_of(server.pid), cpu_of(server.pid)
            memory = []
            gate = asyncio.Semaphore(200)
            failed = 0

            async def one(n: int) -> None:
                nonlocal failed
                path = f"t/{n}/a"
                # Before the request: what is measured holds the append itself.
                receivers.sent.setdefault(path, []).append(time.monotonic())
                async with gate, http.post(path, data=b"x" * 100, headers=text) as answer:
                    failed += answer.status != 204

            begin = time.monotonic()
            total = int(seconds * PER_SECOND)
            async with asyncio.TaskGroup() as group:
                for count in range(total):
                    delay = begin + count / PER_SECOND - time.monotonic()
                    if delay > 0:
                        await asyncio.sleep(delay)
                    group.create_task(one(random.randrange(SUBSCRIPTIONS)))
                    if count % PER_SECOND == 0:
                        memory.append(memory_of(server.pid))
            took = time.monotonic() - begin
            wanted = sum(
                len(sent) for path, sent in receivers.sent.items()
                if kind_of(int(path.split("/")[1])) == "healthy"
            )  # fmt: skip
            for _ in range(100):
                if len(receivers.times) >= wanted:
                    break
                await asyncio.sleep(0.1)
        cpu = cpu_of(server.pid) - cpu
        receivers.over.set()
        server.terminate()
        await server.wait()
    await runner.cleanup()
    times = sorted(receivers.times)
    print(
        json.dumps(
            {
                "store": store,
                "appends a second": round(total / took),
                "failed appends": failed,
                "events for healthy receivers": wanted,
                "told": len(times),
                "p50 ms": round(times[len(times) // 2] * 1000, 1),
                "p99 ms": round(times[int(len(times) * 0.99)] * 1000, 1),
                "max ms": round(times[-1] * 1000, 1),
                "server CPU us an append": round(cpu / total * 1e6),
                "MiB at rest": rest,
                "MiB by second": memory,
            },
            indent=2,
        )
    )


async def main(options: argparse.Namespace) -> None:
    if "cost" in options.what:
        await cost()
    if "load" in options.what:
        await load(options.seconds, options.store)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure subscriptions.")
    parser.add_argument("what", nargs="*", default=["cost", "load"])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--store", default="memory:", help="a store URL; `file:` makes a directory")
    uvloop.run(main(parser.parse_args()))
