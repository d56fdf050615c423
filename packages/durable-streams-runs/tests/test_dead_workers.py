"""A run whose worker dies is ended or restarted by another process, and the dead stay silent."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from sources import SHORT_LEASE, Held, output, text, yielding

from durable_streams_redis import RedisStore
from durable_streams_runs import JSON, Limits, Runs, RunsUnavailable, Status
from durable_streams_server import Engine, Unavailable

IMPATIENT = Limits(patience=0.05)
"""A worker whose store is away cannot hand over, and does not try for long."""

Make = Callable[[], Engine]


class Process:
    """A process of a service: an engine of its own over the shared store, and runs."""

    def __init__(self, make: Make) -> None:
        self.engine = make()
        self.runs = Runs(self.engine, lease=SHORT_LEASE, limits=IMPATIENT)
        self.restarted: list[Any] = []
        self.held = Held()

        @self.runs.task(restart=True)
        async def counting(written: str, to: int) -> AsyncIterator[str]:
            self.restarted.append(written)
            for n in range(len(written), to):
                yield str(n)
            if not written:
                async for item in self.held.stream():
                    yield item

        @self.runs.task(restart=True, output=JSON)
        async def listing(written: list[Any]) -> AsyncIterator[Any]:
            self.restarted.append(written)
            yield len(written)
            async for item in self.held.stream():
                yield item

        self.counting, self.listing = counting, listing

    async def lose_network(self) -> None:
        await self.engine.stop()

    async def find_network(self) -> None:
        await self.engine.start()


@pytest.fixture
async def process(shared: Make) -> AsyncIterator[Callable[[], Any]]:
    """Start processes."""
    async with AsyncExitStack() as stack:

        async def start() -> Process:
            made = Process(shared)
            await stack.enter_async_context(made.engine)
            await stack.enter_async_context(made.runs)
            return made

        yield start


async def reach(process: Process, run_id: str, wanted: str) -> None:
    """Wait until a run holds a text."""
    got = ""
    async for part in process.runs.follow(run_id):
        got += part.text
        if got == wanted:
            return


async def test_the_run_of_a_dead_worker_ends_as_interrupted(process: Any) -> None:
    first, second = await process(), await process()
    await first.runs.start("a", first.held.stream())
    first.held.give("partial")
    await reach(second, "a", "partial")
    await first.lose_network()
    assert (await second.runs.wait("a")).status is Status.INTERRUPTED


async def test_a_worker_that_wakes_up_writes_nothing_and_can_start_again(process: Any) -> None:
    first, second = await process(), await process()
    await first.runs.start("a", first.held.stream())
    first.held.give("partial")
    await reach(second, "a", "partial")
    await first.lose_network()
    await second.runs.wait("a")
    await first.find_network()
    first.held.give("late")
    await first.held.cancelled.wait()
    assert await text(await second.runs.start("a", yielding([]))) == ("partial", "interrupted")
    while True:
        try:
            run = await first.runs.start("b", yielding(["new"]))
            break
        except RunsUnavailable:
            await asyncio.sleep(0.01)
    assert await text(run) == ("new", "done")


async def test_a_restartable_run_goes_on_elsewhere_with_what_was_written(process: Any) -> None:
    first, second = await process(), await process()
    await first.runs.start("a", first.counting, args={"to": 3})
    await reach(second, "a", "012")
    await first.lose_network()
    run = await second.runs.start("a", yielding([]))
    assert not run.started
    assert await text(run) == ("012", "done")
    assert second.restarted == ["012"]


async def test_a_restarted_worker_that_wakes_up_adds_nothing(process: Any) -> None:
    first, second = await process(), await process()
    await first.runs.start("a", first.listing)
    first.held.give("x")
    async for part in second.runs.follow("a"):
        if "x" in part.items:
            break
    await first.lose_network()
    first.held.give("late")
    while not second.restarted:
        await asyncio.sleep(0.01)
    await first.find_network()
    await first.held.cancelled.wait()
    second.held.give("y")
    second.held.finish()
    run = await second.runs.start("a", yielding([]))
    assert await output(run) == [0, "x", 2, "y", "done"]


async def test_a_run_that_kills_its_workers_is_not_restarted_for_ever(shared: Make) -> None:
    async with Process(shared).engine as reading, AsyncExitStack() as stack:
        for n in range(IMPATIENT.restarts + 2):
            process = Process(shared)
            await process.engine.start()
            await stack.enter_async_context(process.runs)
            if n == 0:
                await process.runs.start("a", process.listing)
            elif n <= IMPATIENT.restarts:
                while not process.restarted:
                    await asyncio.sleep(0.01)
            else:
                assert (await process.runs.wait("a")).status is Status.INTERRUPTED
                assert not process.restarted
            await process.lose_network()
        assert (await reading.read("a")).data.count(b"run-restart") == IMPATIENT.restarts


async def test_a_shutdown_hands_restartable_runs_over_at_once(shared: Make) -> None:
    first, second = Process(shared), Process(shared)
    # Heartbeats alone would take an hour to tell.
    first.runs, second.runs = (Runs(each.engine, lease=3600) for each in (first, second))
    for each in (first, second):

        @each.runs.task(restart=True)
        async def waiting(written: str, each: Process = each) -> AsyncIterator[str]:
            yield f"{len(written)};"
            async for item in each.held.stream():
                yield item

    async with first.engine, second.engine, second.runs:
        async with first.runs:
            await first.runs.start("a", first.runs.tasks()["waiting"])
            await reach(second, "a", "0;")
        second.held.finish()
        assert (await second.runs.wait("a")).status is Status.DONE
        assert await text(await second.runs.start("a", yielding([]))) == ("0;2;", "done")


async def test_two_starts_from_two_processes_run_one_source(process: Any) -> None:
    first, second = await process(), await process()
    runs = await asyncio.gather(
        first.runs.start("a", first.held.stream()), second.runs.start("a", second.held.stream())
    )
    assert sum(run.started for run in runs) == 1
    owner = (first, second)[runs[1].started]
    owner.held.give("x")
    owner.held.finish()
    assert await text(runs[0]) == await text(runs[1]) == ("x", "done")


async def test_a_stop_from_another_process_reaches_the_source(process: Any) -> None:
    first, second = await process(), await process()
    await first.runs.start("a", first.held.stream())
    assert (await second.runs.stop("a")).status is Status.STOPPED
    await first.held.cancelled.wait()
    assert (await first.runs.status("a")).status is Status.STOPPED


async def test_a_worker_that_dies_before_it_has_created_the_stream(shared: Make) -> None:
    begun = asyncio.Event()

    class Stuck(Engine):
        async def create(self, path: str, **kwargs: Any) -> Any:
            if path == "a":
                begun.set()
                await asyncio.Event().wait()
            return await super().create(path, **kwargs)

    engine = Stuck(shared().store)
    async with engine, shared() as healthy:
        dead = Runs(engine, lease=SHORT_LEASE, limits=IMPATIENT)
        async with dead, Runs(healthy, lease=SHORT_LEASE) as runs:
            starting = asyncio.create_task(dead.start("a", Held().stream()))
            await begun.wait()
            await engine.stop()
            run = await runs.start("a", yielding(["never"]))
            assert not run.started
            assert await text(run) == ("", "interrupted")
            starting.cancel()


ANOTHER_PROCESS = """
import asyncio, sys
import redis.asyncio
from durable_streams_redis import RedisStore
from durable_streams_runs import Runs
from durable_streams_server import Engine

