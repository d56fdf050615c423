"""Streams of the OpenAI Agents SDK as runs, against the SDK and a fake Responses API."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import responses
from fake_api import FakeApi
from sources import Held, output, text

from durable_streams_runs import JSON, Runs
from durable_streams_runs.adapters import openai_agents

# The library is imported where it is used: each process of the tests reads every module.


@pytest.fixture
async def agent(api: FakeApi) -> AsyncIterator[Any]:
    from agents import Agent, OpenAIResponsesModel, set_tracing_disabled
    from openai import AsyncOpenAI

    set_tracing_disabled(disabled=True)
    async with AsyncOpenAI(api_key="k", http_client=api.http(), max_retries=0) as client:
        yield Agent(name="Helper", model=OpenAIResponsesModel("m", client))


async def test_an_answer_is_a_text_run(runs: Runs, api: FakeApi, agent: Any) -> None:
    from adapter_examples.openai_agents_answer import ask

    api.give(*responses.answer("Hel", "lo"))
    api.finish()
    assert await text(await ask(runs, agent, "answers/1", "Hello?")) == ("Hello", "done")


async def test_the_events_are_stored(runs: Runs, api: FakeApi, agent: Any) -> None:
    from agents import Runner

    sent = responses.answer("Hel", "lo")
    api.give(*sent)
    api.finish()
    source = openai_agents.events(Runner.run_streamed(agent, "Hello?"))
    first, *raw, item, status = await output(await runs.start("x", source, output=JSON))
    assert first == {"type": "agent_updated_stream_event", "agent": "Helper"}
    assert (raw, status) == (sent, "done")
    assert (item["type"], item["name"]) == ("run_item_stream_event", "message_output_created")
    assert item["item"]["content"][0]["text"] == "Hello"


@pytest.mark.parametrize("how", ["failed", "ended", "broken"])
async def test_an_answer_that_is_cut_off_is_not_done(
    runs: Runs, api: FakeApi, agent: Any, how: str
) -> None:
    from agents import Runner

    api.give(*responses.BEGUN, responses.delta("Hel"))
    match how:
        case "failed":
            error = {"code": "server_error", "message": "internal secret"}
            api.give(responses.response("failed", error=error))
            api.finish()
        case "ended":
            api.finish()
        case _:
            api.fail()
    source = openai_agents.text(lambda: Runner.run_streamed(agent, "Hello?"))
    run = await runs.start("answers/1", source)
    assert await text(run) == ("Hel", "failed")
    assert "secret" not in str((await run.status()).error)


@pytest.mark.parametrize("begun", [False, True], ids=["function", "result"])
async def test_a_stop_ends_the_request(runs: Runs, api: FakeApi, agent: Any, begun: bool) -> None:
    from agents import Runner

    api.give(*responses.BEGUN, responses.delta("Hel"))
    source: Any = lambda: Runner.run_streamed(agent, "Hello?")  # noqa: E731
    run = await runs.start("answers/1", openai_agents.text(source() if begun else source))
    await anext(aiter(run.follow()))
    assert not api.closed.is_set()
    await run.stop()
    await api.closed.wait()


async def test_a_start_that_attaches_begins_no_run_of_agents(
    runs: Runs, api: FakeApi, agent: Any
) -> None:
    from agents import Runner

    await runs.start("answers/1", Held().stream())
    source = openai_agents.text(lambda: Runner.run_streamed(agent, "Hello?"))
    assert not (await runs.start("answers/1", source)).started
    assert not api.requests


async def test_a_start_that_attaches_cancels_a_run_of_agents_that_began(
    runs: Runs, api: FakeApi, agent: Any
) -> None:
    from agents import Runner

    await runs.start("answers/1", Held().stream())
    begun = Runner.run_streamed(agent, "Hello?")
    await api.asked.wait()
    assert not (await runs.start("answers/1", openai_agents.text(begun))).started
    await api.closed.wait()


def test_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match=r"what Runner\.run_streamed returns is needed, not str"):
        openai_agents.text("Hello?")
