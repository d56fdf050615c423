"""Streams of the OpenAI SDK as runs, against the SDK itself and a fake API."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fake_api import FakeApi
from responses import BEGUN, answer, delta, response
from sources import Held, output, text

from durable_streams_runs import JSON, Run, Runs
from durable_streams_runs.adapters import openai

# The SDK is imported where it is used: each process of the tests reads every module.
Open = Callable[[Any], Any]

MESSAGES: Any = [{"role": "user", "content": "Hello?"}]
CHAT: list[Open] = [
    lambda client: client.chat.completions.create(model="m", messages=MESSAGES, stream=True),
    lambda client: client.chat.completions.stream(model="m", messages=MESSAGES),
]
RESPONSES: list[Open] = [
    lambda client: client.responses.create(model="m", input="Hello?", stream=True),
    lambda client: client.responses.stream(model="m", input="Hello?"),
]
BY = ["create", "stream"]


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[Any]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(api_key="k", http_client=api.http(), max_retries=0) as made:
        yield made


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    kind = "chat.completion.chunk"
    return {"id": "c1", "object": kind, "created": 1, "model": "m", "choices": [choice]}


@pytest.mark.parametrize("open_stream", CHAT, ids=BY)
async def test_a_chat_completion_is_a_text_run(
    runs: Runs, api: FakeApi, client: Any, open_stream: Open
) -> None:
    api.give(chunk({"role": "assistant", "content": ""}), named=False)
    api.give(chunk({"content": "Hel"}), chunk({"content": "lo"}), named=False)
    api.give(chunk({}, finish="stop"), named=False)
    api.finish("data: [DONE]\n\n")
    run = await runs.start("answers/1", openai.text(open_stream(client)))
    assert await text(run) == ("Hello", "done")
    assert api.requests[0]["stream"] is True


async def test_the_first_of_several_choices_is_the_text(
    runs: Runs, api: FakeApi, client: Any
) -> None:
    api.give(chunk({"content": "a"}), chunk({"content": "b"}, index=1), named=False)
    api.give(chunk({"refusal": "No."}, finish="stop"), named=False)
    api.finish("data: [DONE]\n\n")
    run = await runs.start("answers/1", openai.text(CHAT[0](client)))
    assert await text(run) == ("aNo.", "done")


async def test_a_response_is_a_text_run(runs: Runs, api: FakeApi, client: Any) -> None:
    api.give(*BEGUN, delta("Hel"), delta("lo"), delta("!", "refusal"), response("completed"))
    api.finish()
    from adapter_examples.openai_answer import ask

    assert await text(await ask(runs, client, "answers/1", "Hello?")) == ("Hello!", "done")
    assert api.requests[0]["input"] == "Hello?"


@pytest.mark.parametrize("open_stream", RESPONSES, ids=BY)
async def test_the_events_of_a_response_are_stored_as_they_were_sent(
    runs: Runs, api: FakeApi, client: Any, open_stream: Open
) -> None:
    sent = answer(*(f"word {n} " for n in range(50)))
    api.give(*sent)
    api.finish()
    run = await runs.start("answers/1", openai.events(open_stream(client)), output=JSON)
    *stored, last, status = await output(run)
    assert [*stored, status] == [*sent[:-1], "done"]
    # The helper adds what it parsed to the output of the last event.
    assert (last["type"], last["response"]["status"]) == ("response.completed", "completed")


@pytest.mark.parametrize("open_stream", CHAT, ids=BY)
async def test_the_chunks_of_a_chat_completion_are_stored_as_they_were_sent(
    runs: Runs, api: FakeApi, client: Any, open_stream: Open
) -> None:
    """The helper's own events hold all text so far, so they are left out."""
    sent = [chunk({"content": f"word {n} "}) for n in range(50)] + [chunk({}, finish="length")]
    api.give(*sent, named=False)
    api.finish("data: [DONE]\n\n")
    run = await runs.start("answers/1", openai.events(open_stream(client)), output=JSON)
    assert await output(run) == [*sent, "done"]


async def test_an_event_of_an_unknown_type_is_stored_and_has_no_text(
    runs: Runs, api: FakeApi, client: Any
) -> None:
    unknown = {"type": "response.thought.delta", "delta": "hmm", "sequence_number": 3}
    for _ in range(2):
        api.give(*BEGUN, unknown, delta("Hi"), response("completed"))
        api.finish()
    run = await runs.start("text", openai.text(RESPONSES[0](client)))
    assert await text(run) == ("Hi", "done")
    run = await runs.start("events", openai.events(RESPONSES[0](client)), output=JSON)
    assert unknown in await output(run)


