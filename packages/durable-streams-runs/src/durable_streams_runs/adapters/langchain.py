"""Streams of LangChain and LangGraph as runs: of ``astream`` of a model, a chain or a graph.

stream = graph.astream(state, stream_mode="messages")
await runs.start("answers/1", text(stream))
"""

from collections.abc import AsyncGenerator
from typing import Any, Final

from durable_streams_runs.adapters.source import LibraryStream, Source, as_json

__all__ = ["events", "text"]

MODEL_MESSAGES: Final = ("AIMessageChunk", "ai")
"""Types of the messages that a model wrote."""


def text(stream: LibraryStream) -> Source[str]:
    """The text that models write.

    ``stream`` is what ``astream(…)`` returns: of a model, of a chain that ends with a model or a
    string, or of a graph with the stream mode ``"messages"``, alone or among others, whose items
    are passed over. A run of a graph without that mode fails with ``TypeError``.
    """
    return Source(stream, _text)


def events(stream: LibraryStream) -> Source[Any]:
    """The items of a stream as JSON, for a run of the format ``JSON``.

    Takes what ``astream(…)`` returns, with any stream modes: tuples become arrays, messages and
    other models of pydantic become objects. An item that JSON cannot hold fails the run.
    """
    return Source(stream, _events)


async def _text(stream: Any) -> AsyncGenerator[str, None]:
    async for item in stream:
        yield _text_of(item)


async def _events(stream: Any) -> AsyncGenerator[Any, None]:
    async for item in stream:
        yield as_json(item)


def _text_of(item: Any) -> str:
    match item:
        case str():
            return item
        case {"type": "messages", "ns": _, "data": (message, _)}:
            return _text_of(message)
        case {"type": str(), "ns": _, "data": _}:
            return ""
        case ("messages", (message, _)) | (tuple(), "messages", (message, _)):
            return _text_of(message)
        case (str(), _) | (tuple(), str(), _):
            return ""
        case (tuple(), (message, _)) | (message, {"langgraph_node": _}):
            return _text_of(message)
    if not hasattr(item, "content"):
        raise TypeError(
            f"a stream of messages is needed, such as one with the stream mode 'messages', not of"
            f" {type(item).__name__}"
        )
    return str(item.text) if item.type in MODEL_MESSAGES else ""
