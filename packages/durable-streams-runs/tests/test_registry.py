"""The registry stays small, and is read anew when it is lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sources import SHORT_LEASE, Held, text, yielding

from durable_streams_runs import Runs, RunsUnavailable, Status, registry, snapshots
from durable_streams_runs.records import Entry, Snapshot, decode_records, encode_record
from durable_streams_runs.snapshots import encode_parts
from durable_streams_server import Engine, InvalidRequest


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


@pytest.mark.usefixtures("small_generations")
async def test_a_registry_that_is_larger_than_a_request_may_be_is_replaced_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server takes 400 bytes at once, and all running runs are several times as large."""
    monkeypatch.setattr(registry, "APPEND_BYTES", 300)
    monkeypatch.setattr(snapshots, "APPEND_BYTES", 300)
    monkeypatch.setattr(registry, "GROWTH", 0)

    class Strict(Engine):
        async def create(self, path: str, *, data: Any = None, **options: Any) -> Any:
            self.check(data)
            return await super().create(path, data=data, **options)

        async def append(self, path: str, data: Any, **options: Any) -> Any:
            self.check(data)
            return await super().append(path, data, **options)

        def check(self, data: Any) -> None:
            if isinstance(data, bytes) and len(data) > 400:
                raise InvalidRequest("This is too large.", code="too-large", status=413)

    async with Strict("memory:") as streams, Runs(streams, lease=0.5) as runs:
        held = [Held() for _ in range(30)]
        started = [await runs.start(f"r/{n:02}", held[n].stream()) for n in range(30)]
        while not await streams.list("runs/registry/3"):
            await asyncio.sleep(0.01)
        # A generation is at most the current one, the one before, and their parts.
        assert len(await generations(streams)) <= 5
        async with Runs(streams, lease=0.5) as others:
            listed = await others.list("r/")
            assert [(info.id, info.status) for info in listed] == [
                (run.id, Status.RUNNING) for run in started
            ]
        for each in held:
            each.finish()
        assert [(await run.wait()).status for run in started] == [Status.DONE] * 30


async def test_a_record_that_the_server_finds_too_large_fails_its_start_alone(
    memory: Engine,
) -> None:
    class Strict(Engine):
        async def append(self, path: str, data: Any, **options: Any) -> Any:
            if path.startswith("runs/registry/") and len(data) > 1_000:
                raise InvalidRequest("This is too large.", code="too-large", status=413)
            return await super().append(path, data, **options)

    async with Strict("memory:") as streams, Runs(streams, lease=SHORT_LEASE) as runs:

        @runs.task(restart=True)
        async def echo(_written: str, said: str) -> AsyncIterator[str]:
            yield said[:1]

        large, small = await asyncio.gather(
            runs.start("a", echo, args={"said": "x" * 5_000}),
            runs.start("b", echo, args={"said": "y"}),
            return_exceptions=True,
        )
        assert isinstance(large, RunsUnavailable)
        assert await text(small) == ("y", "done")


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


ENTRY = st.builds(
    Entry,
    id=st.text(max_size=30),
    number=st.integers(0, 9),
    worker=st.just("w"),
    format=st.just("text"),
)
ENDED = st.tuples(st.text(max_size=30), st.sampled_from(Status), st.none() | st.text(max_size=50))


@given(st.lists(ENTRY, max_size=30), st.lists(ENDED, max_size=30), st.integers(200, 2_000))
def test_the_parts_of_a_snapshot_are_small_and_all_of_it(
    entries: list[Entry], ended: list[Any], size: int
) -> None:
    snapshot = Snapshot(entries=entries, ended=ended, started=7)
    parts = encode_parts(snapshot, size)
    found = decode_records(b"[%b]" % b",".join(parts))
    assert [entry for part in found for entry in part.entries] == entries
    assert [end for part in found for end in part.ended] == ended
    assert {part.started for part in found} == {7}
    for part in parts:
        assert len(part) <= max(size, 1_000)
    if len(encode_record(snapshot)) <= size:
        assert len(parts) == 1
