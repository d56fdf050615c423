"""Runs as events of the Agent-User Interaction Protocol (AG-UI).

run = await runs.start("answers/1", events(text(answer), asked.thread_id), output=AG_UI)
return StreamingResponse(sse(run.follow()), headers=HEADERS)
"""

import secrets
from collections.abc import AsyncGenerator, AsyncIterable
from functools import partial
from typing import Any, Final

from durable_streams_core.values import encode_value
from durable_streams_runs.adapters.source import Source
from durable_streams_runs.adapters.sse import (
    KEEP_ALIVE,
    check_event,
    server_sent_events,
    text_of,
)
from durable_streams_runs.errors import RunFailed
from durable_streams_runs.formats import JsonFormat
from durable_streams_runs.states import End, Part, Status

__all__ = ["AG_UI", "HEADERS", "AgUiFormat", "events", "sse"]

HEADERS: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
"""The headers of a response with :func:`sse`."""

END: Final = "run-end"
MESSAGES: Final = {
    Status.FAILED: "The run failed.",
    Status.STOPPED: "The run was stopped.",
    Status.INTERRUPTED: "The run was interrupted.",
}


class AgUiFormat(JsonFormat):
    """Events of AG-UI; the last one says how the run ended.

    A run that is not ``done`` ends with ``RUN_ERROR``, whose code is the status, and one that is
    done with a ``CUSTOM`` event after the ``RUN_FINISHED`` of its source. A source that yields a
    ``RUN_ERROR`` ends its run as failed. Runs of this format cannot be restarted.
    """

    name = "ag-ui"

    def encode(self, item: Any) -> bytes:
        """One event; raises ``TypeError`` for what is not an object, ``ValueError`` for what JSON
        cannot hold and for the run's own event, and :class:`RunFailed` for a ``RUN_ERROR``.
        """
        check_event(item)
        match item:
            case {"type": "RUN_ERROR"}:
                raise RunFailed(text_of(item.get("message"), MESSAGES[Status.FAILED]))
            case {"type": "CUSTOM", "name": "run-end"}:
                raise ValueError("custom events named run-end are the run's own")
        return super().encode(item)

    def end(self, end: End) -> bytes:
        """The event that says how the run ended."""
        status = end.status.value
        if end.status is Status.DONE:
            return encode_value({"type": "CUSTOM", "name": END, "value": {"status": status}})
        message = end.error or MESSAGES[end.status]
        return encode_value({"type": "RUN_ERROR", "message": message, "code": status})

    def read_end(self, message: Any) -> End | None:
        """The end that an event stands for, or None if it is output."""
        match message:
            case {"type": "CUSTOM", "name": "run-end"}:
                return End(Status.DONE)
            case {"type": "RUN_ERROR", "message": text, "code": "failed"}:
                return End(Status.FAILED, text)
            case {"type": "RUN_ERROR", "code": "stopped" | "interrupted" as status}:
                return End(Status(status))
        return None

    def restart(self) -> bytes | None:
        """None: clients would take a second beginning for an error."""
        return None


AG_UI: Final = AgUiFormat()
"""Give it to ``Runs(…, formats=[AG_UI])``, and to ``start`` as ``output``."""


def events(
    text: AsyncIterable[str], thread_id: str, run_id: str | None = None
) -> Source[dict[str, Any]]:
    """The events of a message with this text, for a run of the format :data:`AG_UI`.

    ``thread_id`` and ``run_id`` are those of the request; by default the run has a random id.
    """
    return Source(text, partial(_events, thread_id=thread_id, run_id=run_id))


async def _events(
    text: AsyncIterable[str], *, thread_id: str, run_id: str | None
) -> AsyncGenerator[dict[str, Any], None]:
    run = {"threadId": thread_id, "runId": run_id or secrets.token_hex(8)}
    message = {"messageId": f"msg-{secrets.token_hex(8)}"}
    yield {"type": "RUN_STARTED", **run}
    yield {"type": "TEXT_MESSAGE_START", "role": "assistant", **message}
    async for delta in text:
        if delta:
            yield {"type": "TEXT_MESSAGE_CONTENT", "delta": delta, **message}
    yield {"type": "TEXT_MESSAGE_END", **message}
    yield {"type": "RUN_FINISHED", **run}


def sse(
    parts: AsyncIterable[Part], *, keep_alive: float = KEEP_ALIVE
) -> AsyncGenerator[bytes, None]:
    """The body of a response to a client of AG-UI, as ``EventEncoder`` encodes events.

    ``parts`` is what ``follow`` of a run of the format :data:`AG_UI` yields. After ``keep_alive``
    seconds of silence a comment is sent, so that proxies keep the connection.

    Raises ``TypeError`` for a run of another format, and what ``follow`` raises.
    """
    return server_sent_events(parts, AG_UI, keep_alive=keep_alive)
