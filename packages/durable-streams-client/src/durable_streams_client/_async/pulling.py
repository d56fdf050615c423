"""A worker of a pull-wake subscription: it claims, reads, handles and acknowledges (§7.2)."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from durable_streams_client._async import runtime
from durable_streams_client._async.client import AsyncClient
from durable_streams_client._async.context import context_of
from durable_streams_client._async.reader import AsyncReader
from durable_streams_client._async.stream import AsyncStream
from durable_streams_client._async.subscriptions import AsyncSubscriptions
from durable_streams_client._async.transport import AsyncTransport
from durable_streams_client.addresses import url_below
from durable_streams_client.batches import Batch
from durable_streams_client.errors import (
    Cancelled,
    ClientError,
    InvalidArgument,
    MalformedResponse,
    NotFound,
    OffsetGone,
    is_retryable,
)
from durable_streams_client.options import Extra
from durable_streams_client.subscribing import (
    FENCED,
    INVALID_OFFSET,
    Claim,
    LinkedStream,
    SubscriptionRefused,
)
from durable_streams_core.protocol import NOW

logger = logging.getLogger("durable_streams_client")

BEATS = 3
"""The number of heartbeats within one lease."""
LEAST_PAUSE = 0.1
"""The least seconds between two heartbeats, even of a shorter lease."""


class AsyncPullWorker:
    """A worker that handles the pending batches of one pull-wake subscription (§7.2).

    - ``subscription``: the id of the subscription.
    - ``handler``: called with the path of a stream and a ``Batch``, for the batches of each stream
      with pending work, in order; it may be a coroutine function. When it returns, the batch is
      acknowledged. While it runs, the lease is extended. When it raises, the lease is released
      and ``run`` raises the same error.
    - ``name``: names this worker to the server and in the log.

    A batch that was not acknowledged comes again, to this worker or another: a handler sees each
    batch at least once.

    >>> def handle(path, batch):
    ...     print(path, batch.items())
    >>> worker = AsyncPullWorker(client, "jobs", handle, name="worker-7")
    >>> await worker.work_once()
    numbers [1, 2, 3]
    True
    """

    def __init__(
        self,
        client: AsyncClient,
        subscription: str,
        handler: Callable[[str, Batch[Any]], Awaitable[object] | object],
        *,
        name: str,
    ) -> None:
        self.subscription = subscription
        self.name = name
        self._context = context_of(client)
        self._transport = self._context.calls.transport
        self._subscriptions = AsyncSubscriptions(client)
        self._handler = handler
        self._stopping = False
        self._pause = runtime.Scope(self._transport.scopes)
        self._reader: AsyncReader[Any] | None = None
        self._failure: BaseException | None = None
        """The error that the handler raised. It may be a ``ClientError`` of another call."""

    def stop(self) -> None:
        """Let ``run`` return once the current batch is handled. From any task or thread.

        >>> worker = AsyncPullWorker(client, "jobs", print, name="worker-7")
        >>> worker.stop()
        >>> await worker.run()
        """
        self._stopping = True
        self._pause.cancel()
        reader = self._reader
        if reader is not None:
            reader.cancel()

    async def run(self) -> None:
        """Claim and handle pending work, and wait for wakes in between, until ``stop``.

        Faults of the network and the server are waited out, with growing pauses. So are claims
        without a batch to acknowledge, for example of a stream that was deleted.

        Raises what the handler raises, at once; ``InvalidArgument`` if this is not a pull-wake
        subscription; ``SubscriptionRefused`` if there is no such subscription; ``NotFound`` if
        its wake stream was deleted or closed; other errors of a request that cannot succeed later.

        >>> def handle(path, batch):
        ...     print(path, batch.items())
        ...     worker.stop()
        >>> worker = AsyncPullWorker(client, "jobs", handle, name="worker-7")
        >>> await worker.run()
        numbers [1, 2, 3]
        """
        described = await self._subscriptions.get(self.subscription)
        if described.wake_stream is None:
            raise InvalidArgument(f"{self.subscription} is not a pull-wake subscription")
        wakes = self._stream(described.wake_stream)
        # The tail of the wake stream first, then a claim: a wake that comes in between is read.
        offset = (await wakes.head()).offset or NOW
        backoff = self._context.calls.backoff(None)
        while not self._stopping:
            try:
                lease = await self._claim_and_work()
                if lease is None:
                    try:
                        offset = await self._next_wake(wakes.follow(offset), offset)
                    except OffsetGone:
                        # The wake stream was replaced. The next claim finds all pending work.
                        offset = (await wakes.head()).offset or NOW
                elif lease.acked:
                    backoff.progress()
                elif not self._stopping:
                    delay = backoff.failed()
                    assert delay is not None, "its attempts are without bound"
                    logger.warning(
                        "%s: no batch of %s could be acknowledged; claiming again in %.3g s",
                        self.name,
                        self.subscription,
                        delay,
                    )
                    await self._sleep(delay)
            except ClientError as error:
                if error is self._failure:
                    raise
                if isinstance(error, Cancelled):
                    continue
                delay = backoff.failed(None) if is_retryable(error) else None
                if delay is None:
                    raise
                logger.warning("%s: %s; trying again in %.3g s", self.name, error.message, delay)
                await self._sleep(delay)

    async def _sleep(self, seconds: float) -> None:
        """A pause that :meth:`stop` ends."""
        try:
            async with self._pause:
                await self._pause.sleep(seconds)
        except Cancelled:
            logger.debug("%s was stopped while it paused", self.name)

    async def work_once(self) -> bool:
        """Claim what is pending and work on it; False if there was nothing to claim.

        >>> worker = AsyncPullWorker(client, "jobs", lambda path, batch: None, name="worker-7")
        >>> await worker.work_once(), await worker.work_once()
        (True, False)
        """
        return await self._claim_and_work() is not None

    async def _claim_and_work(self) -> "_Lease | None":
        """The lease that was worked under, which is over; None if there was nothing to claim."""
        claim = await self._subscriptions.claim(self.subscription, self.name)
        if claim is None:
            return None
        lease = _Lease(self._subscriptions, self._transport, claim)
        try:
            for stream in claim.streams:
                if stream.has_pending and not self._stopping and not lease.lost:
                    await self._work_on(lease, stream)
        except BaseException:
            await lease.release()
            raise
        if self._stopping:
            await lease.release()
        else:
            await lease.finish()
        return lease

    def _stream(self, path: str) -> AsyncStream:
        """The stream at ``path``, which is never taken for a URL, whatever it looks like."""
        url = url_below(self._context.base_url, path)
        return AsyncStream(self._context, url, Extra([], []), content_type=None)

    async def _work_on(self, lease: "_Lease", stream: LinkedStream) -> None:
        """Handle the pending batches of one stream."""
        reader = self._stream(stream.path).read(stream.acked_offset)
        self._reader = reader
        try:
            async for batch in reader:
                try:
                    await lease.keep_while(self._handler, stream.path, batch)
                except BaseException as error:
                    self._failure = error
                    raise
                await lease.ack(stream.path, batch.offset)
                if lease.lost or self._stopping:
                    return
                if stream.tail_offset is not None and batch.offset >= stream.tail_offset:
                    return
        except NotFound as error:
            if error is self._failure:
                raise
            logger.info("%s was deleted, so it has no pending work", stream.path)
        except OffsetGone as error:
            if error is self._failure:
                raise
            # The server starts over with the stream that replaced it, and so does the next claim.
            logger.warning("%s: %s", stream.path, error.message)
        except SubscriptionRefused as error:
            if error is self._failure or error.code != INVALID_OFFSET:
                raise
            logger.warning("%s was replaced during the work on it: %s", stream.path, error.message)
        finally:
            self._reader = None
            await reader.aclose()

    async def _next_wake(self, reader: AsyncReader[Any], offset: str) -> str:
        """Wait for a wake of this subscription; return the offset after it."""
        self._reader = reader
        try:
            if self._stopping:
                return offset
            async for batch in reader:
                offset = batch.offset
                if self._has_wake(batch):
                    return offset
            raise NotFound("The wake stream was closed, so no more wakes will come.")
        finally:
            self._reader = None
            await reader.aclose()

    def _has_wake(self, batch: Batch[Any]) -> bool:
        """Whether the batch holds a wake of this subscription. Other events are ignored."""
        try:
            events = batch.items()
        except MalformedResponse as error:
            logger.warning("%s: %s; claiming all the same", self.name, error.message)
            return True
        return any(
            isinstance(event, dict) and event.get("subscription_id") == self.subscription
            for event in events
        )


class _Lease:
    """The lease of one claim, kept alive while a handler runs."""

    def __init__(
        self, subscriptions: AsyncSubscriptions, transport: AsyncTransport, claim: Claim
    ) -> None:
        self.lost = False
        self.acked = False
        """Whether a batch was acknowledged under it."""
        self._subscriptions = subscriptions
        self._transport = transport
        self._claim = claim
        self._over = False
        self._changed = runtime.Notifier()

    async def keep_while(
        self, handler: Callable[[str, Batch[Any]], Any], path: str, batch: Batch[Any]
    ) -> None:
        """Run the handler, and extend the lease until it returns."""
        self._over = False
        beating = runtime.Worker(
            self._beat,
            "durable-streams-heartbeat",
            self._transport.scopes,
        )
        try:
            await runtime.resolve(handler(path, batch))
        finally:
            self._over = True
            self._changed.notify()
            await beating.join(5.0)

    async def _beat(self) -> None:
        while not self._finished():
            version = self._changed.version
            await self._changed.wait(version, max(self._claim.lease_seconds / BEATS, LEAST_PAUSE))
            if self._finished():
                return
            try:
                await self._subscriptions.ack(self._claim)
            except SubscriptionRefused as refused:
                self._lose(refused)
            except ClientError as error:
                logger.warning("a heartbeat failed: %s", error.message)

    def _finished(self) -> bool:
        return self._over or self.lost

    def _lose(self, refused: SubscriptionRefused) -> None:
        self.lost = True
        logger.warning("the lease of %s is over: %s", self._claim.subscription, refused.message)

    async def ack(self, path: str, offset: str) -> None:
        if not self.lost:
            try:
                await self._subscriptions.ack(self._claim, {path: offset})
                self.acked = True
            except SubscriptionRefused as refused:
                if refused.code != FENCED and refused.status != 404:
                    raise
                self._lose(refused)

    async def finish(self) -> None:
        if not self.lost:
            try:
                await self._subscriptions.ack(self._claim, done=True)
            except SubscriptionRefused as refused:
                if refused.code != FENCED and refused.status != 404:
                    raise
                self._lose(refused)

    async def release(self) -> None:
        """Let another worker claim now what it could claim after the lease."""
        if not self.lost:
            try:
                await self._subscriptions.release(self._claim)
            except ClientError as error:
                logger.warning("a lease could not be released: %s", error.message)
