"""Sends one request and takes its response, over httpx or a client of the same shape.

The one place that knows the HTTP library. Its exceptions are turned into ours here, and every
response that is not read to its end gives its connection back.
"""

import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx

from durable_streams_client import forking, wire
from durable_streams_client._async import httpx_client, runtime
from durable_streams_client._async.asgi import AsyncAsgiTransport
from durable_streams_client._async.pool import AsyncPool
from durable_streams_client.addresses import with_params
from durable_streams_client.decoding import CorruptCoding, UnknownCoding, decoder_of
from durable_streams_client.errors import (
    ClientClosed,
    ConnectionLost,
    MalformedResponse,
    NotUsableHere,
    TransportError,
)
from durable_streams_client.messages import Request, ResponseHead
from durable_streams_client.transport_errors import transport_error_of

MAX_BODY_BYTES = 128 * 1024 * 1024
"""Four times the largest append that our server takes by default."""
MAX_REFUSAL_BYTES = 64 * 1024

MAX_REDIRECTS = 5
"""Of one attempt. A server that redirects in a circle gets six requests."""


class AsyncResponse:
    """A response whose head has come. Read it, or close it."""

    def __init__(self, response: Any, request: Request) -> None:
        self._response = response
        self._request = request
        self.head = ResponseHead(
            response.status_code, {name.lower(): value for name, value in response.headers.items()}
        )

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, content codings undone.

        Raises ConnectionLost if it ends where nothing says that it is complete, so that what came
        is never taken for a whole page.
        """
        if self._response.is_stream_consumed:  # a transport of a test has read and decoded it
            yield self._response.content
            return
        try:
            decoder = decoder_of(self.head.get("content-encoding"))
            async for chunk in self._response.aiter_raw():
                if decoder is None:
                    yield chunk
                else:
                    for piece in decoder.feed(chunk):
                        yield piece
        except UnknownCoding as error:
            raise MalformedResponse(
                f"The body cannot be decoded: {error}.",
                method=self._request.method,
                url=self._request.url,
                status=self.head.status,
                code="unknown-encoding",
            ) from None
        except CorruptCoding as error:
            raise self._lost(f"The compressed body is damaged: {error}.") from None
        except Exception as error:
            known = transport_error_of(error, method=self._request.method, url=self._request.url)
            if known is None:
                raise
            raise known from error
        if self._request.method != "GET" or self.head.status in {204, 304}:
            return
        if decoder is None:
            if not self._is_delimited():
                raise self._lost(
                    "The body has neither a length nor chunks, so it may have been cut short."
                )
        elif not decoder.whole:
            raise self._lost("The compressed body ended before its end mark.")

    def _is_delimited(self) -> bool:
        """Whether the end of the body is told by more than the end of the connection."""
        version = self._response.extensions.get("http_version", b"")
        if not version.startswith(b"HTTP/1"):
            return True
        return any(name in self.head.headers for name in ("content-length", "transfer-encoding"))

    def _lost(self, message: str) -> ConnectionLost:
        return ConnectionLost(message, method=self._request.method, url=self._request.url)

    async def read(self) -> bytes:
        """The whole body; the connection is given back.

        Of a refusal it is as much as comes, up to 64 KiB, because its head says enough. Raises
        MalformedResponse for a success with more than ``MAX_BODY_BYTES``, after decompression.
        """
        refused = self.head.status >= 300
        limit = MAX_REFUSAL_BYTES if refused else MAX_BODY_BYTES
        parts: list[bytes] = []
        size = 0
        chunks = self.chunks()
        try:
            async for chunk in chunks:
                size += len(chunk)
                parts.append(chunk)
                if size > limit:
                    break
        except (TransportError, MalformedResponse):
            if not refused:
                raise
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]
            await self.aclose()
        if size > limit and not refused:
            raise MalformedResponse(
                f"The body holds more than {limit} bytes.",
                method=self._request.method,
                url=self._request.url,
                status=self.head.status,
                code="response-too-large",
                advice="Check that the URL is that of a stream, and let the server send less"
                " at a time.",
            )
        return b"".join(parts)

    async def aclose(self) -> None:
        try:
            await self._response.aclose()
        except Exception as error:
            if transport_error_of(error, method="", url="") is None:
                raise


class AsyncTransport:
    """Sends requests over connections of its own, or over an httpx client that was handed in.

    ``http`` may be an httpx client, which then is the caller's to close, or an httpx transport. Our
    own transport to an application takes requests directly, so that each of its waits can be ended.
    """

    def __init__(self, http: Any, *, http2: bool, verify: ssl.SSLContext | bool) -> None:
        self._given = http
        self._given_client = hasattr(http, "build_request")
        self._direct = http is None or isinstance(http, AsyncAsgiTransport)
        """Whether requests are sent without a client of httpx."""
        self._http2 = http2
        self._verify = verify
        self._shared: runtime.Local[Any] = runtime.Local(self._make, self._end)
        self.scopes: set[runtime.Scope] = set()
        """The waits that closing the client ends."""
        self._closed = False
        self._used = False
        self._inherited = False
        forking.register(self, AsyncTransport.after_fork)

    def _make(self) -> Any:
        if self._given is None:
            return AsyncPool(verify=self._verify, http2=self._http2)
        if self._given_client or self._direct:
            return self._given
        return httpx.AsyncClient(transport=self._given, timeout=None)  # noqa: S113 - each request has its own

    async def _end(self, shared: Any) -> None:
        if not self._given_client:
            await shared.aclose()

    async def _current(self) -> Any:
        if self._closed:
            raise ClientClosed("The client is closed.")
        if self._inherited:
            raise NotUsableHere(
                "The HTTP client or transport handed in has connections of the parent process.",
                advice="Make it, and the client that uses it, after the fork.",
            )
        self._used = True
        return await self._shared.get()

    def after_fork(self) -> None:
        # Only what was handed in keeps connections that we cannot reach.
        self.scopes = set()
        self._inherited = self._given is not None and (self._used or self._inherited)

    async def open(
        self,
        request: Request,
        headers: list[tuple[str, str]],
        timeout: dict[str, float | None],
    ) -> AsyncResponse:
        """Send ``request`` and return its response as soon as the head has come.

        ``headers`` are all of its header fields. ``timeout`` has the keys of httpx: connect, read,
        write and pool, in seconds. Redirects within the origin are followed; any other redirect
        is a response like others.
        """
        for left in range(MAX_REDIRECTS, -1, -1):
            response = AsyncResponse(await self._send(request, headers, timeout), request)
            target = wire.redirect_of(request, response.head) if left else None
            if target is None:
                break
            await response.aclose()
            request = target
        return response

    async def _send(
        self,
        request: Request,
        headers: list[tuple[str, str]],
        timeout: dict[str, float | None],
    ) -> Any:
        shared = await self._current()
        try:
            if self._direct:
                return await shared.send(wire.request_of(request, headers, timeout))
            return await httpx_client.send(
                shared,
                shared.build_request(
                    request.method,
                    with_params(request.url, request.params),
                    headers=headers,
                    content=request.content,
                    extensions={"timeout": timeout},
                ),
            )
        except Exception as error:
            known = transport_error_of(error, method=request.method, url=request.url)
            if known is None:
                raise
            raise known from error

    async def aclose(self) -> None:
        """End every wait with ClientClosed, and close all connections but those handed in."""
        self._closed = True
        for scope in list(self.scopes):
            scope.close()
        await self._shared.close()
