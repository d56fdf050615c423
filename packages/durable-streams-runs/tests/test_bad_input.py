"""What sources and callers may do wrong, and what comes of it."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from sources import SHORT_LEASE, Held, output, text, yielding

from durable_streams_runs import (
    JSON,
    TEXT,
    Format,
    JsonFormat,
    Limits,
    NotARun,
    RunFailed,
    RunNotFound,
    Runs,
    RunsUnavailable,
    Status,
)
from durable_streams_server import Engine, InvalidRequest


@pytest.mark.parametrize("wrong", [None, 1, b"bytes", {"a": 1}, ["x"], "\ud800"])
async def test_a_text_run_fails_for_what_is_not_text(runs: Runs, wrong: Any) -> None:
    run = await runs.start("a", yielding(["x", wrong, "y"]))
    assert await text(run) == ("x", "failed")


@pytest.mark.parametrize(
    "wrong",
    [
        math.nan,
        object(),
        {1, object()},
        {"type": "run-end", "status": "done"},
        {"type": "run-restart", "more": "\ud800"},
        msgspec.Raw(b'{"type":"\\u0072un-end"}'),
    ],
    ids=["nan", "object", "set", "end", "restart", "escaped end"],
)
async def test_a_json_run_fails_for_what_it_cannot_hold(runs: Runs, wrong: Any) -> None:
    run = await runs.start("a", yielding([1, wrong, 2]), output=JSON)
    assert await output(run) == [1, "failed"]


@pytest.mark.parametrize(
    "message", [{"type": ["run-end"]}, {"type": {"run-end": 1}}, {"said": "run-", "more": "\ud800"}]
)
async def test_a_message_that_only_resembles_an_end_is_output(runs: Runs, message: Any) -> None:
    run = await runs.start("a", yielding([message, {"said": '"run-end"'}]), output=JSON)
    assert await output(run) == [message, {"said": '"run-end"'}, "done"]


WRONG_TEXTS = ["\ud800", "x" * 20_000, "\x00" * 20_000, "😀" * 2_000_000]


@pytest.mark.parametrize("wrong", WRONG_TEXTS, ids=["surrogate", "long", "escaped", "megabytes"])
@pytest.mark.parametrize("form", [TEXT, JSON], ids=["text", "json"])
async def test_the_text_of_an_error_is_bounded_and_can_be_stored(
    runs: Runs, memory: Engine, form: Format, wrong: str
) -> None:
    held = Held()
    held.give("x", RunFailed(wrong))
    run = await runs.start("a", held.stream(), output=form)
    assert await output(run) == ["x", "failed"]
    error = (await run.wait()).error
    assert error == wrong[:1_000].replace("\ud800", "?")
    while (await runs.list())[0].status is Status.RUNNING:
        await asyncio.sleep(0)
    assert (await runs.status("a")).error == error
    assert (await memory.head("runs/registry/0")).size < 10_000


class WithoutText(RunFailed):
    def __str__(self) -> str:
        raise ValueError("it has none")


class Unusual(BaseException):
    pass


@pytest.mark.parametrize("error", [WithoutText(), RunFailed(1, 2), RunFailed(), Unusual()])
async def test_whatever_a_source_raises_ends_its_run(runs: Runs, error: BaseException) -> None:
    held = Held()
    held.give("x", error)
    assert await text(await runs.start("a", held.stream())) == ("x", "failed")


async def test_text_cannot_pretend_to_be_an_end(runs: Runs) -> None:
    forged = 'x\x1e{"type":"run-end","status":"failed"}\n'
    run = await runs.start("a", yielding([forged]))
    assert await text(run) == (forged.replace("\x1e", "\u241e"), "done")


async def test_empty_text_is_nothing(runs: Runs) -> None:
    assert await text(await runs.start("a", yielding(["", "x", ""]))) == ("x", "done")


async def endless() -> AsyncIterator[str]:
    while True:
        yield "x" * 100


async def test_a_source_that_never_ends_or_waits_can_be_stopped(runs: Runs) -> None:
    run = await runs.start("a", endless())
    async for part in run.follow():
        if part.end is None:
            await run.stop()
    assert part.end is not None
    assert part.end.status is Status.STOPPED


async def test_a_run_that_grows_too_large_fails(memory: Engine) -> None:
    limits = Limits(run_bytes=10_000, item_bytes=1_000)
    async with Runs(memory, lease=SHORT_LEASE, limits=limits) as runs:
        run = await runs.start("a", endless())
        written, status = await text(run)
        assert (len(written), status) == (10_000, "failed")
        assert await text(await runs.start("b", yielding(["x" * 1_001]))) == ("", "failed")


async def test_megabytes_arrive_whole(runs: Runs) -> None:
    pieces = [f"{n:05}" * 40_000 for n in range(10)]
    assert await text(await runs.start("a", yielding(pieces))) == ("".join(pieces), "done")


async def test_a_source_that_ignores_its_cancellation_writes_nothing_more(
    memory: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    given_up = asyncio.Event()

    async def stubborn() -> AsyncIterator[str]:
        yield "x"
        while not given_up.is_set():
            with suppress(asyncio.CancelledError):
                await given_up.wait()
        yield "late"

    async with Runs(memory, lease=SHORT_LEASE, limits=Limits(patience=0.01)) as runs:
        run = await runs.start("a", stubborn())
        async for part in run.follow():
            if part.end is None:
                await run.stop()
    given_up.set()
    assert (await memory.read("a")).data == b'x\x1e{"type":"run-end","status":"stopped"}\n'
    assert "ignores that it was cancelled" in caplog.text


async def test_a_source_that_cancels_itself_fails(runs: Runs) -> None:
    held = Held()
    held.give("x", asyncio.CancelledError())
    assert await text(await runs.start("a", held.stream())) == ("x", "failed")


@pytest.mark.parametrize(
    "run_id", ["a b", "ä/ü", "100%", "a?b#c", "<script>", "a..b", "x" * 1024, "日本/語"]
)
async def test_ids_are_paths_of_any_characters(any_streams: Any, run_id: str) -> None:
    async with Runs(any_streams, lease=SHORT_LEASE) as runs:
        try:
            run = await runs.start(run_id, yielding(["x"]))
        except InvalidRequest:
            assert len(run_id) == 1024  # a server may count the root as well
            return
        assert await text(run) == ("x", "done")
        assert (await runs.status(run_id)).status is Status.DONE


@pytest.mark.parametrize("run_id", ["", "/a", "a//b", "a/../b", "a\nb", "x" * 1025, "\ud800"])
async def test_an_id_that_no_stream_can_have_is_refused(runs: Runs, run_id: str) -> None:
    held = Held()
    with pytest.raises(InvalidRequest):
        await runs.start(run_id, held.stream())
    for call in (runs.status, runs.stop):
        with pytest.raises(RunNotFound):
            await call(run_id)
    assert not held.begun.is_set()


@pytest.mark.parametrize("run_id", ["runs/registry", "runs/registry/0"])
async def test_the_registry_is_not_a_run(runs: Runs, run_id: str) -> None:
    with pytest.raises(InvalidRequest):
        await runs.start(run_id, yielding([]))


@pytest.mark.parametrize("content_type", ["text/plain; charset=utf-8", "application/json", "a/b"])
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("data", [None, b"[1]"])
async def test_a_stream_that_is_not_a_run_is_left_alone(
    runs: Runs, memory: Engine, content_type: str, closed: bool, data: bytes | None
) -> None:
    await memory.create("a", content_type=content_type, data=data, closed=closed)
    held = Held()
    with pytest.raises(NotARun):
        await runs.start("a", held.stream())
    with pytest.raises(NotARun):
        await runs.status("a")
    with pytest.raises(NotARun):
        await runs.stop("a")
    assert not held.begun.is_set()
    assert (await memory.head("a")).closed is closed
    assert not await runs.list()


async def test_a_stream_that_somebody_else_closes_counts_as_interrupted(
    runs: Runs, memory: Engine
) -> None:
    held = Held()
    run = await runs.start("a", held.stream())
    held.give("x")
    async for part in run.follow():
        if part.end is None:
            await memory.close_stream("a", b"foreign")
    held.give("y")
    await held.cancelled.wait()
    assert (await run.status()).status is Status.INTERRUPTED
    assert await text(run) == ("xforeign", "interrupted")


@pytest.mark.parametrize("source", [None, "text", [1], yielding, iter("x")])
async def test_what_is_not_an_asynchronous_iterator_is_refused(runs: Runs, source: Any) -> None:
    with pytest.raises(TypeError, match="asynchronous iterator"):
        await runs.start("a", source)
    with pytest.raises(RunNotFound):
        await runs.status("a")


async def test_arguments_belong_to_tasks(runs: Runs) -> None:
    with pytest.raises(TypeError):
        await runs.start("a", yielding([]), args={})

    @runs.task(restart=True)
    async def echo(written: str, said: Any = "") -> AsyncIterator[str]:
        yield said

    with pytest.raises(ValueError, match="args are larger"):
        await runs.start("a", echo, args={"said": "x" * 20_000})
    with pytest.raises(TypeError):
        await runs.start("a", echo, args={"unknown": 1})
    with pytest.raises(TypeError):
        await runs.start("a", echo, args={"said": object()})
    assert not await runs.list()
    with pytest.raises(ValueError, match="already"):
        runs.task(name="echo")(endless)


async def test_a_format_must_be_known_to_the_service(memory: Engine) -> None:
    class Loud(JsonFormat):
        name = "loud"

        def restart(self) -> None:
            return None

    async with Runs(memory, lease=SHORT_LEASE) as runs:
        with pytest.raises(ValueError, match="loud"):
            await runs.start("a", yielding([]), output=Loud())
        with pytest.raises(ValueError, match="cannot be restarted"):
            runs.task(output=Loud(), restart=True)(endless)


@pytest.mark.parametrize("ttl", [0, -1])
async def test_a_lifetime_that_no_stream_can_have_is_refused(runs: Runs, ttl: int) -> None:
    with pytest.raises(InvalidRequest):
        await runs.start("a", yielding([]), ttl=ttl)


async def test_a_service_starts_no_more_than_it_may(memory: Engine) -> None:
    async with Runs(memory, lease=SHORT_LEASE, limits=Limits(running=1)) as runs:
        await runs.start("a", Held().stream())
        with pytest.raises(RunsUnavailable):
            await runs.start("b", Held().stream())
        assert not (await runs.start("a", Held().stream())).started
        await runs.stop("a")
        assert (await runs.start("b", Held().stream())).started


async def test_runs_that_are_not_started_say_so(memory: Engine) -> None:
    runs = Runs(memory)
    with pytest.raises(RunsUnavailable):
        await runs.start("a", yielding([]))
    with pytest.raises(RunsUnavailable):
        await runs.status("a")


async def test_arguments_of_runs_that_have_no_meaning_are_refused(memory: Engine) -> None:
    with pytest.raises(TypeError, match="Engine or an AsyncClient"):
        Runs("memory:")
    with pytest.raises(ValueError, match="lease"):
        Runs(memory, lease=0)


def test_the_two_formats_have_names() -> None:
    assert (TEXT.name, JSON.name) == ("text", "json")
