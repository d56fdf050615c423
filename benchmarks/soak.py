"""Half an hour of clients that come, stall and vanish; then nothing of them may be left.

    python benchmarks/soak.py [--minutes 30] [--clients 1500]

Prints what the server holds every ten seconds: memory, descriptors, tasks, connections, live
readers, followed streams, commit queues. It fails when any of them grew after the first quarter,
when something is left once all clients are gone, and when the server logs an error. Linux only.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import uvloop
from load import ORDINARY, allow_many_sockets

from durable_streams_server import Engine
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.standalone import Bounds, StandaloneServer
from durable_streams_server.http.options import Options

HERE = Path(__file__).resolve().parent
SAMPLE_SECONDS = 10.0
PAGE = os.sysconf("SC_PAGE_SIZE")
TEXT = "Content-Type: text/plain\r\n"


# The server, in a process of its own, which tells what it holds.


async def serve() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    options = Options(long_poll_timeout=10, sse_rotation=20)
    bounds = Bounds(header_timeout=5, body_timeout=5, idle_timeout=8, write_timeout=10)
    async with Engine("memory:") as engine:
        mount = Mount(engine, options, None)
        server = StandaloneServer(mount, "/v1/stream/", bounds)
        print(await server.listen("127.0.0.1", 0), flush=True)
        while not stop.is_set():
            held = {
                "memory": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE,
                "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
                "tasks": len(asyncio.all_tasks()),
                "connections": len(server),
                "readers": len(mount.handler.readers),
                "followed": len(engine.fanout),
                "commit queues": len(engine._queues._queues),  # noqa: SLF001 - nobody else asks for it
            }
            print(json.dumps(held), flush=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), SAMPLE_SECONDS)
        await server.stop()


# The clients. Each does one thing over one connection, and goes in one of several ways.


class Client:
    """A raw connection and its habits."""

    def __init__(self, port: int, dice: random.Random) -> None:
        self.port = port
        self.dice = dice

    async def run(self) -> None:
        reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        self.reader = reader
        self.path = f"/v1/stream/soak-{self.dice.randrange(200)}"
        what = self.dice.choice(
            (
                self.work, self.work, self.work, self.silence, self.half_head, self.half_body,
                self.garbage, self.follow, self.follow, self.deaf, self.poll, self.pipeline,
                self.chunks,
            )
        )  # fmt: skip
        try:
            async with asyncio.timeout(25):
                await what()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            await self.go()

    async def go(self) -> None:
        """Close, half-close first, or vanish with a reset."""
        way = self.dice.randrange(3)
        with contextlib.suppress(OSError, RuntimeError):
            if way == 0:
                link: socket.socket = self.writer.get_extra_info("socket")
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif way == 1:
                self.writer.write_eof()
                await asyncio.sleep(0.1)
        self.writer.close()

    def send(self, method: str, query: str = "", body: bytes = b"", headers: str = TEXT) -> None:
        length = f"Content-Length: {len(body)}\r\n" if method in ("PUT", "POST") else ""
        head = f"{method} {self.path}{query} HTTP/1.1\r\nHost: soak\r\n{ORDINARY}{headers}{length}"
        self.writer.write(head.encode() + b"\r\n" + body)

    async def answer(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await self.reader.readexactly(int(line[15:]))
        return head

    async def work(self) -> None:
        for _ in range(self.dice.randrange(1, 20)):
            choice = self.dice.random()
            if choice < 0.15:
                self.send("PUT")
            elif choice < 0.25:
                self.send("DELETE")
            elif choice < 0.6:
                self.send("POST", body=b"x" * self.dice.randrange(1, 20_000))
            else:
                self.send("GET", "?offset=-1")
            await self.answer()
            await asyncio.sleep(self.dice.random() * 0.5)

    async def silence(self) -> None:
        await asyncio.sleep(self.dice.random() * 15)

    async def half_head(self) -> None:
        self.writer.write(f"POST {self.path} HTTP/1.1\r\nHost: so".encode())
        await self.reader.read()

    async def half_body(self) -> None:
        self.send("POST", body=b"x", headers=f"{TEXT}X-Y: z\r\n")
        await self.answer()
        head = f"POST {self.path} HTTP/1.1\r\nHost: soak\r\n{TEXT}Content-Length: 100000\r\n\r\n"
        self.writer.write(head.encode() + b"x" * self.dice.randrange(50_000))
        await self.reader.read()

    async def garbage(self) -> None:
        self.writer.write(self.dice.randbytes(self.dice.randrange(1, 5000)))
        await self.reader.read()

    async def follow(self) -> None:
        self.send("PUT")
        await self.answer()
        self.send("GET", "?offset=now&live=sse")
        end = time.monotonic() + self.dice.random() * 24
        while time.monotonic() < end and await self.reader.read(65536):
            pass

    async def deaf(self) -> None:
        """Follows, and never reads what comes."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]
        self.send("GET", "?offset=-1&live=sse")
        for _ in range(50):
            self.send("GET", "?offset=-1")
        await asyncio.sleep(self.dice.random() * 24)

    async def poll(self) -> None:
        self.send("GET", "?offset=now&live=long-poll")
        await self.answer()

    async def pipeline(self) -> None:
        for _ in range(100):
            self.send("GET", "?offset=-1")
        for _ in range(self.dice.randrange(100)):
            await self.answer()

    async def chunks(self) -> None:
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: soak\r\n{TEXT}Transfer-Encoding: chunked\r\n\r\n"
        )
        self.writer.write(head.encode())
        for _ in range(self.dice.randrange(20)):
            self.writer.write(b"400\r\n" + b"y" * 1024 + b"\r\n")
            await asyncio.sleep(0.05)
        if self.dice.random() < 0.7:
            self.writer.write(b"0\r\n\r\n")
            await self.answer()


