"""Drives subscriptions: finds those that are this process's, and learns what concerns them.

:mod:`.scheduler` steps each one, :mod:`.pending` looks up its work, :mod:`.delivery` sends.
"""

import logging
from asyncio import sleep
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from durable_streams_core.entities import LIVE, Change, Head
from durable_streams_core.metrics import Metric
from durable_streams_core.store import LocalStore, Store
from durable_streams_core.subscriptions.keys import KEYS_PATH
from durable_streams_core.subscriptions.leases import IDLE, WAKING, Lease
from durable_streams_core.subscriptions.members import MEMBERS, shard_of
from durable_streams_core.subscriptions.records import PREFIX, BaseUrl, LinkedStream
from durable_streams_server.perform import Perform
from durable_streams_server.subscriptions.delivery import Delivery, TraceDelivery
from durable_streams_server.subscriptions.keyring import Keyring
from durable_streams_server.subscriptions.membership import Membership
from durable_streams_server.subscriptions.meter import SubscriptionMeter
from durable_streams_server.subscriptions.options import SubscriptionOptions
from durable_streams_server.subscriptions.pending import PendingWork
from durable_streams_server.subscriptions.positions import Positions
from durable_streams_server.subscriptions.registry import Registry
from durable_streams_server.subscriptions.scheduler import Scheduler
from durable_streams_server.subscriptions.state import SubscriptionState
from durable_streams_server.subscriptions.wake_streams import WakeStreams
from durable_streams_server.subscriptions.webhooks import Webhooks

log = logging.getLogger("durable_streams_server.subscriptions")

_PAGE: Final = 500


