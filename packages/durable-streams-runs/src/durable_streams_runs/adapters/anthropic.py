"""Streams of the Anthropic SDK as runs: of the Messages API.

    stream = client.messages.create(model="claude-opus-5-5", messages=…, max_tokens=…, stream=True)
    await runs.start("answers/1", text(stream))

A run whose answer ends early, or with an error, ends as failed.
"""

from collections.abc import AsyncGenerator
from typing import Any, Final

from durable_streams_runs.adapters.source import LibraryStream, ModelError, Source, as_sent

__all__ = ["events", "text"]

OF_THE_HELPER: Final = frozenset({"text", "citation", "thinking", "signature", "input_json"})
"""Types of the events that ``messages.stream`` makes from each event of the API, beside it."""
ADDED: Final = {"message_stop": ("message",), "content_block_stop": ("content_block",)}
"""What ``messages.stream`` adds to events of these types."""


def text(stream: LibraryStream) -> Source[str]:
    """The text of an answer, without its thinking.

    ``stream`` is what ``messages.create(stream=True)`` of an ``AsyncAnthropic`` returns, awaited
    or not, or what ``messages.stream(…)`` returns.
    """
    return Source(stream, _text)


def events(stream: LibraryStream) -> Source[dict[str, Any]]:
    """The events of an answer as the API sends them, for a run of the format ``JSON``.

    Takes what :func:`text` takes. Events of types that are not known yet are passed on.
    """
    return Source(stream, _events)


async def _text(stream: Any) -> AsyncGenerator[str, None]:
    async for event in _complete(stream):
        if event.type == "content_block_delta" and event.delta.type == "text_delta":
            yield event.delta.text


async def _events(stream: Any) -> AsyncGenerator[dict[str, Any], None]:
    async for event in _complete(stream):
        yield as_sent(event, without=ADDED.get(event.type, ()))


async def _complete(stream: Any) -> AsyncGenerator[Any, None]:
    """The events of the API. Raises :class:`ModelError` unless they make a complete answer."""
    is_complete = False
    async for event in stream:
        if event.type in OF_THE_HELPER:
            continue
        yield event
        if event.type == "message_stop":
            is_complete = True
    if not is_complete:
        raise ModelError("The stream of the answer ended before its last event.")
