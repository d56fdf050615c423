"""Streams of the Anthropic SDK as runs, against the SDK itself and a fake API."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fake_api import FakeApi
from sources import Held, output, text

from durable_streams_runs import JSON, Runs
from durable_streams_runs.adapters import anthropic

# The SDK is imported where it is used: each process of the tests reads every module.
Open = Callable[[Any], Any]

ASKED: Any = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello?"}]}
MESSAGES: list[Open] = [
    lambda client: client.messages.create(stream=True, **ASKED),
    lambda client: client.messages.stream(**ASKED),
]
BY = ["create", "stream"]


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[Any]:
    from anthropic import AsyncAnthropic

    async with AsyncAnthropic(api_key="k", http_client=api.http(), max_retries=0) as made:
        yield made


def delta(kind: str, key: str, text: str, index: int) -> dict[str, Any]:
    return {
        "type": "content_block_delta",
        "index": index,
        "delta": {"type": kind, key: text},
    }


def answer(*words: str) -> list[dict[str, Any]]:
    """All events of an answer after some thought, as the API sends them."""
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": []}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": usage}
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    return [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": thinking},
        delta("thinking_delta", "thinking", "Hmm.", 0),
        delta("signature_delta", "signature", "s", 0),
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        *(delta("text_delta", "text", word, 1) for word in words),
        {"type": "content_block_stop", "index": 1},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 9},
        },
        {"type": "message_stop"},
    ]


async def test_a_message_is_a_text_run(runs: Runs, api: FakeApi, client: Any) -> None:
    api.give({"type": "ping"}, *answer("Hel", "lo"))
    api.finish()
    from adapter_examples.anthropic_answer import ask

    run = await ask(runs, client, "answers/1", ASKED["messages"])
    assert await text(run) == ("Hello", "done")
    assert api.requests[0]["stream"] is True


@pytest.mark.parametrize("open_stream", MESSAGES, ids=BY)
async def test_the_events_of_a_message_are_stored_as_they_were_sent(
    runs: Runs, api: FakeApi, client: Any, open_stream: Open
) -> None:
    """The helper's own events hold all text so far, so they are left out."""
    sent = answer(*(f"word {n} " for n in range(50)))
    api.give(*sent)
    api.finish()
    run = await runs.start("answers/1", anthropic.events(open_stream(client)), output=JSON)
    assert await output(run) == [*sent, "done"]


@pytest.mark.parametrize("open_stream", MESSAGES, ids=BY)
async def test_an_event_of_an_unknown_type_is_stored_and_has_no_text(
    runs: Runs, api: FakeApi, client: Any, open_stream: Open
) -> None:
    first, *rest = answer("Hi")
    unknown = {"type": "content_mood", "mood": "glad"}
    for _ in range(2):
        api.give(first, unknown, delta("mood_delta", "mood", "glad", 7), *rest)
        api.finish()
    run = await runs.start("text", anthropic.text(MESSAGES[0](client)))
    assert await text(run) == ("Hi", "done")
    run = await runs.start("events", anthropic.events(MESSAGES[0](client)), output=JSON)
    assert unknown in await output(run)


@pytest.mark.parametrize("open_stream", MESSAGES, ids=BY)
@pytest.mark.parametrize("how", ["error", "ended", "broken"])
async def test_an_answer_that_is_cut_off_is_not_done(
    runs: Runs, api: FakeApi, client: Any, open_stream: Open, how: str
) -> None:
    api.give(*answer("Hel")[:-3])
    match how:
        case "error":
            error = {"type": "overloaded_error", "message": "internal secret"}
            api.give({"type": "error", "error": error})
            api.finish()
        case "ended":
            api.finish()
        case _:
            api.fail()
    run = await runs.start("answers/1", anthropic.text(open_stream(client)))
    assert await text(run) == ("Hel", "failed")
    assert "secret" not in str((await run.status()).error)
    assert api.closed.is_set()


@pytest.mark.parametrize("open_stream", MESSAGES, ids=BY)
async def test_a_stop_ends_the_request(
    runs: Runs, api: FakeApi, client: Any, open_stream: Open
) -> None:
    api.give(*answer("Hel")[:-3])
    run = await runs.start("answers/1", anthropic.text(open_stream(client)))
    await anext(aiter(run.follow()))
    assert not api.closed.is_set()
    await run.stop()
    await api.closed.wait()
    assert await text(run) == ("Hel", "stopped")


@pytest.mark.parametrize("open_stream", MESSAGES, ids=BY)
async def test_a_start_that_attaches_makes_no_request(
    runs: Runs, api: FakeApi, client: Any, open_stream: Open
) -> None:
    from adapter_examples.anthropic_answer import ask

    first = await ask(runs, client, "answers/1", ASKED["messages"])
    await api.asked.wait()
    second = await runs.start("answers/1", anthropic.text(open_stream(client)))
    assert not second.started
    assert len(api.requests) == 1
    await first.stop()


async def test_a_start_that_attaches_ends_a_request_that_was_made(
    runs: Runs, api: FakeApi, client: Any
) -> None:
    await runs.start("answers/1", Held().stream())
    stream = await client.messages.create(stream=True, **ASKED)
    assert not (await runs.start("answers/1", anthropic.text(stream))).started
    await api.closed.wait()
