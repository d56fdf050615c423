"""Sends one request and takes its answer, over httpx or a client of the same shape.

The one place that knows the HTTP library. Its exceptions are turned into ours here, and every
answer that is not read to its end gives its connection back.
"""

from collections.abc import AsyncIterator
from typing import Any

from durable_streams_client import forking
from durable_streams_client._async import connections, runtime
from durable_streams_client.addresses import with_params
from durable_streams_client.decoding import CorruptCoding, UnknownCoding, decoder_of
from durable_streams_client.errors import (
    ClientClosed,
    ConnectionLost,
    MalformedAnswer,
    NotUsableHere,
    TransportError,
)
from durable_streams_client.faults import fault_of
from durable_streams_client.messages import Head, Request

MAX_BODY_BYTES = 128 * 1024 * 1024
"""Four times the largest append that our server takes by default."""
MAX_REFUSAL_BYTES = 64 * 1024

_SAFE_METHODS = ("GET", "HEAD")


class AsyncAnswer:
    """An answer whose head has come. Read it, or close it."""

    def __init__(self, response: Any, request: Request) -> None:
        self._response = response
        self._request = request
        self.head = Head(
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
            raise MalformedAnswer(
                f"The body cannot be decoded: {error}.",
                method=self._request.method,
                url=self._request.url,
                status=self.head.status,
                code="unknown-encoding",
            ) from None
        except CorruptCoding as error:
            raise self._lost(f"The compressed body is damaged: {error}.") from None
        except Exception as error:
            fault = fault_of(error, method=self._request.method, url=self._request.url)
            if fault is None:
                raise
            raise fault from error
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

        Of a refusal as much as there is, up to 64 KiB: its head says enough. Raises MalformedAnswer
        for a success with more than ``MAX_BODY_BYTES``, after decompression.
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
        except (TransportError, MalformedAnswer):
            if not refused:
                raise
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]
            await self.aclose()
        if size > limit and not refused:
            raise MalformedAnswer(
                f"The body holds more than {limit} bytes.",
                method=self._request.method,
                url=self._request.url,
                status=self.head.status,
                code="answer-too-large",
                advice="Check that the URL is that of a stream, and let the server send less"
                " at a time.",
            )
        return b"".join(parts)

    async def aclose(self) -> None:
        try:
            await self._response.aclose()
        except Exception as error:
            if fault_of(error, method="", url="") is None:
                raise


class AsyncTransport:
    """Connections to servers, made at the first request.

    ``http`` may be an httpx client, which then is the caller's to close, or an httpx transport.
    """

    def __init__(self, http: Any, *, http2: bool, verify: Any) -> None:
        self._given = http
        self._http2 = http2
        self._verify = verify
        self._http: runtime.Local[Any] = runtime.Local(self._make)
        self._owned = not hasattr(http, "build_request")
        self._closed = False
        self._used = False
        self._inherited = False
        forking.register(self)

    def _make(self) -> Any:
        if not self._owned:
            return self._given
        return connections.make_http(http2=self._http2, verify=self._verify, transport=self._given)

    def _client(self) -> Any:
        if self._closed:
            raise ClientClosed("The client is closed.")
        if self._inherited:
            raise NotUsableHere(
                "The HTTP client or transport handed in has connections of the parent process.",
                advice="Make it, and the client that uses it, after the fork.",
            )
        self._used = True
        return self._http.get()

    def after_fork(self) -> None:
        # Only what was handed in keeps connections that we cannot reach.
        self._inherited = self._given is not None and (self._used or self._inherited)

    async def open(
        self, request: Request, timeout: dict[str, float | None], *, compress: bool
    ) -> AsyncAnswer:
        """Send ``request`` and return its answer as soon as the head has come.

        ``timeout`` has the keys of httpx: connect, read, write and pool, in seconds.
        """
        http = self._client()
        headers = {"Accept-Encoding": "gzip, deflate" if compress else "identity"}
        headers.update(request.headers)
        try:
            built = http.build_request(
                request.method,
                with_params(request.url, request.params),
                headers=headers,
                content=request.content,
                extensions={"timeout": timeout},
            )
            response = await http.send(
                built, stream=True, follow_redirects=request.method in _SAFE_METHODS
            )
        except Exception as error:
            fault = fault_of(error, method=request.method, url=request.url)
            if fault is None:
                raise
            raise fault from error
        return AsyncAnswer(response, request)

    async def aclose(self) -> None:
        self._closed = True
        if self._owned:
            await self._http.close(_close)


async def _close(http: Any) -> None:
    await http.aclose()
