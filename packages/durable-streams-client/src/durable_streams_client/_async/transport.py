"""Sends one request and takes its answer, over httpx or a client of the same shape.

The one place that knows the HTTP library. Its exceptions are turned into ours here, and every
answer that is not read to its end gives its connection back.
"""

from collections.abc import AsyncIterator
from typing import Any

from durable_streams_client._async import connections, runtime
from durable_streams_client.addresses import with_params
from durable_streams_client.errors import ClientClosed
from durable_streams_client.faults import fault_of
from durable_streams_client.messages import Head, Request

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
        """The body as it comes, content encodings undone."""
        try:
            async for chunk in self._response.aiter_bytes():
                yield chunk
        except Exception as error:
            fault = fault_of(error, method=self._request.method, url=self._request.url)
            if fault is None:
                raise
            raise fault from error

    async def read(self) -> bytes:
        """The whole body; the connection is given back."""
        try:
            body: bytes = await self._response.aread()
        except Exception as error:
            fault = fault_of(error, method=self._request.method, url=self._request.url)
            if fault is None:
                raise
            raise fault from error
        finally:
            await self.aclose()
        return body

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
        self._http: Any = None
        self._owned = not hasattr(http, "build_request")
        self._closed = False
        self._mutex = runtime.Mutex()

    def _client(self) -> Any:
        with self._mutex:
            if self._closed:
                raise ClientClosed("The client is closed.")
            if self._http is None:
                self._http = (
                    self._given
                    if not self._owned
                    else connections.make_http(
                        http2=self._http2, verify=self._verify, transport=self._given
                    )
                )
            return self._http

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
        with self._mutex:
            self._closed = True
            http, self._http = self._http, None
        if http is not None and self._owned:
            await http.aclose()
