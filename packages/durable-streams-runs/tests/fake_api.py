"""An API of a model provider, whose answers the tests give event by event."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2


class FakeApi:
    """Answers each request with the same stream of server-sent events."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.asked = asyncio.Event()
        self.closed = asyncio.Event()
        """Set when the client has closed the response."""
        self._chunks: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    def give(self, *events: dict[str, Any], named: bool = True) -> None:
        """Send events, ``named`` by their types as most APIs do it."""
        for event in events:
            name = f"event: {event['type']}\n" if named else ""
            self._chunks.put_nowait(f"{name}data: {json.dumps(event)}\n\n".encode())

    def finish(self, last: str = "") -> None:
        """End the response."""
        self._chunks.put_nowait(last.encode())
        self._chunks.put_nowait(None)

    def fail(self) -> None:
        """Break the connection."""
        self._chunks.put_nowait(httpx2.ReadError("The connection broke."))

    def http(self) -> httpx2.AsyncClient:
        """The HTTP client for an SDK."""
        return httpx2.AsyncClient(transport=httpx2.MockTransport(self._answer))

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(json.loads(await request.aread()))
        self.asked.set()
        return httpx2.Response(
            200, headers={"content-type": "text/event-stream"}, stream=_Body(self)
        )

    async def chunks(self) -> AsyncIterator[bytes]:
        while (chunk := await self._chunks.get()) is not None:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


class _Body(httpx2.AsyncByteStream):
    def __init__(self, api: FakeApi) -> None:
        self._api = api

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._api.chunks()

    async def aclose(self) -> None:
        self._api.closed.set()
