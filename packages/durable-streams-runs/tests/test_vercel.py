"""Runs as UI message streams of the Vercel AI SDK.

`nox -s transports` tests that the SDK itself shows them.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from adapter_examples.vercel_chat import ask, resume
from sources import SHORT_LEASE, Held, output, yielding

from durable_streams_runs import JSON, RunFailed, Runs
from durable_streams_runs.adapters.vercel import HEADERS, UI_MESSAGES, events, sse
from durable_streams_server import Engine

MESSAGE = [
    {"type": "start", "messageId": "m1"},
    {"type": "start-step"},
    {"type": "text-start", "id": "text-1"},
    {"type": "text-delta", "id": "text-1", "delta": "Hel"},
    {"type": "text-delta", "id": "text-1", "delta": "lo"},
    {"type": "text-end", "id": "text-1"},
    {"type": "finish-step"},
    {"type": "finish"},
]


@pytest.fixture
async def runs(memory: Engine) -> AsyncIterator[Runs]:
    async with Runs(memory, lease=SHORT_LEASE, formats=[UI_MESSAGES]) as started:
        yield started


async def stored(memory: Engine, run_id: str) -> list[Any]:
    """The messages of the stream, as a client of the server reads them."""
    messages: list[Any] = json.loads((await memory.read(run_id)).data)
    return messages


async def body(runs: Runs, run_id: str) -> list[Any]:
    """What useChat reads: the data of the events."""
    sent = b"".join([each async for each in sse(runs.follow(run_id))]).decode()
    assert sent.endswith("data: [DONE]\n\n")
    events = sent.removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def test_text_becomes_the_chunks_of_a_message(runs: Runs, memory: Engine) -> None:
    words = events(yielding(["Hel", "", "lo"]), message_id="m1")
    run = await runs.start("x", words, output=UI_MESSAGES)
    assert await output(run) == [*MESSAGE, "done"]
    *chunks, end = await stored(memory, "x")
    assert chunks == MESSAGE
    assert end == {"type": "data-run-end", "data": {"status": "done"}, "transient": True}
    assert await body(runs, "x") == MESSAGE


@pytest.mark.parametrize(
    "how, last, status",
    [
        ("raises", {"type": "error", "errorText": "Too long."}, "failed"),
        ("stop", {"type": "abort"}, "stopped"),
        ("shutdown", {"type": "error", "errorText": "The run was interrupted."}, "interrupted"),
    ],
)
async def test_the_last_chunk_says_how_a_run_ended(
    memory: Engine, how: str, last: dict[str, Any], status: str
) -> None:
    held = Held()
    held.give("Hel", *([RunFailed("Too long.")] if how == "raises" else []))
    async with Runs(memory, lease=SHORT_LEASE, formats=[UI_MESSAGES]) as runs:
        chunks = events(held.stream(), message_id="m1")
        run = await runs.start("x", chunks, output=UI_MESSAGES)
        async for part in run.follow():
            if MESSAGE[3] in part.items:
                break
        if how == "stop":
            await run.stop()
        if how == "raises":
            await run.wait()
    async with Runs(memory, registry="other", formats=[UI_MESSAGES]) as runs:
        # These know nothing of the run but its stream.
        assert (await runs.status("x")).status == status
        assert await body(runs, "x") == [*MESSAGE[:4], last]
    assert (await stored(memory, "x"))[-1] == last


@pytest.mark.parametrize(
    "chunk, error",
    [
        ({"type": "error", "errorText": "No."}, "No."),
        ({"type": "abort", "reason": "Too slow."}, "Too slow."),
        ({"type": "abort"}, "The answer was aborted."),
        ({"type": "abort", "reason": [1]}, "The answer was aborted."),
        ({"type": "error"}, "The run failed."),
        ({"type": "error", "errorText": 5}, "The run failed."),
    ],
)
async def test_a_source_that_tells_of_an_error_fails_with_it(
    runs: Runs, memory: Engine, chunk: dict[str, Any], error: str
) -> None:
    held = Held()
    held.give(MESSAGE[0], chunk, {"type": "finish"})
    run = await runs.start("x", held.stream(), output=UI_MESSAGES)
    info = await run.wait()
    assert (info.status, info.error) == ("failed", error)
    assert await stored(memory, "x") == [MESSAGE[0], {"type": "error", "errorText": error}]
    await held.cancelled.wait()


@pytest.mark.parametrize("item", ["text", [MESSAGE[0]], None, 1])
async def test_what_is_not_a_chunk_fails_the_run_and_not_its_readers(
    runs: Runs, memory: Engine, item: object
) -> None:
    run = await runs.start("x", yielding([MESSAGE[0], item]), output=UI_MESSAGES)
    assert (await run.wait()).status == "failed"
    assert [each["type"] for each in await stored(memory, "x")] == [MESSAGE[0]["type"], "error"]


async def test_a_source_cannot_pretend_to_be_the_run(runs: Runs) -> None:
    end = {"type": "data-run-end", "data": {"status": "done"}, "transient": True}
    run = await runs.start("x", yielding([end]), output=UI_MESSAGES)
    assert (await run.wait()).status == "failed"


async def test_a_task_of_this_format_is_not_restarted(runs: Runs) -> None:
    with pytest.raises(ValueError, match="cannot be restarted"):
        runs.task(output=UI_MESSAGES, restart=True)(yielding)


async def test_silence_is_filled_with_comments(runs: Runs) -> None:
    held = Held()
    run = await runs.start("x", held.stream(), output=UI_MESSAGES)
    response = sse(run.follow(), keep_alive=0.001)
    assert [await anext(response) for _ in range(3)] == [b": keep-alive\n\n"] * 3
    held.give(MESSAGE[0])
    held.finish()
    rest = b"".join([each async for each in response if not each.startswith(b":")])
    assert rest.startswith(b'data: {"type":"start","messageId":"m1"}\n\n')


async def test_a_client_that_leaves_leaves_the_run_alone(runs: Runs) -> None:
    held = Held()
    held.give(MESSAGE[0])
    run = await runs.start("x", held.stream(), output=UI_MESSAGES)
    response = sse(run.follow())
    await anext(response)
    leaving = asyncio.ensure_future(anext(response))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert (await run.status()).status == "running"
    held.give(*MESSAGE[1:])
    held.finish()
    assert await body(runs, "x") == MESSAGE


async def test_a_run_of_another_format_is_refused(runs: Runs) -> None:
    run = await runs.start("x", yielding([["not a chunk"]]), output=JSON)
    with pytest.raises(TypeError, match="not started with the format 'vercel-ui-messages'"):
        await anext(sse(run.follow()))


async def test_the_example_answers_and_resumes(runs: Runs) -> None:
    held = Held()
    held.give("Hel")
    asked = await ask(runs, "c1", held.stream())
    assert HEADERS.items() <= dict(asked.headers).items()
    resumed = await resume(runs, "c1")
    assert (await resume(runs, "c2")).status_code == 204
    held.give("lo")
    held.finish()
    first, second = [
        [each async for each in response.body_iterator] for response in (asked, resumed)
    ]  # type: ignore[attr-defined]
    assert b"".join(first) == b"".join(second)
    assert (await resume(runs, "c1")).status_code == 204


async def test_output_of_another_run_may_look_like_an_end(runs: Runs) -> None:
    """Of an ended run only the content type says how to read it, and JSON runs have the same."""
    messages = [{"type": "abort"}, {"type": "x"}, {"type": "error", "errorText": "No."}]
    run = await runs.start("x", yielding(messages), output=JSON)
    await run.wait()
    assert await output(run) == [*messages, "done"]
