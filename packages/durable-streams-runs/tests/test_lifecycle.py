"""A run is running, then exactly one of done, failed, stopped and interrupted."""

import asyncio
from typing import Any

import pytest
from sources import SHORT_LEASE, Held, output, text, yielding

from durable_streams_runs import JSON, RunFailed, RunInfo, RunNotFound, Runs, Status
from durable_streams_server import Engine, NotFound

WORDS = ["one ", "two ", "three"]


async def test_a_text_run_holds_its_text_and_ends_as_done(any_streams: Any) -> None:
    async with Runs(any_streams, lease=SHORT_LEASE) as runs:
        run = await runs.start("chats/1", yielding(WORDS))
        assert run.started
        assert await text(run) == ("one two three", "done")
        assert (await run.status()).status is Status.DONE
        assert (await run.wait()).status is Status.DONE


async def test_a_json_run_holds_its_messages_and_ends_as_done(any_streams: Any) -> None:
    items = [{"token": "a"}, ["b"], None, 1, "x"]
    async with Runs(any_streams, lease=SHORT_LEASE) as runs:
        run = await runs.start("chats/1", yielding(items), output=JSON)
        assert await output(run) == [*items, "done"]


async def test_a_stopped_run_is_closed_and_its_source_is_cancelled(any_streams: Any) -> None:
    held = Held()
    async with Runs(any_streams, lease=SHORT_LEASE) as runs:
        run = await runs.start("chats/1", held.stream())
        held.give("hello")
        ends = []
        async for part in run.follow():
            ends.append(part.end)
            if part.end is None:
                assert part.text == "hello"
                stopped = await run.stop()
        assert [end and end.status for end in ends] == [None, Status.STOPPED]
        assert stopped.status is Status.STOPPED
        await held.cancelled.wait()


async def test_an_end_is_in_the_stream_with_the_close(memory: Engine, runs: Runs) -> None:
    await (await runs.start("a", yielding(["x"]))).wait()
    await (await runs.start("b", yielding([1]), output=JSON)).wait()
    plain, messages = await memory.read("a"), await memory.read("b")
    assert plain.data == b'x\x1e{"type":"run-end","status":"done"}\n'
    assert list(messages) == [1, {"type": "run-end", "status": "done"}]
    assert plain.closed
    assert messages.closed


