"""Streams of pydantic-ai as runs: of an agent, and of the adapters for user interfaces.

await runs.start("answers/1", text(agent.run_stream(prompt)))
"""

from collections.abc import AsyncGenerator
from typing import Any, Final

from durable_streams_runs.adapters.source import LibraryStream, ModelError, Source, as_json

__all__ = ["events", "text"]

ERRORS: Final = ("error", "RUN_ERROR")
"""Types of the events by which the adapters for user interfaces tell of an exception."""
END_MARK: Final = "done"
"""The type of what ``VercelAIAdapter`` yields after its last chunk."""


def text(stream: LibraryStream) -> Source[str]:
    """The text that an agent writes.

    ``stream`` is what ``run_stream(…)`` or ``run_stream_events(…)`` of an ``Agent`` returns. The
    first ends with the final answer; the second goes on until the agent has ended, and has the text
    before calls of tools too.
    """
    return Source(stream, _text)


def events(stream: LibraryStream) -> Source[dict[str, Any]]:
    """The events of an agent or of a user interface, for a run of a JSON format.

    ``stream`` is what ``run_stream_events(…)`` of an ``Agent`` returns, for the format ``JSON``;
    what ``run_stream()`` of a ``VercelAIAdapter`` returns, for ``vercel.UI_MESSAGES``; or what that
    of an ``AGUIAdapter`` returns, for ``ag_ui.AG_UI``. Of the result of an agent only the output is
    stored. Events of types that are not known yet are passed on. An exception of the agent fails
    the run, as everywhere: its text is in the log, not in the run.
    """
    return Source(stream, _events)


async def _text(stream: Any) -> AsyncGenerator[str, None]:
    if hasattr(stream, "stream_text"):
        async for delta in stream.stream_text(delta=True, debounce_by=None):
            yield delta
        return
    async for event in stream:
        match getattr(event, "event_kind", None):
            case "part_start" if event.part.part_kind == "text":
                yield event.part.content
            case "part_delta" if event.delta.part_delta_kind == "text":
                yield event.delta.content_delta


async def _events(stream: Any) -> AsyncGenerator[dict[str, Any], None]:
    if hasattr(stream, "stream_text"):
        raise TypeError("run_stream has no events; give what run_stream_events returns")
    async for event in stream:
        kind = getattr(event, "type", None)
        if kind in ERRORS:
            # Its text is that of the exception, which is for the log alone.
            raise ModelError(f"The agent raised: {event}")
        if getattr(event, "event_kind", None) == "agent_run_result":
            # The whole conversation is in it, with what the user may not see.
            yield {"event_kind": event.event_kind, "output": as_json(event.result.output)}
        elif kind != END_MARK:
            yield as_json(event)
