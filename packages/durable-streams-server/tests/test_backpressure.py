"""A client that takes nothing: what it asked for waits in the kernel, not in this process."""

import asyncio
from collections.abc import Awaitable, Callable

from wire import Client

REQUEST = b"GET /v1/stream/a?offset=-1 HTTP/1.1\r\nHost: x\r\n\r\n"
REQUESTS = 3_000
BODY = b"x" * 60_000
STILL = 200
"""Turns of the loop without a further request, after which none is coming."""


async def test_pipelined_requests_are_not_answered_into_memory(
    serve: Callable[..., Awaitable[Client]],
) -> None:
    begun = 0

    def count(_action: str, _path: str, _request: object) -> bool:
        nonlocal begun
        begun += 1
        return True

    client = await serve(authorize=count)
    await client.put("a", "application/octet-stream", body=BODY)
    begun = 0
    slow = await client.connect()
    slow.writer.transport.pause_reading()
    await slow.send(REQUEST * REQUESTS)
    seen, still = -1, 0
    while still < STILL or not begun:
        still = still + 1 if begun == seen else 0
        seen = begun
        await asyncio.sleep(0)
    # 180 MB were asked for; the kernel's buffers take a few megabytes.
    assert 0 < begun < 500
    slow.writer.transport.resume_reading()
    for _ in range(REQUESTS):
        answer = await slow.answer()
        assert (answer.status, answer.body) == (200, BODY)
