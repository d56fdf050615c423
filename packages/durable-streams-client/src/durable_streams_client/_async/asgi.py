"""Requests to an ASGI application in this process, with live responses and no socket."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import httpcore
import httpx

from durable_streams_client._async.app_loop import AppLoop, waker
from durable_streams_client._async.runtime import Notifier
from durable_streams_client.asgi_exchange import App, Exchange, ExchangeStream, refusal_of
from durable_streams_client.asgi_scope import scope_of
from durable_streams_client.errors import NotUsableHere

CHECK_SECONDS = 1.0
"""How often a wait checks that the application's event loop still is there."""


class AsyncAsgiTransport(httpx.AsyncBaseTransport):
    """Sends requests to an ASGI application in this process.

    Give it to a client of streams, or to any client of httpx. Unlike httpx's own ``ASGITransport``
    it hands on a response as the application sends it, so live reads work; what an application
    sends ahead of its reader waits in a small buffer.

    - ``app``: the application. It answers as behind a server: an exception in it is logged, and is
      a 500 or a broken connection here.
    - ``loop``: the event loop in which it runs. By default an async transport takes the loop of
      the first request, and a sync one begins a loop in a thread of its own.
    - ``lifespan``: whether to start the application's lifespan with the first request, and end it
      when the transport is closed. A client that was given the transport closes it.

    >>> async with AsyncClient("http://app/", http=AsyncAsgiTransport(app)) as client:
    ...     print(await client.stream("numbers").exists())
    True
    """

    def __init__(
        self,
        app: App,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        lifespan: bool = True,
    ) -> None:
        self._app_loop = AppLoop(app, loop, lifespan=lifespan)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request of httpx and return its response as soon as the head has come."""
        response = await self.send(
            httpcore.Request(
                request.method,
                httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            response.status_code,
            headers=response.raw_headers,
            stream=response,
            extensions=response.extensions,
        )

    async def send(self, request: httpcore.Request) -> "AsyncAsgiResponse":
        """Send a request and return its response as soon as the head has come.

        Raises the errors of httpcore, as a network transport does.
        """
        loop, application = self._app_loop.get()
        changed = Notifier()
        exchange = Exchange(scope_of(request), loop, waker(changed))
        wait = AsyncWait(exchange, changed, request.extensions.get("timeout", {}))
        try:
            loop.call_soon_threadsafe(application.begin, exchange)
            async for piece in cast(AsyncIterator[bytes], request.stream):
                await wait.until(lambda: exchange.takes_more, "write")
                if exchange.ended:
                    break
                exchange.offer(piece)
            exchange.end_request()
            await wait.until(lambda: exchange.status is not None or exchange.ended, "read")
            if exchange.status is None:
                raise refusal_of(exchange)
        except BaseException:
            exchange.leave()
            raise
        return AsyncAsgiResponse(exchange, exchange.status, wait)

    async def aclose(self) -> None:
        """End the application's requests and its lifespan."""
        await self._app_loop.aclose()


class AsyncWait:
    """Waits of one exchange, each with the time limit that its request sets."""

    def __init__(
        self, exchange: Exchange, changed: Notifier, timeout: dict[str, float | None]
    ) -> None:
        self._exchange = exchange
        self._changed = changed
        self._timeout = timeout

    async def until(self, ready: Callable[[], bool], limit: str) -> None:
        """Wait until it is ready; raises what httpx raises."""
        seconds = self._timeout.get(limit)
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            version = self._changed.version
            if ready():
                return
            if self._exchange.loop_has_ended:
                raise NotUsableHere("The event loop of the application has ended.")
            left = CHECK_SECONDS if until is None else min(CHECK_SECONDS, until - time.monotonic())
            if left <= 0:
                kind = httpx.WriteTimeout if limit == "write" else httpx.ReadTimeout
                raise kind(f"the application did nothing for {seconds} s")
            await self._changed.wait(version, left)


class AsyncAsgiResponse(httpx.AsyncByteStream):
    """A response whose head has come; what it has is named as in httpx."""

    is_stream_consumed = False

    def __init__(self, exchange: Exchange, status: int, wait: AsyncWait) -> None:
        self.status_code = status
        self.raw_headers = exchange.headers
        self.headers = httpx.Headers(exchange.headers)
        self.extensions: dict[str, Any] = {
            "http_version": b"HTTP/1.1",
            "network_stream": ExchangeStream(exchange),
        }
        self._exchange = exchange
        self._wait = wait

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self.aiter_raw():
            yield piece

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """The body as the application sends it."""
        while True:
            await self._wait.until(lambda: self._exchange.readable, "read")
            data = self._exchange.take()
            if data is None:
                break
            yield data
        if self._exchange.fault is not None:
            raise httpx.RemoteProtocolError(self._exchange.fault)

    async def aclose(self) -> None:
        """Leave the response: the application gets a disconnect, unless it has ended."""
        self._exchange.leave()
