"""The way of commits to a store that has to be waited for.

Queues that are ready at the same time are loaded, decided and committed together, in batches; a few
batches are under way at the same time. A commit whose outcome is unknown leaves its batch and is
sent again until its outcome is known.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from durable_streams_core.drafts import Draft
from durable_streams_core.entities import Commit, Conflicted, Outcome, Refused, Unknown
from durable_streams_core.operations import Appended, Created
from durable_streams_core.store import RemoteStore, Store
from durable_streams_server.engine.refusals import (
    STORE_FAILED,
    outcome_unknown,
    store_failed,
    store_unreachable,
)

if TYPE_CHECKING:
    from durable_streams_server.engine.commit_queue import CommitQueue, CommitQueues

log = logging.getLogger("durable_streams_server.engine")

FEW_BATCHES: Final = 2
"""Begun at once; more are begun only when those take long, so that one takes many commits."""
MAX_BATCHES: Final = 8
SLOW_BATCH_SECONDS: Final = 0.005
RESEND_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class RemoteCommits:
    """Decides and commits the operations of ``queues``, which acts on the outcomes.

    Callers are told after ``unknown_outcome`` seconds that the outcome of their commit is unknown.
    """

    def __init__(self, store: Store, unknown_outcome: float, queues: "CommitQueues") -> None:
        self._store = store
        self._visible_early = isinstance(store, RemoteStore) and store.visible_early
        self._unknown_outcome = unknown_outcome
        self._queues = queues
        self._ready: list[CommitQueue] = []
        self._batches: set[asyncio.Task[None]] = set()
        self._resends: set[asyncio.Task[None]] = set()

    async def cancel(self) -> None:
        """Send nothing more, whatever the outcome of what was sent."""
        self._ready.clear()
        tasks = [*self._batches, *self._resends]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def begin(self, queue: "CommitQueue") -> None:
        """Decide and commit the operations in flight of a queue."""
        if not self._ready:
            loop = asyncio.get_running_loop()
            if len(self._batches) < FEW_BATCHES:
                loop.call_soon(self._launch)
            elif len(self._batches) < MAX_BATCHES:
                loop.call_later(SLOW_BATCH_SECONDS, self._launch)
        self._ready.append(queue)

    def _launch(self) -> None:
        if self._ready and len(self._batches) < MAX_BATCHES:
            queues, self._ready = self._ready, []
            task = asyncio.create_task(self._work(queues))
            self._batches.add(task)
            task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        self._launch()

    async def _work(self, queues: list["CommitQueue"]) -> None:
        """Decide and commit a batch of queues until each has its results."""
        try:
            while queues:
                queues = await self._round(queues)
        except Exception:
            log.exception("committing a batch failed")
            for queue in queues:
                if queue.flight:
                    self._queues.fail(queue, store_failed)

    async def _round(self, queues: list["CommitQueue"]) -> list["CommitQueue"]:
        """One try; returns the queues that have to be decided again."""
        loading = [queue for queue in queues if not self._known(queue)]
        if loading:
            found = await asyncio.gather(
                *(self._store.load(queue.path, queue.fields()) for queue in loading),
                return_exceptions=True,
            )
            for queue, facts in zip(loading, found, strict=True):
                if isinstance(facts, BaseException):
                    log.warning("loading a stream failed: %r", facts)
                    self._queues.fail(queue, store_unreachable)
                else:
                    queue.facts, queue.fresh = facts, True
        again: list[CommitQueue] = []
        sent: list[tuple[CommitQueue, Draft, list[Any], Commit]] = []
        for queue in queues:
            if not queue.flight:
                continue
            draft, results = self._queues.decide(queue, queue.facts)
            # No guard checks a result without a change, such as that of closing a closed stream.
            unsure = not queue.fresh and (
                not draft.changes or any(not _is_change(a) for a in results)
            )
            if unsure:
                queue.facts = None
                again.append(queue)
            elif draft.changes or (self._visible_early and any(map(_is_done, results))):
                sent.append((queue, draft, results, draft.commit(self._queues.new_id)))
            else:
                self._queues.finish(queue, results)
        if sent:
            outcomes = await self._commit([commit for *_, commit in sent])
            for (queue, draft, results, commit), outcome in zip(sent, outcomes, strict=True):
                queue.fresh = False
                if isinstance(outcome, Unknown):
                    self._queues.meter.unknown += 1
                    self._resend_later(queue, draft, results, commit)
                elif not self._queues.act_on(queue, draft, results, commit, outcome):
                    again.append(queue)
        return again

    def _known(self, queue: "CommitQueue") -> bool:
        facts = queue.facts
        if facts is None:
            return queue.fresh
        return all(key in facts.fields for key in queue.fields())

    async def _commit(self, batch: Sequence[Commit]) -> Sequence[Outcome]:
        try:
            return await self._store.commit(batch)
        except Exception:
            log.exception(STORE_FAILED)
            return [Unknown("The store failed.")] * len(batch)

    def _resend_later(
        self, queue: "CommitQueue", draft: Draft, results: list[Any], commit: Commit
    ) -> None:
        task = asyncio.create_task(self._resend(queue, draft, results, commit))
        self._resends.add(task)
        task.add_done_callback(self._resends.discard)

    async def _resend(
        self, queue: "CommitQueue", draft: Draft, results: list[Any], commit: Commit
    ) -> None:
        """Send the same commit until its outcome is known.

        When that takes long its callers are told, and operations that waited behind it for as long
        are refused.
        """
        told = False
        waited = 0
        loop = asyncio.get_running_loop()
        limit = self._unknown_outcome
        sweep: asyncio.TimerHandle

        def tell() -> None:
            nonlocal told
            told = True
            for ticket in queue.flight:
                ticket.finish(outcome_unknown())

        def refuse_overdue() -> None:
            nonlocal waited, sweep
            self._queues.refuse_first(queue, waited)
            waited = len(queue.waiting)
            sweep = loop.call_later(period, refuse_overdue)

        # An operation that is refused has waited for at least one more try.
        period = max(limit, RESEND_SECONDS[-1])
        timer = loop.call_later(limit, tell)
        sweep = loop.call_later(period, refuse_overdue)
        try:
            for attempt in count():
                await asyncio.sleep(
                    RESEND_SECONDS[min(attempt, len(RESEND_SECONDS) - 1)] * random.uniform(0.5, 1.0)
                )
                (outcome,) = await self._commit([commit])
                if not isinstance(outcome, Unknown) and not (
                    isinstance(outcome, Refused) and outcome.code == "unavailable"
                ):
                    break
        finally:
            timer.cancel()
            sweep.cancel()
        if told and isinstance(outcome, Conflicted):
            # It was not applied, and it must not be sent again: callers that were told 504 may have
            # looked, found nothing, and appended anew.
            queue.facts = None
            self._queues.finish(queue, [None] * len(queue.flight))
        elif not self._queues.act_on(queue, draft, results, commit, outcome):
            await self._work([queue])


def _is_done(result: object) -> bool:
    """Whether a result tells that something is stored."""
    return isinstance(result, Appended | Created)


def _is_change(result: object) -> bool:
    """Whether a result is true only if the commit is applied, so that its guard checks it."""
    if isinstance(result, Appended):
        return not result.duplicate
    return isinstance(result, Created) and result.new