class Driver:
    """Drives those subscriptions of one store that this process is to drive."""

    def __init__(
        self,
        store: Store,
        perform: Perform,
        options: SubscriptionOptions,
        keyring: Keyring,
        webhooks: Webhooks,
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._webhooks = webhooks
        self._shared = not isinstance(store, LocalStore)
        self.meter = SubscriptionMeter()
        self.wake_streams = WakeStreams()
        self.positions = Positions(store, self.wake_streams)
        self.membership = Membership(store, perform, options.member_lease, self._members_changed)
        self._registry = Registry()
        self._pending = PendingWork(self.positions, perform)
        self._delivery = Delivery(
            perform, keyring, webhooks, webhook_timeout=options.webhook_timeout
        )
        self._scheduler = Scheduler(
            store,
            perform,
            self._registry,
            positions=self.positions,
            pending=self._pending,
            delivery=self._delivery,
            membership=self.membership,
            meter=self.meter,
            public_url=options.public_url,
        )
        self._stop_watching: Callable[[], None] | None = None

    # Life.

    async def start(self) -> None:
        self._scheduler.start()
        if self._shared:
            self._watch()
        await self.scan()

    async def stop(self) -> None:
        """Let deliveries end and hand the subscriptions over to other processes."""
        self.stop_watching()
        await self._scheduler.stop()
        await self.membership.stop()
        await self._webhooks.close()
        self._forget_all()

    async def abort(self) -> None:
        """Stop as a crash would: nothing is committed, and other processes are not told."""
        self.stop_watching()
        await self._scheduler.abort()
        await self.membership.abort()
        await self._webhooks.close()
        self._forget_all()

    def _forget_all(self) -> None:
        for state in self._registry:
            self._registry.remove(state)

    def _watch(self) -> None:
        """Watch commits. A store that only this process uses is watched once there is a
        subscription, so that subscriptions cost nothing where there are none.
        """
        if self._stop_watching is None and self._scheduler.running:
            self._stop_watching = self._store.watch(self.changed)

    def stop_watching(self) -> None:
        """Learn of no more commits."""
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None

    # Which subscriptions.

    def __len__(self) -> int:
        return len(self._registry)

    def trace_deliveries(self, trace: TraceDelivery) -> None:
        """Have ``trace`` begin a span of each webhook."""
        self._delivery.trace = trace

    def metrics(self) -> Iterator[Metric]:
        """What this process counts of subscriptions, at once."""
        return self.meter.metrics(state.lease.phase for state in self._registry)

    def paths(self) -> set[str]:
        """The subscriptions that this process drives."""
        return {state.path for state in self._registry}

    def get(self, path: str) -> SubscriptionState | None:
        return self._registry.get(path)

    async def scan(self) -> None:
        """Take up every subscription that is ours, and drop those that no longer are."""
        # Subscriptions made during the scan may be missing from a page that was read before.
        driven_before = list(self._registry)
        known_before = self.wake_streams.subscriptions()
        paths: set[str] = set()
        after = ""
        while True:
            rows = await self._store.list(PREFIX, after, _PAGE)
            if rows:
                await self.take_part()
            for path, head in rows:
                paths.add(path)
                self.adopt(path, head)
            if len(rows) < _PAGE:
                break
            after = rows[-1][0]
            await sleep(0)
        for state in driven_before:
            if state.path not in paths or not self._is_ours(state.path):
                self._registry.remove(state)
        for path, incarnation in known_before:
            if path not in paths:
                self._subscription_gone(path, incarnation)

    async def take_part(self) -> None:
        """Become a member. Before there is a subscription, nothing is written for it."""
        if self._shared and self._scheduler.running:
            await self.membership.start()

    def _is_ours(self, path: str) -> bool:
        return not self._shared or self.membership.owns(shard_of(path.removeprefix(PREFIX)))

    def adopt(self, path: str, head: Head) -> None:
        """Drive a subscription if it is ours."""
        self.wake_streams.note(path, head)
        if not self._scheduler.running or head.state != LIVE or not self._is_ours(path):
            return
        state = self._registry.get(path)
        if state is not None:
            if state.incarnation == head.incarnation:
                return
            self._registry.remove(state)
        self._watch()
        state = SubscriptionState(path, head)
        self._registry.add(state)
        self._scheduler.poke(state)

    async def _members_changed(self) -> None:
        """Some subscriptions are ours now, and some wakes have lost their driver."""
        await self.scan()
        for state in self._registry:
            if state.lease.phase == WAKING:
                self._scheduler.poke(state)

    # What happens in the store.

    def changed(self, changes: Sequence[Change] | None) -> None:
        """Take note of commits; None means that any may have been missed."""
        if changes is None:
            self._keyring.forget()
            _ = self._scheduler.spawn(self._resync())
            return
        index = self._registry.index
        remembered = index.found
        for change in changes:
            # An append that matches no subscription costs only this lookup.
            concerned = remembered.get(change.path)
            if concerned is None:
                concerned = index.find(change.path)
                if not concerned:
                    self._control_changed(change)
            if concerned:
                self._stream_changed(concerned, change.path)

    def _stream_changed(self, concerned: Iterable[SubscriptionState], stream: str) -> None:
        for state in concerned:
            state.stream_changed(stream)
            if state.lease.phase == IDLE:
                self._scheduler.poke(state)

    def _control_changed(self, change: Change) -> None:
        if change.path.startswith(PREFIX):
            self._subscription_changed(change)
        elif change.path == KEYS_PATH:
            self._keyring.forget()
        elif change.path.startswith(MEMBERS):
            self.membership.review_soon()

    def _subscription_changed(self, change: Change) -> None:
        if change.gone:
            self._subscription_gone(change.path, change.incarnation)
        state = self._registry.get(change.path)
        if state is not None and state.incarnation == change.incarnation:
            if change.gone:
                self._registry.remove(state)
            else:
                state.links_stale = True
                self._scheduler.poke(state)
        elif not change.gone and (
            self._is_ours(change.path)
            or not self.wake_streams.knows(change.path, change.incarnation)
        ):
            _ = self._scheduler.spawn(self._load(change.path))

    def _subscription_gone(self, path: str, incarnation: str) -> None:
        """A subscription was deleted; its wake stream may match patterns again."""
        freed = self.wake_streams.gone(path, incarnation)
        if freed is not None:
            self._stream_changed(self._registry.index.find(freed), freed)

    async def _load(self, path: str) -> None:
        try:
            await self.take_part()
            facts = await self._store.load(path)
        except Exception:
            log.exception("looking at a new subscription failed")
            return
        if facts is not None:
            self.adopt(path, facts.head)

    async def _resync(self) -> None:
        """Commits may have been missed: check everything once."""
        try:
            await self.scan()
        except Exception:
            log.exception("looking at all subscriptions failed")
        for state in self._registry:
            state.links_stale = True
            state.complete = False
            self._scheduler.poke(state)

    def due(self, path: str) -> None:
        """The sweep found a deadline that has passed."""
        state = self._registry.get(path)
        if state is not None:
            self._scheduler.poke(state)
        elif path.startswith(MEMBERS):
            self.membership.forget(path)
        elif path.startswith(PREFIX) and self._is_ours(path):
            _ = self._scheduler.spawn(self._load(path))

    # What requests of workers need.

    async def pending(self, state: SubscriptionState) -> list[LinkedStream]:
        """Streams with pending work."""
        return await self._pending.of(state)

    def lease_changed(self, path: str, lease: Lease) -> None:
        """A worker's request has changed the lease."""
        state = self._registry.get(path)
        if state is not None:
            state.lease = lease
            self._scheduler.arm(state)

    async def wake_again(self, state: SubscriptionState, base_url: BaseUrl | None) -> bool:
        """Begin the next wake after one has ended; returns whether work is pending."""
        # Should the wake fail, the step finds out by itself.
        self._scheduler.poke(state)
        return await self._scheduler.wake(state, base_url)
