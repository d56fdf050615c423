"""Steps the lease machine of each subscription, and minds its timer.

Each subscription has at most one task that steps its machine and at most one delivery under way. A
step reads the stored lease, does what is due, and ends; changes, timers and ends of deliveries call
for the next one. Every step is a commit guarded by the lease as stored. So a wake is fenced by the
store, and nothing in here has to be right for that, only for it to be prompt.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from durable_streams_core.errors import ProtocolError
from durable_streams_core.store import Store
from durable_streams_core.subscriptions.leases import (
    ACCEPT,
    AGAIN,
    DONE,
    DROP,
    EXPIRE,
    FAIL,
    HELD,
    IDLE,
    NO_CHANGES,
    RETRYING,
    WAITING,
    WAKE,
    WAKING,
    Changes,
    Lease,
    decode_lease,
)
from durable_streams_core.subscriptions.operations import AckedStream, Finish, Step, WakeRef
from durable_streams_core.subscriptions.records import (
    BASE_URL,
    LEASE,
    PULL_WAKE,
    BaseUrl,
    LinkedStream,
    decode_base_url,
)
from durable_streams_server.perform import Perform
from durable_streams_server.subscriptions import webhooks
from durable_streams_server.subscriptions.delivery import Delivery, retry_in
from durable_streams_server.subscriptions.membership import Membership
from durable_streams_server.subscriptions.meter import SubscriptionMeter
from durable_streams_server.subscriptions.pending import PendingWork
from durable_streams_server.subscriptions.positions import Positions
from durable_streams_server.subscriptions.registry import Registry
from durable_streams_server.subscriptions.state import SubscriptionState
from durable_streams_server.subscriptions.tokens import new_wake_id

log = logging.getLogger("durable_streams_server.subscriptions")

MAX_STEPS: Final = 64
"""Subscriptions that are stepped at the same time."""
RETRY_SECONDS: Final = 1.0
"""How soon a step is tried again after the store failed it."""
DRAIN_SECONDS: Final = 2.0
"""How long deliveries under way may take to end when the server stops."""


class Scheduler:
    """Decides when each driven subscription steps, and does the steps."""

    def __init__(
        self,
        store: Store,
        perform: Perform,
        registry: Registry,
        *,
        positions: Positions,
        pending: PendingWork,
        delivery: Delivery,
        membership: Membership,
        meter: SubscriptionMeter,
        public_url: str | None,
    ) -> None:
        self._store = store
        self._perform = perform
        self._registry = registry
        self._positions = positions
        self._pending = pending
        self._delivery = delivery
        self._membership = membership
        self._meter = meter
        self._public_url = public_url
        self._steps = asyncio.Semaphore(MAX_STEPS)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.running = False

    def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        """Give deliveries a moment to end; the next driver repeats those that are cut off."""
        self._halt()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=DRAIN_SECONDS)
        await self._cancel()

    async def abort(self) -> None:
        """Stop at once, as a crash would: nothing more is sent or committed."""
        self._halt()
        await self._cancel()

    def _halt(self) -> None:
        self.running = False
        for state in self._registry:
            state.disarm()

    async def _cancel(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work that :meth:`stop` waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # When.

    def poke(self, state: SubscriptionState) -> None:
        """Call for a step."""
        state.step_again = True
        if state.step_task is None and self.running and not state.dropped:
            state.step_task = self.spawn(self._run(state))

    def arm(self, state: SubscriptionState) -> None:
        """Step again when the lease's timer is due."""
        until = state.lease.until
        if until:
            self._arm_in(state, max(0, until - self._store.now()) / 1000 + 0.001)
        else:
            state.disarm()

    def _arm_in(self, state: SubscriptionState, seconds: float) -> None:
        state.disarm()
        if self.running and not state.dropped:
            state.timer = asyncio.get_running_loop().call_later(seconds, self.poke, state)

    async def _run(self, state: SubscriptionState) -> None:
        try:
            while state.step_again and not state.dropped:
                state.step_again = False
                async with self._steps:
                    await self._step(state)
        except Exception as error:
            if isinstance(error, ProtocolError):
                log.warning("a step of a subscription has to wait: %s", error)
            else:
                log.exception("a step of a subscription failed")
            self._arm_in(state, RETRY_SECONDS)
        finally:
            state.step_task = None

    # What.

    async def _step(self, state: SubscriptionState) -> None:
        facts = await self._store.load(state.path, (LEASE, BASE_URL))
        if facts is None or facts.head.incarnation != state.incarnation:
            self._registry.remove(state)
            return
        if state.links_stale:
            await self._read_links(state)
        lease = state.lease = decode_lease(facts.fields[LEASE])
        base_url = decode_base_url(facts.fields[BASE_URL])
        now = self._store.now()
        if lease.expired(now):
            await self._advance(state, EXPIRE)
            state.step_again = True
        elif lease.phase == IDLE:
            await self.wake(state, base_url)
        elif lease.phase == WAITING and state.announced != lease.generation and now >= lease.until:
            await self._announce(state, lease)
        elif (
            lease.phase in (WAITING, HELD)
            or state.delivery is not None
            or (lease.phase == RETRYING and now < lease.until)
            or (lease.phase == WAKING and self._has_another_driver(lease))
        ):
            self.arm(state)
        else:
            again = await self._advance(state, AGAIN, Changes(driver=self._membership.me))
            if again is not None:
                self._deliver_soon(state, again, base_url, None)

    def _has_another_driver(self, lease: Lease) -> bool:
        membership = self._membership
        return lease.driver != membership.me and membership.is_alive(lease.driver)

    async def _read_links(self, state: SubscriptionState) -> None:
        state.links_stale = False
        try:
            streams = {
                stream
                async for stream, cursor in self._positions.cursors(state.path, state.incarnation)
                if cursor.explicit
            }
        except BaseException:
            state.links_stale = True
            raise
        self._registry.set_links(state, streams)

    async def wake(self, state: SubscriptionState, base_url: BaseUrl | None) -> bool:
        """Begin a wake if work is pending; returns whether it is."""
        pending = await self._pending.of(state)
        if not pending:
            return False
        changes = Changes(wake_id=new_wake_id(), stream=pending[0].path, driver=self._membership.me)
        lease = await self._advance(state, WAKE, changes)
        if lease is not None:
            if state.config.type == PULL_WAKE:
                await self._announce(state, lease)
            else:
                self._deliver_soon(state, lease, base_url, pending)
        return True

    async def _announce(self, state: SubscriptionState, lease: Lease) -> None:
        try:
            await self._delivery.announce(state, lease, self._store.now())
        except ProtocolError as error:
            log.warning(
                "the wake of subscription %s cannot be written to its wake stream %s: %s",
                state.id,
                state.config.wake_stream,
                error,
            )
            await self._advance(state, FAIL, self._retry_changes(lease))
            return
        if lease.failing:
            await self._advance(state, ACCEPT)

    def _deliver_soon(
        self,
        state: SubscriptionState,
        lease: Lease,
        base_url: BaseUrl | None,
        pending: list[LinkedStream] | None,
    ) -> None:
        state.delivery = self.spawn(self._deliver(state, lease, base_url, pending))

    async def _deliver(
        self,
        state: SubscriptionState,
        lease: Lease,
        base_url: BaseUrl | None,
        pending: list[LinkedStream] | None,
    ) -> None:
        try:
            if pending is None:
                pending = await self._pending.of(state)
            if pending:
                await self._post(state, lease, base_url or BaseUrl("", "/"), pending)
            else:
                await self._advance(state, DROP)
        except ProtocolError as error:
            log.info("the delivery of a wake was overtaken: %s", error)
        except Exception:
            log.exception("a delivery failed")
            self._arm_in(state, RETRY_SECONDS)
            return
        finally:
            state.delivery = None
        self.poke(state)

    async def _post(
        self, state: SubscriptionState, lease: Lease, base_url: BaseUrl, pending: list[LinkedStream]
    ) -> None:
        """Send the webhook and commit how the receiver answered."""
        outcome = await self._delivery.post(state, lease, base_url, pending, self._public_url)
        self._meter.deliveries[outcome] += 1
        if outcome == webhooks.DONE:
            await self._finish(state, lease, pending)
        elif outcome == webhooks.ACCEPTED:
            await self._commit(state, lease, ACCEPT)
        else:
            await self._commit(state, lease, FAIL, self._retry_changes(lease))

    def _retry_changes(self, lease: Lease) -> Changes:
        return Changes(until=self._store.now() + retry_in(lease))

    # Commits.

    async def _advance(
        self, state: SubscriptionState, step: str, changes: Changes = NO_CHANGES
    ) -> Lease | None:
        """Commit a step; None if another one came first, which calls for a new look."""
        lease = await self._commit(state, state.lease, step, changes)
        if lease is None:
            state.step_again = True
        else:
            self.arm(state)
        return lease

    async def _commit(
        self, state: SubscriptionState, lease: Lease, step: str, changes: Changes = NO_CHANGES
    ) -> Lease | None:
        """Commit a step of the wake that ``lease`` names; None if that wake is over."""
        nudge = not self._registry.holds(state)
        after: Lease | None = await self._perform(
            state.path, Step(state.incarnation, step, lease.wake_id, changes, nudge)
        )
        if after is not None:
            self._meter.stepped(step)
            state.lease = after
        return after

    async def _finish(
        self, state: SubscriptionState, lease: Lease, pending: list[LinkedStream]
    ) -> None:
        """The receiver handled the snapshot: acknowledge it and release the lease (§7.1)."""
        acks = [
            AckedStream(s.path, s.head.tail_offset, s.head) for s in pending if s.head is not None
        ]
        wake = WakeRef(state.incarnation, lease.generation, lease.generation, lease.wake_id)
        nudge = not self._registry.holds(state)
        state.lease = await self._perform(
            state.path, Finish(wake, DONE, acks, snapshot=True, nudge=nudge)
        )
