"""Streams of the OpenAI SDK as runs: of the Responses API, and of chat completions.

    stream = client.responses.create(model="gpt-6.2-sol", input=prompt, stream=True)
    await runs.start("answers/1", text(stream))

Runs of an answer that ends early, or as failed, end as failed.
"""

from collections.abc import AsyncGenerator
from typing import Any, Final

from durable_streams_runs.adapters.source import LibraryStream, ModelError, Source, as_sent

__all__ = ["events", "text"]

TEXT_DELTAS: Final = ("response.output_text.delta", "response.refusal.delta")
LAST_EVENTS: Final = ("response.completed", "response.incomplete")
ERRORS: Final = ("response.failed", "error")
OF_THE_HELPER: Final = ("content.", "refusal.", "tool_calls.", "logprobs.")
"""Types of the events that ``chat.completions.stream`` makes from each chunk, beside the chunk."""
ADDED: Final = ("snapshot", "parsed")
"""What ``responses.stream`` adds to events. A snapshot is all text so far: a run would grow with
the square of its text."""


def text(stream: LibraryStream) -> Source[str]:
    """The text of an answer, a refusal included; of several choices, that of the first.

    ``stream`` is what ``responses.create(stream=True)`` or ``chat.completions.create(stream=True)``
    of an ``AsyncOpenAI`` returns, awaited or not, or what their ``stream(…)`` returns.
    """
    return Source(stream, _text)


def events(stream: LibraryStream) -> Source[dict[str, Any]]:
    """The events of an answer as the API sends them, for a run of the format ``JSON``.

    Takes what :func:`text` takes. Events of types that are not known yet are passed on.
    """
    return Source(stream, _events)


async def _text(stream: Any) -> AsyncGenerator[str, None]:
    async for event in _complete(stream, only={0}):
        for choice in getattr(event, "choices", None) or ():
            if choice.index == 0:
                yield choice.delta.content or choice.delta.refusal or ""
        if getattr(event, "type", None) in TEXT_DELTAS:
            yield event.delta


async def _events(stream: Any) -> AsyncGenerator[dict[str, Any], None]:
    async for event in _complete(stream):
        yield as_sent(event, without=ADDED)


async def _complete(stream: Any, only: set[int] | None = None) -> AsyncGenerator[Any, None]:
    """The events of the API. Raises :class:`ModelError` unless they make a complete answer: of
    several choices all have to be finished, or ``only`` those with these indexes.
    """
    is_complete = False
    begun: set[int] = set()
    finished: set[int] = set()
    """Choices by their index. Some services send more of one after its finish."""
    async for each in stream:
        event = getattr(each, "chunk", each)
        kind = getattr(event, "type", None) or ""
        if kind.startswith(OF_THE_HELPER):
            continue
        yield event
        if kind in ERRORS:
            raise ModelError(f"The answer ended with an error: {event}")
        for choice in getattr(event, "choices", None) or ():
            begun.add(choice.index)
            if choice.finish_reason:
                finished.add(choice.index)
        if kind in LAST_EVENTS:
            is_complete = True
    wanted = begun if only is None else only
    if not (is_complete or (wanted and wanted <= finished)):
        raise ModelError("The stream of the answer ended before its last event.")