async def test_an_exception_is_recorded_without_its_details(
    runs: Runs, memory: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    held = Held()
    run = await runs.start("a", held.stream())
    held.give("partial", ValueError("password=hunter2"))
    info = await run.wait()
    assert info.status is Status.FAILED
    data = (await memory.read("a")).data
    assert data.startswith(b"partial\x1e")
    assert b"hunter2" not in data
    assert b"ValueError" not in data
    assert info.error is not None
    assert info.error.rpartition(" ")[2] in caplog.text
    assert "hunter2" in caplog.text


async def test_a_source_may_say_why_it_failed(runs: Runs) -> None:
    held = Held()
    held.give(RunFailed("Your quota is used up."))
    run = await runs.start("a", held.stream())
    assert (await run.wait()).error == "Your quota is used up."


async def test_a_source_that_raises_at_once_fails(runs: Runs) -> None:
    held = Held()
    held.give(ValueError())
    assert await text(await runs.start("a", held.stream())) == ("", "failed")


async def test_the_second_start_attaches_to_the_running_run(any_streams: Any) -> None:
    held, other = Held(), Held()
    async with Runs(any_streams, lease=SHORT_LEASE) as runs:
        first = await runs.start("chats/1", held.stream())
        second = await runs.start("chats/1", other.stream())
        assert (first.started, second.started) == (True, False)
        held.give("x")
        held.finish()
        assert await text(second) == ("x", "done")
        assert not other.begun.is_set()


async def test_starts_at_the_same_time_run_one_source(any_streams: Any) -> None:
    sources = [Held() for _ in range(5)]
    async with Runs(any_streams, lease=SHORT_LEASE) as runs:
        started = await asyncio.gather(
            *(runs.start("chats/1", source.stream()) for source in sources)
        )
        assert sum(run.started for run in started) == 1
        begun = [asyncio.create_task(source.begun.wait()) for source in sources]
        await asyncio.wait(begun, return_when=asyncio.FIRST_COMPLETED)
        assert sum(source.begun.is_set() for source in sources) == 1
        for task in begun:
            task.cancel()


async def test_a_start_after_the_end_gets_the_finished_run(any_streams: Any) -> None:
    async with Runs(any_streams, lease=SHORT_LEASE) as runs:
        await (await runs.start("chats/1", yielding(WORDS))).wait()
        again = await runs.start("chats/1", yielding(["other"]))
        assert not again.started
        assert await text(again) == ("one two three", "done")


async def test_a_start_after_a_stop_gets_the_stopped_run(runs: Runs) -> None:
    run = await runs.start("a", Held().stream())
    await run.stop()
    again = await runs.start("a", yielding(WORDS))
    assert not again.started
    assert (await again.status()).status is Status.STOPPED


async def test_a_stop_before_the_start_finds_no_run(runs: Runs) -> None:
    with pytest.raises(RunNotFound):
        await runs.stop("a")


async def test_a_stop_after_the_end_changes_nothing(runs: Runs) -> None:
    run = await runs.start("a", yielding(WORDS))
    await run.wait()
    assert (await run.stop()).status is Status.DONE


async def test_two_stops_at_once_end_a_run_once(runs: Runs, memory: Engine) -> None:
    run = await runs.start("a", Held().stream())
    first, second = await asyncio.gather(run.stop(), run.stop())
    assert first == second
    assert (await memory.read("a")).data.count(b"run-end") == 1


async def test_an_id_is_free_again_once_its_stream_is_deleted(runs: Runs, memory: Engine) -> None:
    await (await runs.start("a", yielding(["old"]))).wait()
    await memory.delete("a")
    run = await runs.start("a", yielding(["new"]))
    assert run.started
    assert await text(run) == ("new", "done")


async def test_a_run_whose_stream_is_deleted_is_gone(runs: Runs, memory: Engine) -> None:
    held = Held()
    run = await runs.start("a", held.stream())
    await memory.delete("a")
    held.give("x")
    await held.cancelled.wait()
    with pytest.raises(RunNotFound):
        await run.wait()
    while await runs.list():
        await asyncio.sleep(0)


async def test_following_resumes_at_an_offset(runs: Runs) -> None:
    held = Held()
    run = await runs.start("a", held.stream())
    held.give("one ")
    offset = ""
    async for part in run.follow():
        offset = part.offset
        break
    held.give("two")
    held.finish()
    rest = [part async for part in run.follow(offset)]
    assert "".join(part.text for part in rest) == "two"
    assert rest[-1].end is not None


async def test_runs_are_listed_by_id(runs: Runs) -> None:
    await runs.start("b/2", Held().stream())
    await (await runs.start("b/1", yielding([]))).wait()
    await runs.start("c", Held().stream())
    while (await runs.list("b/1"))[0].status is Status.RUNNING:
        await asyncio.sleep(0)

    def brief(listed: list[RunInfo]) -> list[tuple[str, str]]:
        return [(info.id, str(info.status)) for info in listed]

    assert brief(await runs.list("b/")) == [("b/1", "done"), ("b/2", "running")]
    assert brief(await runs.list(after="b/1", limit=1)) == [("b/2", "running")]


async def test_a_run_goes_on_when_whoever_started_it_is_cancelled(runs: Runs) -> None:
    held = Held()
    starting = asyncio.create_task(runs.start("a", held.stream()))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    held.give("x")
    held.finish()
    await held.begun.wait()
    assert (await runs.wait("a")).status is Status.DONE


async def test_a_shutdown_ends_runs_as_interrupted_after_what_they_yielded(
    any_streams: Any,
) -> None:
    held = Held()
    async with Runs(any_streams, lease=SHORT_LEASE) as runs:
        await runs.start("chats/1", held.stream())
        held.give("one ", "two")
        got = ""
        async for part in runs.follow("chats/1"):
            got += part.text
            if got == "one two":
                break
    await held.cancelled.wait()
    async with Runs(any_streams, lease=SHORT_LEASE) as runs:
        run = await runs.start("chats/1", yielding(["never"]))
        assert not run.started
        assert await text(run) == ("one two", "interrupted")


async def test_a_reader_may_come_before_the_stream_is_created() -> None:
    gate = asyncio.Event()

    class Slow(Engine):
        async def create(self, path: str, **kwargs: Any) -> Any:
            if path == "a":
                await gate.wait()
            return await super().create(path, **kwargs)

    async with Slow("memory:") as streams, Runs(streams, lease=SHORT_LEASE) as runs:
        starting = asyncio.create_task(runs.start("a", yielding(["x"])))
        while not await runs.list():
            await asyncio.sleep(0)
        waiting = asyncio.create_task(runs.wait("a"))
        attaching = asyncio.create_task(runs.start("a", yielding(["y"])))
        assert (await runs.status("a")).status is Status.RUNNING
        gate.set()
        assert (await waiting).status is Status.DONE
        assert [(await starting).started, (await attaching).started] == [True, False]


async def test_a_start_that_learns_late_of_a_deletion_leaves_the_new_run_alone() -> None:
    looks, gate = 0, asyncio.Event()

    class SlowSecondLook(Engine):
        async def head(self, path: str) -> Any:
            nonlocal looks
            try:
                return await super().head(path)
            except NotFound:
                looks += path == "a"
                if looks == 2:
                    await gate.wait()
                raise

    held = Held()
    async with SlowSecondLook("memory:") as streams, Runs(streams, lease=SHORT_LEASE) as runs:
        await (await runs.start("a", yielding(["old"]))).wait()
        while (await runs.list())[0].status is Status.RUNNING:
            await asyncio.sleep(0)
        await streams.delete("a")
        starts = {asyncio.create_task(runs.start("a", held.stream())) for _ in range(2)}
        (first,), (late,) = await asyncio.wait(starts, return_when=asyncio.FIRST_COMPLETED)
        gate.set()
        assert [(await first).started, (await late).started] == [True, False]
        held.give("new")
        held.finish()
        assert await text(await late) == ("new", "done")
