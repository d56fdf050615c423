"""One operation: a request, sent again where that helps and cannot do harm."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from durable_streams_client._async import runtime
from durable_streams_client._async.transport import AsyncResponse, AsyncTransport
from durable_streams_client.errors import (
    ClientError,
    ResponseError,
    TimedOut,
    is_retryable,
    is_unapplied,
)
from durable_streams_client.fields import check_header, check_param, merged
from durable_streams_client.messages import Request, ResponseHead, WholeResponse, error_of
from durable_streams_client.options import Extra, Options, Retry
from durable_streams_client.retry import Backoff, parse_retry_after
from durable_streams_client.spans import UNTRACED, Span

logger = logging.getLogger("durable_streams_client")


class AsyncCalls:
    """Sends the requests of one client.

    ``headers`` and ``params`` are pairs whose values may be functions; these are asked at every
    request, repeats included.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        options: Options,
        headers: list[tuple[str, Any]],
        params: list[tuple[str, Any]],
    ) -> None:
        self.transport = transport
        self.options = options
        self._headers = headers
        self._params = params

    def without_header(self, name: str) -> "AsyncCalls":
        """The same, except that the client's own header ``name`` is not sent."""
        headers = [pair for pair in self._headers if pair[0].lower() != name]
        return AsyncCalls(self.transport, self.options, headers, self._params)

    def scope(self) -> runtime.Scope:
        """A block of waits that closing the client ends."""
        return runtime.Scope(self.transport.scopes)

    def worker(self, work: runtime.Work, name: str) -> runtime.Worker:
        """Start ``work`` beside the caller; closing the client ends its waits."""
        return runtime.Worker(work, name, self.transport.scopes)

    def backoff(self, attempts: int | None) -> Backoff:
        return Backoff(self.options.retry, attempts, self.options.random)

    def span(self, method: str, action: str, url: str, *, resent: int = 0) -> Span:
        """The span of a call, named by its main request and the server's word for what it does.

        ``resent`` is how often the request was sent before, if each time is a call of its own.
        """
        tracing = self.options.tracing
        return UNTRACED if tracing is None else tracing.call(method, action, url, resent)

    def batch_span(self, url: str, parents: Mapping[int, Any]) -> Span:
        """The span of a producer's batch; ``parents`` are the spans of the appends in it."""
        tracing = self.options.tracing
        return UNTRACED if tracing is None else tracing.batch(url, parents)

    async def open(
        self,
        request: Request,
        *,
        extra: Extra,
        span: Span,
        read: float | None,
        compress: bool | None = None,
    ) -> AsyncResponse:
        """Send ``request`` once; ``read`` is the longest silence in seconds."""
        compress = self.options.compress if compress is None else compress
        headers = merged(
            [("Accept-Encoding", "gzip, deflate" if compress else "identity")],
            await _resolved(self._headers),
            await _resolved(extra.headers),
            request.headers.items(),
        )
        for name, value in headers:
            check_header(name, value)
        params = list(request.params)
        for name, value in await _resolved([*self._params, *extra.params]):
            check_param(name, value)
            params.append((name, value))
        limits = self.options.timeouts
        response = await self.transport.open(
            Request(request.method, request.url, request.headers, params, request.content),
            span.carried(headers),
            {"connect": limits.connect, "read": read, "write": limits.read, "pool": limits.connect},
        )
        span.responded(response.head.status)
        return response

    async def call(
        self,
        request: Request,
        *,
        extra: Extra,
        span: Span,
        repeatable: bool = True,
        accept: tuple[int, ...] = (),
    ) -> WholeResponse:
        """Send until there is a response that counts; raises ``ClientError``.

        Unless ``repeatable``, it is sent again only when it certainly changed nothing. A response
        with a status in ``accept`` counts even if it is an error.
        """
        total = self.options.timeouts.total
        last: ClientError | None = None
        try:
            async with (
                runtime.Limit(total, f"The call took longer than {total} seconds."),
                self.scope() as scope,
            ):
                backoff = self.backoff(self.options.retry.attempts)
                uncertain = False
                while True:
                    try:
                        head, body = await self.exchange(request, extra=extra, span=span)
                        if 200 <= head.status < 300 or head.status in accept:
                            return WholeResponse(head, body, uncertain)
                        raise error_of(request, head, body)
                    except ClientError as error:
                        last = error
                        unapplied = is_unapplied(error)
                        uncertain = uncertain or not unapplied
                        if not is_retryable(error) or not (repeatable or unapplied):
                            raise
                        delay = backoff.failed(retry_after(error))
                        if delay is None:
                            raise
                        self.note(error, backoff.failures, delay, span)
                    await scope.sleep(delay)
        except TimedOut as error:
            if last is None or error is last or total is None:
                error.about(request.method, request.url)
                raise
            raise TimedOut(
                f"The call took longer than {total} seconds; the last fault was: {last.message}",
                method=request.method,
                url=request.url,
            ) from last

    async def exchange(
        self, request: Request, *, extra: Extra, span: Span
    ) -> tuple[ResponseHead, bytes]:
        """Send once and take the whole response."""
        read = self.options.timeouts.read
        response = await self.open(request, extra=extra, span=span, read=read)
        return response.head, await response.read()

    def note(self, error: ClientError, attempt: int, delay: float, span: Span = UNTRACED) -> None:
        """Tell the log, the hook and the span that a request will be repeated.

        A reader gives no span: what it repeats is a call of its own.
        """
        logger.warning(
            "%s; trying again in %.3g s (attempt %d)", error.summary(), delay, attempt + 1
        )
        span.retried(error, delay)
        if self.options.on_retry is not None:
            self.options.on_retry(Retry(error, attempt, delay))


def retry_after(error: ClientError) -> float | None:
    """Seconds that the server asked to wait."""
    if isinstance(error, ResponseError):
        return parse_retry_after(error.retry_after, time.time())
    return None


async def _resolved(pairs: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    """The pairs with functions asked for their values; None leaves a pair out."""
    resolved = []
    for name, value in pairs:
        if callable(value):
            value = await runtime.resolve(value())  # noqa: PLW2901 - the value it stands for
        if value is not None:
            resolved.append((name, str(value)))
    return resolved
