"""Commit queues: the operations on one stream are decided and committed in order.

While a commit is in flight the next operations gather; then they are decided in order on one
draft and become one commit. A commit belongs to the stream and not to the caller: a caller that
goes away only stops waiting. While a remote store does not know an outcome, the same commit is
sent again and the queue waits; a local store will not find out, and its callers get 504.

A local store is asked at once and calls back, so an operation costs no task; a store that commits
within the call needs no queue either. For any other store an operation is decided on the facts as
last seen: if they have changed since, the guard fails and the operation is decided again. A refusal
has no guard, so it is given only on facts that were just loaded.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

import msgspec

from durable_streams_core.drafts import Draft, Growth
from durable_streams_core.entities import (
    Applied,
    Commit,
    Conflicted,
    Facts,
    Outcome,
    Refused,
    Unknown,
)
from durable_streams_core.errors import ProtocolError, StreamClosed
from durable_streams_core.offsets import Offset
from durable_streams_core.operations import (
    Append,
    Appended,
    Create,
    Created,
    Delete,
    Operation,
    Unconfirmed,
)
from durable_streams_core.store import ImmediateStore, LocalStore, Store
from durable_streams_server.engine.limits import Limits
from durable_streams_server.engine.meter import EngineMeter
from durable_streams_server.engine.plain_appends import added_by, append_nowait, appended_by
from durable_streams_server.engine.quotas import Quotas
from durable_streams_server.engine.refusals import (
    STORE_FAILED,
    decision_failed,
    outcome_unknown,
    refused,
    stopped,
    store_failed,
    store_unreachable,
    too_contended,
    too_many_operations,
    too_much_data,
)
from durable_streams_server.engine.remote_commits import RemoteCommits

log = logging.getLogger("durable_streams_server.engine")

MAX_FLIGHT_BYTES = 8 * 1024 * 1024
MAX_REMEMBERED_QUEUES = 10_000
MAX_CONFLICTS = 1000

OnResult = Callable[[Any], None]
"""Gets the result of an operation, or the :class:`ProtocolError` that ends it."""


class Ticket(msgspec.Struct, eq=False):
    """One operation in a commit queue, with the callback for its result and its body's bytes."""

    operation: Operation[Any]
    on_result: OnResult | None
    size: int

    def cancel(self) -> None:
        """Stop waiting; the operation itself goes on."""
        self.on_result = None

    def finish(self, result: object) -> None:
        """Call back, the first time that this is called."""
        on_result, self.on_result = self.on_result, None
        if on_result is not None:
            try:
                on_result(result)
            except Exception:
                log.exception("a caller's completion failed")


class CommitQueue(msgspec.Struct, eq=False):
    """One stream's waiting and what is in flight for it."""

    path: str
    waiting: list[Ticket] = []
    flight: list[Ticket] = []
    busy: bool = False
    facts: Facts | None = None
    growth: Growth | None = None
    """What quotas hold back for the flight."""
    fresh: bool = False
    conflicts: int = 0

    def take(self) -> None:
        """Move what fits into one commit from the waiting into the flight.

        A stream that was created in a flight is not deleted in the same one: nothing would be
        stored then, and a later stream could get the offsets that its callers already have.
        """
        waiting = self.waiting
        size = 0
        created = False
        for position, ticket in enumerate(waiting):
            size += ticket.size
            kind = type(ticket.operation)
            ends_life = created and kind is Delete
            created = created or kind is Create
            if position and (ends_life or size > MAX_FLIGHT_BYTES):
                self.flight, self.waiting = waiting[:position], waiting[position:]
                return
        self.flight, self.waiting = waiting, []

    def fields(self) -> Sequence[str]:
        """The fields that the operations in flight may look at."""
        if len(self.flight) == 1:
            return self.flight[0].operation.fields
        return list(dict.fromkeys(key for t in self.flight for key in t.operation.fields))


class CommitIds:
    """Makes the ids by which a store recognises a resend: unique to one run of one process."""

    __slots__ = ("_numbers", "_prefix")

    def __init__(self) -> None:
        self._prefix = os.urandom(8).hex()
        self._numbers = count()

    def __call__(self) -> str:
        return f"{self._prefix}-{next(self._numbers):x}"


