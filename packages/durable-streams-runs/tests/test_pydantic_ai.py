"""Streams of pydantic-ai as runs, against the library and its function model."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sources import SHORT_LEASE, Held, output, text

from durable_streams_runs import JSON, Runs
from durable_streams_runs.adapters import pydantic_ai
from durable_streams_runs.adapters.ag_ui import AG_UI
from durable_streams_runs.adapters.vercel import UI_MESSAGES
from durable_streams_server import Engine

# The libraries are imported where they are used: each process of the tests reads every module.


@pytest.fixture
async def runs(memory: Engine) -> AsyncIterator[Runs]:
    async with Runs(memory, lease=SHORT_LEASE, formats=[AG_UI, UI_MESSAGES]) as started:
        yield started


@pytest.fixture
def held() -> Held:
    """The words of the model."""
    return Held()


@pytest.fixture
def agent(held: Held) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.function import FunctionModel

    async def answer(messages: Any, info: Any) -> AsyncIterator[str]:
        async for word in held.stream():
            yield word

    return Agent(FunctionModel(stream_function=answer))


def say(held: Held, *words: str) -> None:
    held.give(*words)
    held.finish()


def open_stream(agent: Any, by: str) -> Any:
    return getattr(agent, by)("Hello?")


BY = pytest.mark.parametrize("by", ["run_stream", "run_stream_events"])


async def test_an_answer_is_a_text_run(runs: Runs, held: Held, agent: Any) -> None:
    from adapter_examples.pydantic_ai_answer import ask

    say(held, "Hel", "lo")
    assert await text(await ask(runs, agent, "answers/1", "Hello?")) == ("Hello", "done")


async def test_the_events_of_an_agent_have_its_text_and_are_stored(
    runs: Runs, held: Held, agent: Any
) -> None:
    say(held, "Hel", "lo")
    run = await runs.start("text", pydantic_ai.text(open_stream(agent, "run_stream_events")))
    assert await text(run) == ("Hello", "done")
    say(held, "Hel", "lo")
    source = pydantic_ai.events(open_stream(agent, "run_stream_events"))
    *stored, last, status = await output(await runs.start("events", source, output=JSON))
    assert status == "done"
    kinds = [event["event_kind"] for event in stored]
    assert kinds == ["part_start", "final_result", "part_delta", "part_end"]
    assert stored[2]["delta"]["content_delta"] == "lo"
    assert last == {"event_kind": "agent_run_result", "output": "Hello"}


async def test_an_agent_with_a_tool_has_the_text_of_all_its_turns(runs: Runs) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.function import DeltaToolCall, FunctionModel

    async def answer(messages: Any, info: Any) -> AsyncIterator[Any]:
        if len(messages) == 1:
            yield "Let me see. "
            yield {1: DeltaToolCall(name="weather", json_args="{}", tool_call_id="t1")}
        else:
            yield "Rain."

    agent = Agent(FunctionModel(stream_function=answer))

    @agent.tool_plain
    def weather() -> str:
        return "rain"

    run = await runs.start("text", pydantic_ai.text(agent.run_stream_events("Weather?")))
    assert await text(run) == ("Let me see. Rain.", "done")
    source = pydantic_ai.events(agent.run_stream_events("Weather?"))
    stored = await output(await runs.start("events", source, output=JSON))
    results = [event for event in stored[:-1] if event["event_kind"] == "function_tool_result"]
    assert results[0]["part"]["content"] == "rain"


async def test_what_has_no_events_is_refused(runs: Runs, held: Held, agent: Any) -> None:
    say(held, "Hello")
    source = pydantic_ai.events(open_stream(agent, "run_stream"))
    assert await output(await runs.start("x", source, output=JSON)) == ["failed"]


@BY
async def test_a_model_that_raises_makes_a_failed_run(
    runs: Runs, held: Held, agent: Any, by: str
) -> None:
    held.give("Hel", OSError("internal secret"))
    run = await runs.start("answers/1", pydantic_ai.text(open_stream(agent, by)))
    assert await text(run) == ("Hel", "failed")
    assert "secret" not in str((await run.status()).error)


@BY
async def test_a_stop_ends_the_call_of_the_model(
    runs: Runs, held: Held, agent: Any, by: str
) -> None:
    held.give("Hel")
    run = await runs.start("answers/1", pydantic_ai.text(open_stream(agent, by)))
    await anext(aiter(run.follow()))
    await run.stop()
    await held.cancelled.wait()


@BY
async def test_a_start_that_attaches_calls_no_model(
    runs: Runs, held: Held, agent: Any, by: str
) -> None:
    first = Held()
    await runs.start("answers/1", first.stream())
    source = pydantic_ai.text(open_stream(agent, by))
    assert not (await runs.start("answers/1", source)).started
    assert not held.begun.is_set()


BODY = (
    b'{"trigger": "submit-message", "id": "c1", "messages": [{"id": "u1", "role": "user",'
    b' "parts": [{"type": "text", "text": "Hello?"}]}]}'
)


async def test_the_chunks_of_the_vercel_adapter_are_a_run_for_use_chat(
    runs: Runs, held: Held, agent: Any
) -> None:
    from adapter_examples.pydantic_ai_answer import ask_in_chat

    say(held, "Hel", "lo")
    stored = await output(await ask_in_chat(runs, agent, "answers/1", BODY))
    assert stored[0] == {"type": "start", "messageId": "answers/1"}
    assert [each["delta"] for each in stored if "delta" in each] == ["Hel", "lo"]
    assert [each["type"] for each in stored[-3:-1]] == ["finish-step", "finish"]
    assert stored[-1] == "done"


def ag_ui_stream(agent: Any) -> Any:
    from ag_ui.core import RunAgentInput, UserMessage
    from pydantic_ai.ui.ag_ui import AGUIAdapter

    asked = RunAgentInput(
        thread_id="t1",
        run_id="r1",
        state={},
        messages=[UserMessage(id="u1", content="Hello?", role="user")],
        tools=[],
        context=[],
        forwarded_props={},
    )
    return AGUIAdapter(agent, asked).run_stream()


@pytest.mark.parametrize("ui", ["vercel", "ag-ui"])
async def test_an_error_in_an_adapter_for_user_interfaces_fails_the_run_and_is_not_told(
    runs: Runs, held: Held, agent: Any, ui: str
) -> None:
    from adapter_examples.pydantic_ai_answer import ask_in_chat

    held.give("Hel", OSError("internal secret"))
    if ui == "vercel":
        run = await ask_in_chat(runs, agent, "answers/1", BODY)
    else:
        source = pydantic_ai.events(ag_ui_stream(agent))
        run = await runs.start("answers/1", source, output=AG_UI)
    *stored, status = await output(run)
    assert status == "failed"
    assert "Hel" in [each.get("delta") for each in stored]
    assert "secret" not in f"{stored} {(await run.status()).error}"


async def test_the_events_of_the_ag_ui_adapter_are_a_run(
    runs: Runs, held: Held, agent: Any
) -> None:
    say(held, "Hel", "lo")
    source = pydantic_ai.events(ag_ui_stream(agent))
    stored = await output(await runs.start("answers/1", source, output=AG_UI))
    assert [each["type"] for each in stored[:-1]] == [
        "RUN_STARTED",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]
    assert stored[-1] == "done"


async def test_a_stop_reaches_the_model_through_an_adapter_for_user_interfaces(
    runs: Runs, held: Held, agent: Any
) -> None:
    held.give("Hel")
    source = pydantic_ai.events(ag_ui_stream(agent))
    run = await runs.start("answers/1", source, output=AG_UI)
    async for part in run.follow():
        if any(each.get("delta") for each in part.items):
            break
    await run.stop()
    await held.cancelled.wait()
