"""The registry stays small, and is read anew when it is lost."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sources import SHORT_LEASE, Held, text, yielding

from durable_streams_runs import Runs, Status, registry
from durable_streams_server import Engine


async def generations(engine: Engine) -> list[str]:
    return [info.path for info in await engine.list("runs/registry/")]


@pytest.fixture
def small_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "GENERATION_BYTES", 1)


@pytest.mark.usefixtures("small_generations")
async def test_a_registry_that_grows_is_replaced_and_old_ones_are_deleted(
    memory: Engine,
) -> None:
    async with Runs(memory, lease=0.5) as runs:
        held = Held()
        running = await runs.start("running", held.stream())
        await (await runs.start("done", yielding(["x"]))).wait()
        while "runs/registry/3" not in await generations(memory):
            await asyncio.sleep(0.01)
        assert len(await generations(memory)) <= 3
        held.give("y")
        held.finish()
        assert await text(running) == ("y", "done")
        assert (await runs.status("done")).status is Status.DONE
    async with Runs(memory, lease=0.5) as runs:
        assert [info.id for info in await runs.list()] == ["done", "running"]


@pytest.mark.usefixtures("small_generations")
async def test_starts_during_replacements_are_lost_by_nobody(
    shared: Callable[[], Engine],
) -> None:
    async with shared() as one, shared() as two:
        async with Runs(one, lease=0.5) as first, Runs(two, lease=0.5) as second:
            for n in range(20):
                both = await asyncio.gather(
                    first.start(f"{n}", yielding(["x"])), second.start(f"{n}", yielding(["x"]))
                )
                assert sum(run.started for run in both) == 1
                assert await text(both[0]) == ("x", "done")
            for runs in (first, second):
                while {info.status for info in await runs.list()} != {Status.DONE}:
                    await asyncio.sleep(0.01)


async def test_a_registry_that_was_deleted_is_made_anew(memory: Engine) -> None:
    async with Runs(memory, lease=SHORT_LEASE) as runs:
        held = Held()
        run = await runs.start("a", held.stream())
        await memory.delete("runs/registry/0")
        other = await runs.start("b", yielding(["y"]))
        assert await text(other) == ("y", "done")
        held.give("x")
        held.finish()
        assert await text(run) == ("x", "done")


async def test_messages_that_are_not_records_are_ignored(memory: Engine) -> None:
    async with Runs(memory, lease=SHORT_LEASE) as runs:
        wrong: list[Any] = [1, None, {"t": "beat"}, {"t": "end", "w": "x", "n": "1"}, {"t": "?"}]
        for message in wrong:
            await memory.append("runs/registry/0", message)
        assert await text(await runs.start("a", yielding(["x"]))) == ("x", "done")


async def test_a_heartbeat_is_the_only_traffic_of_running_runs(memory: Engine) -> None:
    async with Runs(memory, lease=0.5) as runs:
        for n in range(200):
            await runs.start(f"{n}", Held().stream())
        before = (await memory.head("runs/registry/0")).size
        await asyncio.sleep(0.35)
        # Three or four heartbeats of one worker.
        assert (await memory.head("runs/registry/0")).size - before < 300
