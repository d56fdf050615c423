"""The producer: many small appends, gathered into batches and stored exactly once (§5.2.1)."""

import logging
import secrets
import time
import warnings
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from durable_streams_client import forking
from durable_streams_client._async import runtime
from durable_streams_client._async.context import AsyncContext
from durable_streams_client._async.sending import AsyncSender
from durable_streams_client.encoding import encoder_for, kind_of
from durable_streams_client.errors import (
    Cancelled,
    ClientError,
    InvalidArgument,
    NotUsableHere,
    StreamClosed,
    public_url,
)
from durable_streams_client.messages import Appended
from durable_streams_client.options import Extra
from durable_streams_client.producing import (
    FULL,
    QUIETLY,
    ProducerLimits,
    ProducerMachine,
    TracedMachine,
    check_producer,
)
from durable_streams_client.unfinished import unwatch, watch

logger = logging.getLogger("durable_streams_client")

EXIT_PATIENCE = 5.0
"""How many seconds the end of a program waits for the next acknowledgement."""


class AsyncProducer:
    """A writer that sends appends in batches, and stores each exactly once and in order (§5.2.1).

    Made by ``AsyncStream.producer``. Use it in a ``with`` block: leaving the block waits until
    everything is stored. Tasks and threads may share it. ``id`` is its producer id.

    ``append`` returns before the data is stored, and waits only while the queue is full. The
    producer gives up when a batch is refused or its attempts are used up: the next call then raises
    ``NotStored``, which holds everything that was not stored, and so does every later call.

    Long because each method has its contract and its example here.

    >>> async with stream.producer() as producer:
    ...     await producer.append(4)
    ...     await producer.append_many([5, 6])
    ...     await producer.flush()
    ...     print(producer.acknowledged, producer.pending, producer.offset)
    3 0 00000006
    """

    def __init__(
        self,
        context: AsyncContext,
        url: str,
        extra: Extra,
        ask_content_type: Callable[[], Awaitable[str]],
        *,
        machine: ProducerMachine,
        producer_id: str,
    ) -> None:
        self.id = producer_id
        self._url = url
        self._ask_content_type = ask_content_type
        self._machine = machine
        self._sender = AsyncSender(
            context.calls, url, extra, machine=machine, producer_id=producer_id
        )
        self._mutex = self._sender.mutex
        self._encode: Callable[[Any], bytes] | None = None
        self._inherited = False
        self._loss_is_known = False
        """Whether the caller knows of what was not stored, or has discarded it."""
        forking.register(self, AsyncProducer._after_fork)
        watch(self, AsyncProducer._finish_at_exit)

    def _after_fork(self) -> None:
        """Be unusable in the child: the parent owns the sequence numbers and the queue."""
        self._sender.leave_to_parent()
        self._mutex = self._sender.mutex
        self._inherited = self._loss_is_known = True

    # -- state ---------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch that it sends; it rises if the producer claims its id from an earlier run."""
        return self._machine.epoch

    @property
    def pending(self) -> int:
        """The number of items accepted and not yet acknowledged by the server."""
        return self._machine.accepted - self._machine.acknowledged

    @property
    def acknowledged(self) -> int:
        """The number of items that the server has acknowledged, duplicates included."""
        return self._machine.acknowledged

    @property
    def duplicates(self) -> int:
        """The number of items that the server took for repeats of an earlier producer's.

        It is above 0 only if another producer has used the same id and epoch.
        """
        return self._machine.duplicates

    @property
    def offset(self) -> str | None:
        """The tail after the last acknowledged batch, or None before the first."""
        return self._machine.offset or None

    @property
    def last_seq(self) -> int:
        """The highest acknowledged sequence number, or -1 before the first."""
        return self._machine.last_seq

    # -- appending ---------------------------------------------------------------------------------

    async def append(self, data: Any) -> None:
        """Accept one item, and return before it is stored.

        It waits only while ``ProducerLimits.queue_bytes`` or ``queue_items`` are pending. ``data``
        is encoded at once, as ``AsyncStream.append`` does, so it may be changed afterwards. The
        first append may ask the server for the content type.

        Raises ``InvalidArgument`` for data that cannot be encoded, or if the producer was closed;
        ``NotStored`` if an earlier item could not be stored; ``StreamClosed`` after
        ``close_stream``; ``NotUsableHere`` in another event loop or in a forked process.

        >>> async with stream.producer() as producer:
        ...     await producer.append(4)
        """
        encode = self._encode
        if encode is None:
            encode = await self._prepare()
        part = encode(data)
        machine = self._machine
        with self._mutex:
            usable = not (machine.failing or machine.closing or self._sender.stopped)
            added = machine.add(part) if usable else FULL
        if added is not QUIETLY:
            await self._added(part, full=added is FULL)

    async def append_many(self, items: Any) -> None:
        """Accept several items, one after the other. Raises what ``append`` raises.

        >>> async with stream.producer() as producer:
        ...     await producer.append_many(range(4, 7))
        >>> await stream.read("00000003").read_items()
        [4, 5, 6]
        """
        for data in items:
            await self.append(data)

    async def _added(self, part: bytes, *, full: bool) -> None:
        """Finish an append that wakes a sender or has to wait for room in the queue."""
        self._check_owner()
        while full:
            version = self._sender.changed.version
            with self._mutex:
                await_failure = self._machine.failing and self._machine.failure is None
                if not await_failure:
                    self._check_usable()
                    full = self._machine.add(part) is FULL
            if full:
                await self._sender.changed.wait(version)
        self._sender.wake(self)

    def _check_owner(self) -> None:
        if self._inherited:
            raise NotUsableHere(
                "The producer was made before the fork, and belongs to the parent process.",
                url=self._url,
                advice="Make a producer in the child.",
            )
        self._sender.check_owner()

    def _check_failure(self) -> None:
        if self._machine.failure is not None:
            self._loss_is_known = True
            raise self._machine.failure

    def _check_usable(self) -> None:
        self._check_owner()
        self._check_failure()
        if self._sender.stopped:
            raise InvalidArgument("the producer is closed", url=self._url)
        if self._machine.closing:
            raise StreamClosed("This producer has closed the stream.", method="POST", url=self._url)

    async def _prepare(self) -> Callable[[Any], bytes]:
        """Learn the stream's content type, and how to encode for it."""
        self._check_owner()
        content_type = self._sender.content_type = await self._ask_content_type()
        self._encode = encoder_for(kind_of(content_type))
        return self._encode

    # -- waiting -----------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Wait until everything accepted so far is stored.

        Raises ``NotStored`` if some of it could not be; ``Cancelled`` if the producer is closed
        meanwhile; ``NotUsableHere`` in another event loop or in a forked process.

        >>> async with stream.producer() as producer:
        ...     await producer.append(4)
        ...     await producer.flush()
        ...     print(producer.pending)
        0
        """
        self._check_owner()
        with self._mutex:
            self._check_failure()
            target = self._machine.flush()
        if self._machine.acknowledged < target:
            self._sender.wake(self)
        await self._wait(lambda: self._machine.acknowledged >= target)

    async def close_stream(self, data: Any = None) -> Appended:
        """Store everything, then close the stream for ever, with ``data`` as a last item if given.

        Returns an ``Appended`` with the final offset, as ``AsyncStream.close_stream`` does. Calling
        it again changes nothing (§5.3).

        Raises what ``flush`` raises, and ``InvalidArgument`` for data that cannot be encoded.

        >>> async with stream.producer() as producer:
        ...     await producer.append(4)
        ...     closed = await producer.close_stream()
        >>> closed.offset, closed.closed
        ('00000004', True)
        """
        self._check_owner()
        encode = self._encode or await self._prepare()
        parts = [] if data is None else [encode(data)]
        with self._mutex:
            if not self._machine.closing:
                self._check_usable()
                self._machine.close(parts)
        self._sender.wake(self)
        await self._wait(lambda: self._machine.closed)
        return Appended(self._machine.offset, closed=True)

    async def _wait(self, is_reached: Callable[[], bool]) -> None:
        while True:
            version = self._sender.changed.version
            with self._mutex:
                self._check_failure()
                if is_reached():
                    return
                if self._sender.stopped:
                    raise Cancelled("The producer was closed.", url=self._url)
            await self._sender.changed.wait(version)

    async def aclose(self, *, flush: bool = True) -> None:
        """Flush and stop. The stream stays open; see ``close_stream``.

        With ``flush=False`` items that are not acknowledged yet are discarded. Raises what
        ``flush`` raises; the producer is closed all the same. Closing it again does nothing.

        >>> producer = stream.producer()
        >>> await producer.append(4)
        >>> await producer.aclose()
        >>> producer.acknowledged
        1
        """
        if self._inherited:
            return
        try:
            if flush and not self._sender.stopped:
                await self.flush()
        finally:
            unwatch(self)
            self._loss_is_known = self._loss_is_known or not flush
            await self._sender.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self.aclose()
            return
        # Items accepted before an ordinary error are still stored. A task that is cancelled, or a
        # program that is interrupted, does not want to wait.
        if not isinstance(error, Exception) and not self._machine.idle:
            logger.warning("%s", self._loss("was interrupted"))
        try:
            await self.aclose(flush=isinstance(error, Exception))
        except ClientError as lost:
            if lost is not error:
                error.add_note(f"The producer also failed: {lost}")

    # -- ending without being closed ---------------------------------------------------------------

    def _finish_at_exit(self) -> None:
        """Send what is pending if this flavour can still wait, and warn about the rest."""
        with self._mutex:
            target = self._machine.flush()
        self._sender.changed.notify()

        def unacknowledged() -> int:
            machine = self._machine
            return 0 if machine.failure is not None else target - machine.acknowledged

        runtime.wait_at_exit(self._sender.changed, unacknowledged, EXIT_PATIENCE)
        self._warn("was not closed before the program ended")

    def _warn(self, what: str) -> None:
        if self._loss_is_known or self.pending <= 0:
            return
        self._loss_is_known = True
        warnings.warn(
            f"{self._loss(what)} Use it in a `with` block, or close it.",
            RuntimeWarning,
            stacklevel=3,
        )

    def _loss(self, what: str) -> str:
        cause = self._machine.failure.cause.message if self._machine.failure is not None else ""
        return (
            f"{self!r} {what}: {self.pending} of {self._machine.accepted} items were not stored, or"
            f" not acknowledged.{' ' if cause else ''}{cause}"
        )

    def __del__(self) -> None:
        if hasattr(self, "_loss_is_known"):
            self._warn("was dropped without being closed")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r} of {public_url(self._url)}>"


def new_producer(
    context: AsyncContext,
    url: str,
    extra: Extra,
    ask_content_type: Callable[[], Awaitable[str]],
    *,
    producer_id: str | None,
    epoch: int | None,
    auto_claim: bool | None,
    limits: ProducerLimits,
) -> AsyncProducer:
    """Make a producer, with defaults for what was left out; raises ``InvalidArgument``."""
    named = producer_id is not None
    producer_id = producer_id if producer_id is not None else f"py-{secrets.token_hex(12)}"
    check_producer(producer_id, epoch)
    fresh = epoch is None
    if auto_claim is None:
        auto_claim = fresh
    if epoch is None:
        # Greater than every epoch of an earlier run under this name, and different from that of
        # another instance that starts in the same millisecond.
        epoch = time.time_ns() // 1_000_000 * 1000 + secrets.randbelow(1000) if named else 0
    tracing = context.calls.options.tracing
    if tracing is None:
        machine = ProducerMachine(limits, epoch, auto_claim, time.monotonic, fresh)
    else:
        machine = TracedMachine(
            limits, epoch, auto_claim, time.monotonic, fresh, current=tracing.current
        )
    return AsyncProducer(
        context, url, extra, ask_content_type, machine=machine, producer_id=producer_id
    )