async def visit(port: int, clients: int, seconds: float) -> int:
    """Keep about so many clients there; returns how many there were."""
    dice = random.Random(1)
    running: set[asyncio.Task[None]] = set()
    end = time.monotonic() + seconds
    total = 0
    while time.monotonic() < end:
        while len(running) < clients:
            task = asyncio.create_task(Client(port, random.Random(dice.random())).run())
            running.add(task)
            total += 1
            if total % 20 == 0:
                await asyncio.sleep(0.01)
        done, running = await asyncio.wait(running, timeout=0.2, return_when="FIRST_COMPLETED")
        for task in done:
            if task.exception() is not None and not isinstance(task.exception(), OSError):
                print(f"a client failed: {task.exception()!r}", file=sys.stderr)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return total


async def soak(options: argparse.Namespace) -> int:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "soak.py"), "--serve"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert server.stdout is not None
    assert server.stderr is not None
    port = int(await server.stdout.readline())
    samples: list[dict[str, int]] = []

    async def listen() -> None:
        assert server.stdout is not None
        async for line in server.stdout:
            samples.append(json.loads(line))
            print(f"{len(samples) * SAMPLE_SECONDS:6.0f} s  {line.decode().strip()}", flush=True)

    listening = asyncio.create_task(listen())
    errors = asyncio.create_task(server.stderr.read())
    total = await visit(port, options.clients, options.minutes * 60)
    busy = list(samples)
    print(f"{total} clients came; waiting until the last of them has timed out")
    await asyncio.sleep(40)
    server.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    await asyncio.gather(listening, errors, server.wait())
    stopped = time.monotonic() - begin
    faults = []
    # The first quarter fills what is bounded; from then on nothing may grow.
    quarter = len(busy) // 4
    for key in busy[0]:
        early = median(each[key] for each in busy[quarter : 2 * quarter])
        late = median(each[key] for each in busy[-quarter:])
        print(f"{key}: {early:,.0f} in the second quarter, {late:,.0f} in the last")
        if late > early * 1.15 + 10:
            faults.append(f"{key} grew")
    last = samples[-1]
    for key in ("connections", "readers", "followed", "commit queues"):
        if last[key]:
            faults += [f"{last[key]} {key} are left"]
    if last["descriptors"] > samples[0]["descriptors"] + 2:
        faults.append("descriptors are left")
    if last["tasks"] > samples[0]["tasks"]:
        faults.append("tasks are left")
    if errors.result():
        faults.append("the server logged " + errors.result().decode()[-3000:])
    if server.returncode != 0 or stopped > 5:
        faults.append(f"the server ended with {server.returncode} after {stopped:.1f} s")
    print("\n".join(faults) or f"flat, with {total} clients")
    return 1 if faults else 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=1500)
    parser.add_argument("--serve", action="store_true", help="be the server")
    options = parser.parse_args()
    allow_many_sockets()
    if options.serve:
        uvloop.run(serve())
        return 0
    return uvloop.run(soak(options))


if __name__ == "__main__":
    sys.exit(main())
