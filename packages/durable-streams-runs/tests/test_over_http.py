"""Runs of workers that reach the streams through a server."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sources import SHORT_LEASE, Held, text, with_counting, yielding

from durable_streams_client import AsyncClient
from durable_streams_runs import Limits, Runs, Status

IMPATIENT = Limits(patience=0.05)


@contextmanager
def serving(store: str, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A standalone server: its stream root and its process, which is killed at the end."""
    command = [sys.executable, "-m", "durable_streams_server", "--store", store]
    with subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        found = next(filter(None, (re.search(r"http://\S+:\d+", line) for line in process.stdout)))
        yield found[0] + "/v1/stream/", process
        process.kill()
        process.stdout.read()


@pytest.mark.parametrize("restart", [False, True])
async def test_another_worker_ends_or_restarts_the_runs_of_one_that_lost_its_connection(
    server: str, restart: bool
) -> None:
    root = f"{server}lost-{restart}/"
    held = Held()
    async with AsyncClient(root) as lost, AsyncClient(root) as alive:
        first = Runs(lost, lease=SHORT_LEASE, limits=IMPATIENT)
        second = Runs(alive, lease=SHORT_LEASE, limits=IMPATIENT)
        task = with_counting(first, held)
        with_counting(second, Held())
        async with first, second:
            await first.start("a", task, args={"to": 3})
            if not restart:
                await first.start("b", held.stream())
            got = ""
            async for part in second.follow("a"):
                got += part.text
                if got == "012":
                    break
            await lost.aclose()
            if restart:
                run = await second.start("a", yielding([]))
                assert await text(run) == ("012", "done")
            else:
                assert (await second.wait("b")).status is Status.INTERRUPTED


async def test_output_that_was_under_way_when_its_task_was_cancelled_is_stored_once(
    server: str,
) -> None:
    held = Held()
    async with AsyncClient(f"{server}cancelled/") as client:
        async with Runs(client, lease=SHORT_LEASE) as runs:
            run = await runs.start("a", held.stream())
            held.give("once")
            await asyncio.sleep(0)
            while not held.is_empty:
                await asyncio.sleep(0)
            for task in asyncio.all_tasks():
                if task.get_name() == "run a":
                    task.cancel()  # as `asyncio.run` does with all tasks when a program is ended
        async with Runs(client, lease=SHORT_LEASE) as runs:
            assert await text(await runs.start("a", yielding([]))) == ("once", "interrupted")
        assert run.started


async def test_a_server_that_is_killed_and_started_again_in_the_middle_loses_nothing(
    tmp_path: Path,
) -> None:
    held = Held()
    with serving(f"file:{tmp_path}") as (root, process):
        client = AsyncClient(root)
        runs = Runs(client, lease=60)
        await runs.__aenter__()
        run = await runs.start("a", held.stream())
        held.give("before ")
        async for part in run.follow():
            if part.text:
                break
        process.kill()
        process.wait()
        held.give("meanwhile ")
    port = int(root.rpartition(":")[2].partition("/")[0])
    with serving(f"file:{tmp_path}", port):
        held.give("after")
        held.finish()
        assert await text(run) == ("before meanwhile after", "done")
        await runs.__aexit__(None, None, None)
        await client.aclose()