class CommitQueues:
    """All commit queues of an engine, and the way of their commits to a local store.

    :class:`RemoteCommits` is the way to any other store.

    ``applied`` is called after each commit with its draft and, unless the store is local, the facts
    after it; ``unconfirmed`` gets tickets that met a fork which its source has not
    confirmed yet.

    Long because the ways of a commit to an outcome, at once or later, share its queue and its
    counters.
    """

    def __init__(
        self,
        store: Store,
        limits: Limits,
        meter: EngineMeter,
        applied: Callable[[Draft, Commit, Facts | None], None],
        unconfirmed: Callable[[str, Ticket], None],
    ) -> None:
        self.meter = meter
        self._store = store
        self._local = store if isinstance(store, LocalStore) else None
        self._immediate = store if isinstance(store, ImmediateStore) else None
        self._limits = limits
        self.quotas: Quotas | None = None
        """How much may be stored, if anything bounds that."""
        self._applied = applied
        self._unconfirmed = unconfirmed
        self._queues: dict[str, CommitQueue] = {}
        self._queued_bytes = 0
        self._remote = RemoteCommits(store, limits.unknown_outcome, self)
        self._pending = 0
        self._emptied: asyncio.Event | None = None
        self.new_id = CommitIds()
        self._running = False

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or in flight."""
        return not self._pending

    async def drained(self) -> None:
        """Return once nothing is queued or in flight."""
        while self._pending:
            if self._emptied is None:
                self._emptied = asyncio.Event()
            await self._emptied.wait()

    async def abandon(self) -> None:
        """Stop asking for outcomes that the store does not tell, and tell whoever still waits."""
        self._running = False
        await self._remote.cancel()
        for queue in self._queues.values():
            for ticket in queue.flight:
                ticket.finish(outcome_unknown())
            waiting, queue.waiting = queue.waiting, []
            for ticket in waiting:
                ticket.finish(stopped())
        self._queues.clear()

    def resume(self) -> None:
        """Take operations, at first or again after :meth:`abandon`."""
        self.new_id = CommitIds()
        self._running = True
        self._pending = self._queued_bytes = 0

    def perform_nowait(self, path: str, operation: Operation[Any]) -> Any | None:
        """The result of an operation that can be done at once, else None: :meth:`submit` it.

        For operations whose result is never None. Raises the ProtocolError that ends it.
        """
        immediate = self._immediate
        if immediate is None or path in self._queues or not self._running:
            return None
        try:
            facts = immediate.peek(path, operation.fields)
        except Exception:
            log.exception(STORE_FAILED)
            raise store_failed() from None
        if facts is not None and type(operation) is Append:
            appended = append_nowait(immediate, path, operation, facts, self.quotas)
            if appended is not None:
                self.meter.alone += 1
                return appended
        draft = Draft(path, facts)
        try:
            result = operation.decide(draft, immediate.now())
        except Unconfirmed:
            return None
        except ProtocolError:
            if draft.changes:
                # A life that was over has been ended on the way, which is to be stored too.
                return None
            raise
        except Exception as error:
            raise decision_failed(operation, error) from None
        if draft.changes:
            quotas = self.quotas
            if quotas is not None:
                quotas.check_draft(draft)
            commit = draft.commit(self.new_id)
            try:
                outcome = immediate.commit_nowait((commit,))[0]
            except Exception:
                log.exception(STORE_FAILED)
                raise outcome_unknown() from None
            if type(outcome) is not Applied:
                if type(outcome) is Unknown:
                    self.meter.unknown += 1
                    raise outcome_unknown()
                # Nothing was done. In its queue it is decided again, or refused with a reason.
                return None
            if quotas is not None:
                quotas.add(path, draft.growth)
            self.meter.alone += 1
            self._follow_up(draft, commit, None)
            if outcome.timeline != draft.timeline:
                (result,) = relocated([result], draft, outcome)
        return result

    def submit(self, path: str, operation: Operation[Any], on_result: OnResult) -> Ticket:
        """Queue an operation; raises :class:`Unavailable` when too much is queued already.

        ``on_result`` may be called before this returns.
        """
        if not self._running:
            raise stopped()
        size = 0
        if type(operation) is Append or type(operation) is Create:
            size = len(operation.body.raw)
        queued = self._queued_bytes
        if size and queued and queued + size > self._limits.max_queued_bytes:
            raise too_much_data()
        queue = self._queues.get(path)
        if queue is None:
            queue = self._queues[path] = CommitQueue(path)
            if self._local is None and len(self._queues) > MAX_REMEMBERED_QUEUES:
                self._forget()
        elif len(queue.waiting) >= self._limits.max_queued:
            raise too_many_operations()
        self._queued_bytes += size
        ticket = Ticket(operation, on_result, size)
        if queue.busy:
            queue.waiting.append(ticket)
            return ticket
        queue.busy = True
        self._pending += 1
        local = self._local
        if local is not None:
            queue.flight = [ticket]
            self._decide_alone(queue, operation, local)
        else:
            queue.waiting.append(ticket)
            self._begin(queue)
        return ticket

    def _begin(self, queue: CommitQueue) -> None:
        queue.take()
        queue.conflicts = 0
        local = self._local
        if local is not None:
            self._decide_flight(queue, local)
            return
        queue.fresh = False
        self._remote.begin(queue)

    def decide(self, queue: CommitQueue, facts: Facts | None) -> tuple[Draft, list[Any]]:
        """Decide the operations in flight in order; returns their draft and their results."""
        draft = Draft(queue.path, facts)
        now = self._store.now()
        results: list[Any] = []
        quotas = self.quotas
        if queue.growth is not None:
            self._settle(queue, applied=False)
        for ticket in queue.flight:
            try:
                if quotas is None:
                    result = ticket.operation.decide(draft, now)
                else:
                    draft, result = quotas.decide(draft, ticket.operation, now)
                results.append(result)
            except (ProtocolError, Unconfirmed) as error:
                results.append(error)
            except Exception as error:
                results.append(decision_failed(ticket.operation, error))
        if quotas is not None:
            self._hold(queue, draft.growth)
        return draft, results

    def _hold(self, queue: CommitQueue, growth: Growth) -> None:
        """Have quotas count what the flight of a queue will add."""
        if self.quotas is not None:
            queue.growth = growth
            self.quotas.hold(queue.path, growth)

    def replace_quotas(self, quotas: Quotas | None) -> None:
        """Have other quotas from now on, for commits under way too."""
        before, self.quotas = self.quotas, quotas
        if quotas is not None and before is not None:
            quotas.adopt(before)
        for queue in self._queues.values():
            growth, queue.growth = queue.growth, None
            if growth is not None:
                self._hold(queue, growth)

    def _settle(self, queue: CommitQueue, *, applied: bool) -> None:
        """Tell quotas whether the flight of a queue was stored."""
        growth, queue.growth = queue.growth, None
        if growth is not None and self.quotas is not None:
            self.quotas.settle(queue.path, growth, applied=applied)

    def _decide_alone(
        self, queue: CommitQueue, operation: Operation[Any], local: LocalStore
    ) -> None:
        """Decide one operation, which nothing else waits with."""
        path, flight = queue.path, queue.flight
        try:
            facts = local.peek(path, operation.fields)
            if facts is not None and type(operation) is Append:
                try:
                    if self._send_append(queue, operation, facts, local):
                        return
                except ProtocolError as error:
                    self.finish(queue, [error])
                    return
            draft, results = self.decide(queue, facts)
            self._send(queue, draft, results, local)
        except Exception:
            log.exception(STORE_FAILED)
            self._fail_undecided(queue, flight)

    def _send_append(
        self, queue: CommitQueue, operation: Append, facts: Facts, local: LocalStore
    ) -> bool:
        """Send an append without a commit; False if it needs one."""
        added = added_by(local, operation, facts)
        if added is None:
            return False
        if self.quotas is not None:
            self.quotas.check(queue.path, facts.head, len(added[0]))
            self._hold(queue, Growth(len(added[0]), 0))

        def done(outcome: Outcome) -> None:
            if type(outcome) is Applied:
                if queue.growth is not None:
                    self._settle(queue, applied=True)
                self.meter.alone += 1
                self.finish(queue, [appended_by(operation, outcome.tail, outcome.timeline)])
            else:
                self._react(queue, outcome)

        flight = queue.flight
        try:
            return local.submit_append(queue.path, facts, *added, done)
        except Exception:
            log.exception(STORE_FAILED)
            if queue.flight is flight:
                self.meter.unknown += 1
                self.fail(queue, outcome_unknown)
            return True

    def _decide_flight(self, queue: CommitQueue, local: LocalStore) -> None:
        """Decide the operations in flight, and send their commit without a task."""
        flight = queue.flight
        try:
            draft, results = self.decide(queue, local.peek(queue.path, queue.fields()))
            self._send(queue, draft, results, local)
        except Exception:
            log.exception(STORE_FAILED)
            self._fail_undecided(queue, flight)

    def _fail_undecided(self, queue: CommitQueue, flight: list[Ticket]) -> None:
        """Refuse a flight that the store did not let decide, so that its queue goes on."""
        if queue.flight is flight:
            self.fail(queue, store_failed)

    def _send(
        self, queue: CommitQueue, draft: Draft, results: list[Any], local: LocalStore
    ) -> None:
        if not draft.changes:
            self.finish(queue, results)
            return
        commit = draft.commit(self.new_id)

        def done(outcomes: Sequence[Outcome]) -> None:
            outcome = outcomes[0]
            if type(outcome) is Applied:
                self._succeed(queue, draft, results, commit, outcome)
            else:
                self.act_on(queue, draft, results, commit, outcome)

        _submit_commit(queue, commit, done, local)

    def act_on(
        self, queue: CommitQueue, draft: Draft, results: list[Any], commit: Commit, outcome: Outcome
    ) -> bool:
        """Do what an outcome calls for; False if the operations have to be decided again."""
        if type(outcome) is Applied:
            self._succeed(queue, draft, results, commit, outcome)
            return True
        return self._react(queue, outcome)

    def _react(self, queue: CommitQueue, outcome: Outcome) -> bool:
        """Do what an outcome calls for that is not :class:`Applied`, as :meth:`act_on` does."""
        if type(outcome) is Conflicted:
            self.meter.conflicted += 1
            queue.conflicts += 1
            if queue.conflicts > MAX_CONFLICTS:
                self.fail(queue, too_contended)
            elif self._local is not None:
                self._decide_flight(queue, self._local)
            else:
                queue.facts, queue.fresh = outcome.facts, True
                return False
        elif type(outcome) is Unknown:
            # Only a local store's: its disk failed in the middle, and it will not find out.
            self.meter.unknown += 1
            self.fail(queue, outcome_unknown)
        else:
            assert isinstance(outcome, Refused)
            self.meter.refused += 1
            self.fail(queue, partial(refused, outcome))
        return True

    def _succeed(
        self, queue: CommitQueue, draft: Draft, results: list[Any], commit: Commit, applied: Applied
    ) -> None:
        if queue.growth is not None:
            self._settle(queue, applied=True)
        self.meter.together.observe(len(queue.flight))
        expected = applied.timeline == draft.timeline
        if applied.tail != draft.tail or not expected:
            results = relocated(results, draft, applied)
        if self._local is None:
            # On an unexpected timeline, more of the head has changed than is known here.
            queue.facts = draft.facts_after(applied.tail) if expected else None
        self._follow_up(draft, commit, queue.facts)
        self.finish(queue, results)

    def _follow_up(self, draft: Draft, commit: Commit, facts: Facts | None) -> None:
        try:
            self._applied(draft, commit, facts)
        except Exception:
            log.exception("following up on a commit failed")

    def fail(self, queue: CommitQueue, error: Callable[[], ProtocolError]) -> None:
        """Refuse every operation in flight, each with an error of its own."""
        queue.facts = None
        self.finish(queue, [error() for _ in queue.flight])

    def finish(self, queue: CommitQueue, results: Sequence[Any]) -> None:
        """Call back with the results of the flight, and begin the next one."""
        if queue.growth is not None:
            self._settle(queue, applied=False)
        flight, queue.flight = queue.flight, []
        for ticket, result in zip(flight, results, strict=True):
            self._queued_bytes -= ticket.size
            if type(result) is Unconfirmed:
                self._unconfirmed(queue.path, ticket)
            else:
                ticket.finish(result)
        if queue.waiting:
            asyncio.get_running_loop().call_soon(self._begin, queue)
            return
        queue.busy = False
        self._pending -= 1
        if self._emptied is not None and not self._pending:
            self._emptied.set()
            self._emptied = None
        if self._local is not None or queue.facts is None:
            self._queues.pop(queue.path, None)

    def refuse_first(self, queue: CommitQueue, number: int) -> None:
        """Refuse so many of the operations that have waited longest in a queue."""
        overdue, queue.waiting = queue.waiting[:number], queue.waiting[number:]
        for ticket in overdue:
            self._queued_bytes -= ticket.size
            ticket.finish(store_unreachable())

    def _forget(self) -> None:
        for path, queue in list(self._queues.items())[: MAX_REMEMBERED_QUEUES // 10]:
            if not queue.busy and queue.facts is not None:
                del self._queues[path]


def _submit_commit(
    queue: CommitQueue,
    commit: Commit,
    done: Callable[[Sequence[Outcome]], None],
    local: LocalStore,
) -> None:
    flight = queue.flight
    try:
        local.submit((commit,), done)
    except Exception:
        log.exception(STORE_FAILED)
        if queue.flight is flight:
            done([Unknown("The store failed.")])


def relocated(results: Sequence[Any], draft: Draft, applied: Applied) -> list[Any]:
    """Results moved to where their commit went: past what others appended in the meantime, and onto
    the timeline that the store chose.
    """
    shift = applied.tail - draft.tail
    moved: list[Any] = []
    for result in results:
        if isinstance(result, Appended | Created):
            timeline = applied.timeline if result.timeline == draft.timeline else result.timeline
            moved.append(
                msgspec.structs.replace(result, tail=result.tail + shift, timeline=timeline)
            )
        elif isinstance(result, StreamClosed):
            tail = result.tail
            timeline = applied.timeline if tail.timeline == draft.timeline else tail.timeline
            moved.append(StreamClosed(Offset(timeline, tail.position + shift)))
        else:
            moved.append(result)
    return moved
