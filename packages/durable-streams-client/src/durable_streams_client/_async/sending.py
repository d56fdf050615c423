"""Sends the batches of a producer, several at a time.

Takes batches from a :class:`~durable_streams_client.producing.ProducerMachine`, sends each until
its outcome is known, and tells the machine.
"""

import time
from collections.abc import Callable
from functools import partial

from durable_streams_client import forking, messages
from durable_streams_client._async import runtime
from durable_streams_client._async.calls import AsyncCalls, retry_after
from durable_streams_client.encoding import join, kind_of
from durable_streams_client.errors import (
    Cancelled,
    ClientError,
    Fenced,
    NotUsableHere,
    SequenceGap,
    TooLarge,
    is_retryable,
    is_unapplied,
)
from durable_streams_client.messages import Producing, Request, error_of
from durable_streams_client.options import Extra
from durable_streams_client.parsing import parse_number
from durable_streams_client.producing import Outgoing, ProducerMachine
from durable_streams_client.spans import Span
from durable_streams_core import protocol


class AsyncSender:
    """The workers of one producer, started as they are needed; one for each batch in flight.

    ``mutex`` guards the machine, and ``changed`` is notified of every change of it.
    The producer sets ``content_type`` before there is anything to send.
    """

    def __init__(
        self,
        calls: AsyncCalls,
        url: str,
        extra: Extra,
        *,
        machine: ProducerMachine,
        producer_id: str,
    ) -> None:
        self.content_type = protocol.DEFAULT_CONTENT_TYPE
        self.mutex = runtime.Mutex()
        self.changed = runtime.Notifier()
        self.stopped = False
        self._url = url
        self._calls = calls
        self._extra = extra
        self._machine = machine
        self._producer_id = producer_id
        self._workers: list[runtime.Worker] = []
        self._idle_workers = 0
        self._owner: object = None
        """The event loop in which the workers run."""

    def leave_to_parent(self) -> None:
        """Stop in a forked child, without touching what belongs to the parent."""
        forking.keep((self.mutex, self.changed, self._workers))
        self.mutex = runtime.Mutex()
        self.changed = runtime.Notifier()
        self._workers = []
        self.stopped = True

    def check_owner(self) -> None:
        """Raise NotUsableHere in another event loop than that of the workers."""
        if self._workers and self._owner is not runtime.owner():
            raise NotUsableHere(
                "The producer was used in another event loop, where its senders run.",
                url=self._url,
                advice="Make a producer in each event loop.",
            )

    def wake(self, producer: object) -> None:
        """Let a worker look for a batch, a new one if all are busy and one more may be.

        The workers keep ``producer`` alive, so that the end of the program finds it and can wait
        for what they still send.
        """
        with self.mutex:
            spawn = not self._idle_workers and len(self._workers) < self._machine.limits.in_flight
            if spawn:
                self._owner = runtime.owner()
                self._workers.append(
                    self._calls.worker(
                        partial(self._work, producer), f"producer {self._producer_id}"
                    )
                )
        if not spawn:
            self.changed.notify()

    async def stop(self) -> None:
        """Stop all workers; batches that are not acknowledged are given up."""
        with self.mutex:
            self.stopped = True
            if not self._machine.idle:
                self._machine.abandon(Cancelled("The producer was closed.", url=self._url))
            workers, self._workers = self._workers, []
        self.changed.notify()
        for worker in workers:
            await worker.stop()

    async def _work(self, producer: object) -> None:
        while True:
            version = self.changed.version
            with self.mutex:
                if self.stopped or self._machine.failing:
                    return
                step = self._machine.next()
                epoch = self._machine.epoch
                if not isinstance(step, Outgoing):
                    self._idle_workers += 1
            if isinstance(step, Outgoing):
                await self._send(step, epoch)
                continue
            try:
                await self.changed.wait(version, step)
            finally:
                with self.mutex:
                    self._idle_workers -= 1

    async def _send(self, batch: Outgoing, epoch: int) -> None:
        """Send one batch until its outcome is known, within the total time limit."""
        total = self._calls.options.timeouts.total
        known = False
        try:
            with self._calls.batch_span(self._url, batch.parents) as span:
                request = self._request(batch, epoch)
                async with (
                    runtime.Limit(total, f"A batch was not stored within {total} seconds."),
                    self._calls.scope(),
                ):
                    stored = await self._deliver(batch, request, span)
            known = True
            with self.mutex:
                stored()
            self.changed.notify()
        except Exception as error:
            # Every exception, because `flush` would wait for ever if a worker ended with one.
            known = True
            failure = error
            if not isinstance(failure, ClientError):
                failure = ClientError(f"Sending failed: {error!r}", method="POST", url=self._url)
                failure.__cause__ = error
            if not is_unapplied(failure):
                batch.uncertain = True
            self._failed(batch, failure)
        finally:
            if not known:
                with self.mutex:
                    self._machine.release(
                        batch, Cancelled("The producer was stopped.", url=self._url)
                    )
                self.changed.notify()

    def _request(self, batch: Outgoing, epoch: int) -> Request:
        return messages.append_request(
            self._url,
            join(kind_of(self.content_type), batch.parts) if batch.parts else b"",
            content_type=self.content_type,
            close=batch.close,
            producing=Producing(self._producer_id, epoch, batch.seq),
        )

    async def _deliver(self, batch: Outgoing, request: Request, span: Span) -> Callable[[], None]:
        """Send one batch until it is stored; returns the step that tells the machine so."""
        backoff = self._calls.backoff(self._calls.options.retry.attempts)
        while True:
            try:
                head, body = await self._calls.exchange(request, extra=self._extra, span=span)
                if head.status >= 300:
                    raise error_of(request, head, body)
                appended = messages.appended_of(self._url, head, producing=True)
            except ClientError as error:
                if not is_unapplied(error):
                    batch.uncertain = True
                delay = backoff.failed(retry_after(error)) if is_retryable(error) else None
                if delay is None or self._machine.failing:
                    raise
                self._calls.note(error, backoff.failures, delay, span)
                await self._pause(delay)
            else:
                return partial(
                    self._machine.stored,
                    batch,
                    # A close without data gets 204 the first time too (§5.3).
                    duplicate=appended.duplicate and bool(batch.parts),
                    seq=parse_number(head.get(protocol.PRODUCER_SEQ)),
                    epoch=parse_number(head.get(protocol.PRODUCER_EPOCH)),
                    offset=appended.offset,
                )

    def _failed(self, batch: Outgoing, error: ClientError) -> None:
        with self.mutex:
            if isinstance(error, SequenceGap):
                self._machine.gap(batch, error.expected, error)
            elif isinstance(error, Fenced):
                self._machine.fenced(batch, error)
            elif isinstance(error, TooLarge):
                self._machine.too_large(batch, error)
            else:
                self._machine.refused(error)
        self.changed.notify()

    async def _pause(self, seconds: float) -> None:
        """Wait before the next attempt, but no longer than the producer lives."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            version = self.changed.version
            if self._machine.failing or self.stopped:
                return
            await self.changed.wait(version, left)
