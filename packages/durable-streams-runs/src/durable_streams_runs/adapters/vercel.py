"""Runs as UI message streams of the Vercel AI SDK, which ``useChat`` follows and resumes.

    run = await runs.start("answers/1", events(text(answer)), output=UI_MESSAGES)
    return StreamingResponse(sse(run.follow()), headers=HEADERS)

The stream of such a run holds the messages that upstream's transport for ``useChat`` reads.
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

__all__ = ["HEADERS", "UI_MESSAGES", "UiMessagesFormat", "events", "sse"]

HEADERS: Final = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
    "x-vercel-ai-ui-message-stream": "v1",
}
"""The headers of a response with :func:`sse`."""

END: Final = "data-run-end"
INTERRUPTED: Final = "The run was interrupted."


class UiMessagesFormat(JsonFormat):
    """Chunks of a UI message stream; the last one says how the run ended.

    A run that failed or was interrupted ends with an ``error``, one that was stopped with an
    ``abort``, and one that is done with a transient data part, which ``useChat`` does not show. A
    source that yields an ``error`` or an ``abort`` ends its run as failed. Runs of this format
    cannot be restarted.
    """

    name = "vercel-ui-messages"

    def encode(self, item: Any) -> bytes:
        """One chunk; raises ``TypeError`` for what is not an object, ``ValueError`` for what JSON
        cannot hold and for the run's own chunks, and :class:`RunFailed` for an ``error`` and an
        ``abort``.
        """
        check_event(item)
        match item:
            case {"type": "error"}:
                raise RunFailed(text_of(item.get("errorText"), "The run failed."))
            case {"type": "abort"}:
                raise RunFailed(text_of(item.get("reason"), "The answer was aborted."))
            case {"type": "data-run-end"}:
                raise ValueError("chunks of the type data-run-end are the run's own")
        return super().encode(item)

    def end(self, end: End) -> bytes:
        """The chunk that says how the run ended."""
        match end.status:
            case Status.FAILED:
                return encode_value({"type": "error", "errorText": end.error or "The run failed."})
            case Status.INTERRUPTED:
                return encode_value({"type": "error", "errorText": INTERRUPTED})
            case Status.STOPPED:
                return encode_value({"type": "abort"})
        return encode_value({"type": END, "data": {"status": end.status.value}, "transient": True})

    def read_end(self, message: Any) -> End | None:
        """The end that a chunk stands for, or None if it is output."""
        match message:
            case {"type": "data-run-end", "data": {"status": "done"}}:
                return End(Status.DONE)
            case {"type": "abort"}:
                return End(Status.STOPPED)
            case {"type": "error", "errorText": "The run was interrupted."}:
                return End(Status.INTERRUPTED)
            case {"type": "error", "errorText": str(text)}:
                return End(Status.FAILED, text)
        return None

    def restart(self) -> bytes | None:
        """None: a chunk that says so would be shown as a part of the message."""
        return None


UI_MESSAGES: Final = UiMessagesFormat()
"""Give it to ``Runs(…, formats=[UI_MESSAGES])``, and to ``start`` as ``output``."""


def events(text: AsyncIterable[str], *, message_id: str | None = None) -> Source[dict[str, Any]]:
    """The chunks of a message with this text, for a run of the format :data:`UI_MESSAGES`.

    ``message_id`` is the id of the message in the chat, by default a random one.
    """
    return Source(text, partial(_events, message_id=message_id))


async def _events(
    text: AsyncIterable[str], *, message_id: str | None
) -> AsyncGenerator[dict[str, Any], None]:
    part = {"id": "text-1"}
    yield {"type": "start", "messageId": message_id or f"msg-{secrets.token_hex(8)}"}
    yield {"type": "start-step"}
    yield {"type": "text-start", **part}
    async for delta in text:
        if delta:
            yield {"type": "text-delta", "delta": delta, **part}
    yield {"type": "text-end", **part}
    yield {"type": "finish-step"}
    yield {"type": "finish"}


def sse(
    parts: AsyncIterable[Part], *, keep_alive: float = KEEP_ALIVE
) -> AsyncGenerator[bytes, None]:
    """The body of a response to ``useChat`` with its default transport.

    ``parts`` is what ``follow`` of a run of the format :data:`UI_MESSAGES` yields. After
    ``keep_alive`` seconds of silence a comment is sent, so that proxies keep the connection.

    Raises ``TypeError`` for a run of another format, and what ``follow`` raises.
    """
    return server_sent_events(parts, UI_MESSAGES, last=b"data: [DONE]\n\n", keep_alive=keep_alive)