async def counting():
    n = 0
    try:
        while True:
            yield f"{n} "
            n += 1
            await asyncio.sleep(0.001)
    finally:
        print("cancelled", flush=True)

async def main():
    store = RedisStore(redis.asyncio.Redis.from_url(sys.argv[1]), prefix="suspended")
    async with Engine(store) as streams, Runs(streams, lease=float(sys.argv[2])) as runs:
        await runs.start("a", counting())
        print("started", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def suspendable(valkey: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has started a run."""
    with subprocess.Popen(
        [sys.executable, "-c", ANOTHER_PROCESS, valkey, str(SHORT_LEASE)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield process
        process.kill()


async def test_a_process_that_was_suspended_adds_nothing_when_it_wakes_up(
    valkey: str, suspendable: subprocess.Popen[str]
) -> None:
    assert suspendable.stdout is not None
    store = RedisStore(redis.asyncio.Redis.from_url(valkey), prefix="suspended")
    async with Engine(store) as streams, Runs(streams, lease=SHORT_LEASE) as runs:
        suspendable.send_signal(signal.SIGSTOP)
        assert (await runs.wait("a")).status is Status.INTERRUPTED
        final = (await streams.head("a")).offset
        suspendable.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(suspendable.stdout.readline) == "cancelled\n"
        assert (await streams.head("a")).offset == final
        written, status = await text(await runs.start("a", yielding([])))
        assert status == "interrupted"
        assert "".join(f"{n} " for n in range(100_000)).startswith(written)


ONE_PROCESS = """
import asyncio, sys
from durable_streams_runs import Runs
from durable_streams_server import Engine

async def endless():
    yield "partial"
    await asyncio.Event().wait()

async def main():
    async with Engine("file:" + sys.argv[1]) as streams, Runs(streams, lease=3600) as runs:
        run = await runs.start("a", endless())
        async for part in run.follow():
            print(part.text, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The files of a process that was killed in the middle of a run."""
    with subprocess.Popen(
        [sys.executable, "-c", ONE_PROCESS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "partial\n"
        os.kill(process.pid, signal.SIGKILL)
    return tmp_path


async def test_on_files_the_runs_of_a_killed_process_end_when_the_next_one_starts(
    killed: Path,
) -> None:
    # Its heartbeats would be missed only after an hour.
    async with Engine(f"file:{killed}") as streams, Runs(streams, lease=3600) as runs:
        assert (await runs.wait("a")).status is Status.INTERRUPTED
        assert await text(await runs.start("a", yielding([]))) == ("partial", "interrupted")


async def test_one_that_repeats_the_end_does_not_take_the_end_of_another_for_its_own(
    process: Any, shared: Make
) -> None:
    sent, answered = asyncio.Event(), asyncio.Event()

    class LostRequest(Engine):
        async def append(self, path: str, *args: Any, **kwargs: Any) -> Any:
            if path == "a" and not sent.is_set():
                sent.set()
                await answered.wait()
                raise Unavailable("the connection broke", code="outcome-unknown")
            return await super().append(path, *args, **kwargs)

    owner, other = await process(), await process()
    await owner.runs.start("a", owner.held.stream())
    async with LostRequest(shared().store) as streams, Runs(streams, lease=SHORT_LEASE) as runs:
        stopping = asyncio.create_task(runs.stop("a"))
        await sent.wait()
        # Its worker dies, so that another process ends the run.
        await owner.lose_network()
        assert (await other.runs.wait("a")).status is Status.INTERRUPTED
        answered.set()
        assert (await stopping).status is Status.INTERRUPTED
        assert (await runs.status("a")).status is Status.INTERRUPTED
