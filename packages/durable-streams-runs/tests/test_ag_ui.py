"""Runs as events of AG-UI, against the types and the encoder of the protocol's library."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sources import SHORT_LEASE, Held, output, yielding

from durable_streams_runs import RunFailed, Runs
from durable_streams_runs.adapters.ag_ui import AG_UI, events, sse
from durable_streams_server import Engine

# The library is imported where it is used: each process of the tests reads every module.
KINDS = [
    "RUN_STARTED",
    "TEXT_MESSAGE_START",
    "TEXT_MESSAGE_CONTENT",
    "TEXT_MESSAGE_CONTENT",
    "TEXT_MESSAGE_END",
    "RUN_FINISHED",
]


@pytest.fixture
async def runs(memory: Engine) -> AsyncIterator[Runs]:
    async with Runs(memory, lease=SHORT_LEASE, formats=[AG_UI]) as started:
        yield started


async def stored(memory: Engine, run_id: str) -> list[Any]:
    """The messages of the stream, as a client of the server reads them."""
    messages: list[Any] = json.loads((await memory.read(run_id)).data)
    return messages


async def body(parts: Any) -> str:
    """The response that a client of AG-UI gets."""
    return b"".join([each async for each in sse(parts)]).decode()


async def test_text_becomes_events_of_the_protocol(runs: Runs, memory: Engine) -> None:
    from ag_ui.core import Event
    from ag_ui.encoder import EventEncoder
    from pydantic import TypeAdapter

    words = events(yielding(["Hel", "", "lo"]), "t1", "r1")
    run = await runs.start("x", words, output=AG_UI)
    *items, status = await output(run)
    assert ([each["type"] for each in items], status) == (KINDS, "done")
    assert items[0].items() >= {"threadId": "t1", "runId": "r1"}.items()
    # The library reads each of them, the end included, and encodes them as they are.
    read: TypeAdapter[Any] = TypeAdapter(Event)
    parsed = [read.validate_python(each, by_name=False) for each in await stored(memory, "x")]
    encoder = EventEncoder()
    encoded = "".join(encoder.encode(each) for each in parsed[:-1])
    assert _data(encoded) == _data(await body(run.follow())) == items


def _data(sent: str) -> list[Any]:
    return [json.loads(each.removeprefix("data: ")) for each in sent.split("\n\n")[:-1]]


@pytest.mark.parametrize("how", ["failed", "stopped", "interrupted"])
async def test_the_last_event_says_how_a_run_ended(memory: Engine, how: str) -> None:
    from ag_ui.core import RunErrorEvent

    held = Held()
    held.give("Hel", *([RunFailed("Too long.")] if how == "failed" else []))
    async with Runs(memory, lease=SHORT_LEASE, formats=[AG_UI]) as runs:
        run = await runs.start("x", events(held.stream(), "t1"), output=AG_UI)
        async for part in run.follow():
            if any(each["type"] == KINDS[2] for each in part.items):
                break
        if how == "stopped":
            await run.stop()
        if how == "failed":
            await run.wait()
    async with Runs(memory, registry="other", formats=[AG_UI]) as runs:
        # These know nothing of the run but its stream.
        info = await runs.status("x")
        sent = _data(await body(runs.follow("x")))
    assert info.status == how
    last = RunErrorEvent.model_validate(sent[-1])
    assert (last.code, [each["type"] for each in sent]) == (how, [*KINDS[:3], "RUN_ERROR"])
    assert last.message == ("Too long." if how == "failed" else f"The run was {how}.")
    assert (await stored(memory, "x"))[-1] == sent[-1]


async def test_a_source_that_tells_of_an_error_fails_with_it(runs: Runs, memory: Engine) -> None:
    error = {"type": "RUN_ERROR", "message": "No.", "code": "E1"}
    run = await runs.start("x", yielding([{"type": "RUN_STARTED"}, error]), output=AG_UI)
    info = await run.wait()
    assert (info.status, info.error) == ("failed", "No.")
    assert (await stored(memory, "x"))[-1] == {**error, "code": "failed"}


@pytest.mark.parametrize(
    "item", [{"type": "RUN_ERROR"}, {"type": "RUN_ERROR", "message": 5}, [], ""]
)
async def test_an_error_without_a_sentence_and_what_is_not_an_event_fail_the_run(
    runs: Runs, item: object
) -> None:
    run = await runs.start("x", yielding([{"type": "RUN_STARTED"}, item]), output=AG_UI)
    assert (await run.wait()).status == "failed"


async def test_a_source_cannot_pretend_to_be_the_run(runs: Runs) -> None:
    end = {"type": "CUSTOM", "name": "run-end", "value": {"status": "done"}}
    run = await runs.start("x", yielding([end]), output=AG_UI)
    assert (await run.wait()).status == "failed"


async def test_the_example_answers_and_a_repeated_request_attaches(runs: Runs) -> None:
    from adapter_examples.ag_ui_answer import ask
    from ag_ui.core import RunAgentInput

    asked = RunAgentInput.model_validate(
        {"threadId": "t1", "runId": "r1", "messages": [], "tools": [], "context": []}
    )
    held = Held()
    held.give("Hel", "lo")
    held.finish()
    first = await ask(runs, asked, held.stream())
    second = await ask(runs, asked, yielding(["something else"]))
    sent = [b"".join([each async for each in each.body_iterator]) for each in (first, second)]
    assert sent[0] == sent[1]
    assert [each["type"] for each in _data(sent[0].decode())] == KINDS