@pytest.mark.parametrize(
    "last",
    [
        response("failed", error={"code": "server_error", "message": "internal secret"}),
        {"type": "error", "code": "c", "message": "internal secret", "sequence_number": 2},
        {"type": "error", "error": {"message": "internal secret"}},
    ],
    ids=["failed", "error", "error of the connection"],
)
@pytest.mark.parametrize("of", ["text", "events"])
async def test_a_run_whose_model_failed_has_failed(
    runs: Runs, api: FakeApi, client: Any, last: dict[str, Any], of: str
) -> None:
    api.give(*BEGUN, delta("Hel"), last)
    api.finish()
    adapter, form = (openai.text, None) if of == "text" else (openai.events, JSON)
    options: dict[str, Any] = {"output": form} if form else {}
    run = await runs.start("answers/1", adapter(RESPONSES[0](client)), **options)
    info = await run.wait()
    assert info.status == "failed"
    assert "secret" not in str(info.error)
    assert api.closed.is_set()


@pytest.mark.parametrize("broken", [False, True], ids=["ended", "broken"])
@pytest.mark.parametrize("kind", ["chat", "response"])
async def test_an_answer_that_is_cut_off_is_not_done(
    runs: Runs, api: FakeApi, client: Any, kind: str, broken: bool
) -> None:
    if kind == "chat":
        api.give(chunk({"content": "Hel"}), named=False)
    else:
        api.give(*BEGUN, delta("Hel"))
    api.fail() if broken else api.finish()
    stream = (CHAT if kind == "chat" else RESPONSES)[0](client)
    run = await runs.start("answers/1", openai.text(stream))
    assert await text(run) == ("Hel", "failed")


@pytest.mark.parametrize("of", ["text", "events"])
async def test_an_answer_is_not_done_because_another_choice_is_finished(
    runs: Runs, api: FakeApi, client: Any, of: str
) -> None:
    api.give(chunk({"content": "Hel"}), named=False)
    api.give(chunk({"content": "No."}, finish="stop", index=1), named=False)
    api.finish()
    adapter, form = (openai.text, None) if of == "text" else (openai.events, JSON)
    options: dict[str, Any] = {"output": form} if form else {}
    run = await runs.start("answers/1", adapter(CHAT[0](client)), **options)
    assert (await run.wait()).status == "failed"


async def test_an_answer_of_which_nothing_came_is_not_done_because_another_choice_is_finished(
    runs: Runs, api: FakeApi, client: Any
) -> None:
    api.give(chunk({"content": "No."}, finish="stop", index=1), named=False)
    api.finish()
    run = await runs.start("answers/1", openai.text(CHAT[0](client)))
    assert await text(run) == ("", "failed")


async def test_a_choice_may_go_on_after_its_finish(runs: Runs, api: FakeApi, client: Any) -> None:
    api.give(chunk({"content": "Hello"}, finish="stop"), chunk({"content": "."}), named=False)
    api.finish()
    run = await runs.start("answers/1", openai.text(CHAT[0](client)))
    assert await text(run) == ("Hello.", "done")


@pytest.mark.parametrize("open_stream", RESPONSES, ids=BY)
async def test_a_stop_ends_the_request(
    runs: Runs, api: FakeApi, client: Any, open_stream: Open
) -> None:
    api.give(*BEGUN, delta("Hel"))
    run = await runs.start("answers/1", openai.text(open_stream(client)))
    await anext(aiter(run.follow()))
    assert not api.closed.is_set()
    await run.stop()
    await api.closed.wait()
    assert await text(run) == ("Hel", "stopped")


@pytest.mark.parametrize("open_stream", CHAT + RESPONSES)
async def test_a_start_that_attaches_makes_no_request(
    runs: Runs, api: FakeApi, client: Any, open_stream: Open
) -> None:
    from adapter_examples.openai_answer import ask

    first = await ask(runs, client, "answers/1", "Hello?")
    await api.asked.wait()
    second: Run = await runs.start("answers/1", openai.text(open_stream(client)))
    assert not second.started
    assert len(api.requests) == 1
    await first.stop()


async def test_a_start_that_attaches_ends_a_request_that_was_made(
    runs: Runs, api: FakeApi, client: Any
) -> None:
    await runs.start("answers/1", Held().stream())
    stream = await client.responses.create(model="m", input="Hello?", stream=True)
    assert not (await runs.start("answers/1", openai.text(stream))).started
    await api.closed.wait()


def test_a_stream_that_is_not_asynchronous_is_refused() -> None:
    from openai import OpenAI

    with OpenAI(api_key="k") as client:
        with pytest.raises(TypeError, match="asynchronous client"):
            openai.text(client.responses.stream(model="m", input="x"))  # type: ignore[arg-type]
