"""A run of events as server-sent events, for clients that follow one response."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import suppress
from typing import Any, Final

import msgspec

from durable_streams_runs.formats import JsonFormat
from durable_streams_runs.states import Part, Status

KEEP_ALIVE: Final = 15.0
"""Seconds of silence after which a comment is sent: proxies close connections that say nothing."""


async def server_sent_events(
    parts: AsyncIterable[Part], form: JsonFormat, *, last: bytes = b"", keep_alive: float
) -> AsyncGenerator[bytes, None]:
    """One event for each item, one for an end that is not ``done``, and ``last``."""
    iterator = aiter(parts)
    following = asyncio.ensure_future(anext(iterator))
    try:
        while True:
            if not (await asyncio.wait({following}, timeout=keep_alive))[0]:
                yield b": keep-alive\n\n"
                continue
            part = following.result()
            messages = [_encode(item, form) for item in part.items]
            if part.end is not None and part.end.status is not Status.DONE:
                messages.append(form.end(part.end))
            yield b"".join(b"data: %b\n\n" % message for message in messages)
            if part.end is not None:
                yield last
                return
            following = asyncio.ensure_future(anext(iterator))
    except StopAsyncIteration:
        return
    finally:
        await _end(following)


def check_event(item: Any) -> None:
    """Raise ``TypeError`` for an item that clients would not take for an event."""
    if not isinstance(item, dict):
        raise TypeError(f"an event is an object, not {type(item).__name__}")


def text_of(value: Any, default: str) -> str:
    """What an event tells users, if it does."""
    return value if isinstance(value, str) and value else default


async def _end(following: "asyncio.Future[Any]") -> None:
    following.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await following


def _encode(item: Any, form: JsonFormat) -> bytes:
    if not isinstance(item, dict):
        raise TypeError(f"the run was not started with the format {form.name!r}")
    return msgspec.json.encode(item)
