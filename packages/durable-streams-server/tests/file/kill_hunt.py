"""A hunt with SIGKILL: the real server under load, killed at random moments, started again.

    python kill_hunt.py --kills 50 --seed 1

Producers append numbered messages, each again until it is acknowledged, some streams by several
producers; readers follow from their last offset across the kills. In the end each message is there
exactly once and in its producer's order, each acknowledged offset is where its message ends, and
each reader has read just what the stream holds.
"""

# ruff: noqa: T201 - a script prints

import argparse
import asyncio
import os
import random
import re
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

PRODUCERS = 8
STREAMS = 5
READERS = 3


class Server:
    """The command, on one port and one directory, through all its lives."""

    def __init__(self, directory: str, front_end: str) -> None:
        self._directory = directory
        self._front_end = front_end
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""
        self._port = "0"
        self.recovered: list[str] = []

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "durable_streams_server",
                "--store",
                f"file:{self._directory}?checkpoint-mib=1",
            ),
            *("--port", self._port, "--front-end", self._front_end),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdout is not None
        said = []
        async for line in self._process.stdout:
            said.append(line.decode())
            if "recovered" in said[-1]:
                self.recovered.append(said[-1].strip())
            found = re.search(r"at (http://\S+:(\d+)\S*)", said[-1])
            if found:
                self.url, self._port = found[1].rstrip("/"), found[2]
                asyncio.ensure_future(self._drain(self._process.stdout))  # noqa: RUF006
                return
        raise RuntimeError("the server did not start:\n" + "".join(said))

    async def _drain(self, stdout: asyncio.StreamReader) -> None:
        async for line in stdout:
            if b"ERROR" in line:
                print(line.decode(), end="")

    async def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        assert await self._process.wait() == 0


class Hunt:
    def __init__(self, server: Server, client: httpx.AsyncClient) -> None:
        self.server = server
        self.client = client
        self.acknowledged: dict[str, list[tuple[bytes, str]]] = defaultdict(list)
        self.sent: dict[int, int] = defaultdict(int)
        self.read: dict[tuple[int, str], bytearray] = defaultdict(bytearray)
        self.stopping = asyncio.Event()
        self.retries = 0

    async def ask(self, method: str, stream: str, **options: object) -> httpx.Response | None:
        """An answer, or None if the server was not there to give one."""
        try:
            answer = await self.client.request(method, f"{self.server.url}/{stream}", **options)  # type: ignore[arg-type]
        except httpx.TransportError:
            self.retries += 1
            await asyncio.sleep(0.01)
            return None
        assert answer.status_code < 500, f"{answer.status_code}: {answer.text}"
        return answer

    async def producer(self, number: int) -> None:
        stream = f"s{number % STREAMS}"
        while not self.stopping.is_set():
            sequence = self.sent[number]
            message = b"%d.%d%s\n" % (number, sequence, b"." * (sequence * 7919 % 20_000))
            answer = None
            while answer is None:
                answer = await self.ask(
                    "POST",
                    stream,
                    content=message,
                    headers={
                        "Content-Type": "text/plain",
                        "Producer-Id": f"p{number}",
                        "Producer-Epoch": "0",
                        "Producer-Seq": str(sequence),
                    },
                )
            assert answer.status_code in (200, 204), f"{answer.status_code}: {answer.text}"
            if answer.status_code == 200:
                self.acknowledged[stream].append((message, answer.headers["Stream-Next-Offset"]))
            self.sent[number] += 1

    async def reader(self, number: int) -> None:
        offsets = dict.fromkeys([f"s{each}" for each in range(STREAMS)], "-1")
        while True:
            grown = False
            last = self.stopping.is_set()
            for stream, offset in offsets.items():
                answer = await self.ask("GET", stream, params={"offset": offset})
                if answer is not None:
                    assert answer.status_code == 200, answer.text
                    self.read[number, stream] += answer.content
                    offsets[stream] = answer.headers["Stream-Next-Offset"]
                    grown = grown or bool(answer.content)
                else:
                    grown = True
            if last and not grown:
                return

    async def judge(self) -> int:
        """See that all is as it was promised; the number of messages."""
        total = 0
        for number in range(STREAMS):
            stream = f"s{number}"
            content = bytearray()
            offset = "-1"
            while True:
                answer = await self.ask("GET", stream, params={"offset": offset})
                assert answer is not None
                content += answer.content
                offset = answer.headers["Stream-Next-Offset"]
                if not answer.content:
                    break
            seen: dict[int, int] = defaultdict(int)
            for line in content.splitlines():
                found = re.fullmatch(rb"(\d+)\.(\d+?)(\.*)", line)
                assert found, line
                producer, sequence = int(found[1]), int(found[2])
                assert sequence == seen[producer], (
                    f"{sequence} after {seen[producer]} of {producer}"
                )
                seen[producer] += 1
                total += 1
            for producer, count in seen.items():
                assert count == self.sent[producer], f"{count} of {self.sent[producer]} are there"
            for message, acknowledged in self.acknowledged[stream]:
                end = int(acknowledged.partition("_")[2])
                assert content[end - len(message) : end] == message, f"not at {acknowledged}"
            for reader in range(READERS):
                assert self.read[reader, stream] == content
        return total


@asynccontextmanager
async def hunting(directory: str, front_end: str) -> AsyncIterator[Hunt]:
    server = Server(directory, front_end)
    await server.start()
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(limits=limits, timeout=30) as client:
        yield Hunt(server, client)
        await server.stop()


async def hunt(kills: int, seed: int, front_end: str) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        async with hunting(directory, front_end) as hunt:
            for number in range(STREAMS):
                answer = await hunt.ask("PUT", f"s{number}", headers={"Content-Type": "text/plain"})
                assert answer is not None
            tasks = [asyncio.create_task(hunt.producer(number)) for number in range(PRODUCERS)]
            tasks += [asyncio.create_task(hunt.reader(number)) for number in range(READERS)]
            for count in range(kills):
                done, _ = await asyncio.wait(tasks, timeout=rng.uniform(0.02, 1.0))
                for task in done:
                    task.result()
                await hunt.server.kill()
                await hunt.server.start()
                print(f"\rkilled {count + 1} times", end="", flush=True)
            hunt.stopping.set()
            await asyncio.gather(*tasks)
            total = await hunt.judge()
            print(
                f", {total} messages each there once, {hunt.retries} requests failed and repeated"
            )
            print("last start:", hunt.server.recovered[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--front-end", default="standalone")
    options = parser.parse_args()
    asyncio.run(hunt(options.kills, options.seed, options.front_end))


if __name__ == "__main__":
    main()
