"""Driving subscriptions: hear of appends, wake, deliver, and mind every timer.

Each subscription has at most one task that steps its lease machine (:meth:`Driver._step`) and at
most one delivery under way. A step looks at the stored lease, does what is due, and ends; news,
timers and ends of deliveries call for the next one. All steps are commits guarded by the lease as
stored, so that nothing here has to be right for a wake to be fenced, only for it to be prompt.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

import msgspec

from durable_streams_core.entities import LIVE, Change, Head
from durable_streams_core.errors import ProtocolError
from durable_streams_core.operations import Append, Body, Operation, ProducerClaim
from durable_streams_core.store import LocalStore, Store
from durable_streams_core.subscriptions.keys import KEYS_PATH
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
    retry_delay,
)
from durable_streams_core.subscriptions.members import MEMBERS, shard_of
from durable_streams_core.subscriptions.operations import (
    AckedStream,
    Finish,
    ForgetStreams,
    Step,
    Tail,
    WakeRef,
)
from durable_streams_core.subscriptions.records import (
    LEASE,
    PLACE,
    PREFIX,
    PULL_WAKE,
    Place,
    Standing,
    decode_place,
)
from durable_streams_server.subscriptions import webhooks
from durable_streams_server.subscriptions.index import Index
from durable_streams_server.subscriptions.keyring import Keyring
from durable_streams_server.subscriptions.membership import Membership
from durable_streams_server.subscriptions.options import SubscriptionOptions
from durable_streams_server.subscriptions.positions import Positions
from durable_streams_server.subscriptions.state import MAX_DIRTY, SubscriptionState
from durable_streams_server.subscriptions.urls import control_url, quoted
from durable_streams_server.subscriptions.wake_streams import WakeStreams
from durable_streams_server.subscriptions.webhooks import Webhooks

log = logging.getLogger("durable_streams_server.subscriptions")

Perform = Callable[[str, Operation[Any]], Awaitable[Any]]

SNAPSHOT: Final = 1000
"""Streams that one wake tells of; what else is pending calls for the next one."""
MAX_STEPS: Final = 64
"""Subscriptions that are looked at at the same time."""
RETRY_SECONDS: Final = 1.0
"""How soon a step is tried again that the store failed."""
FAREWELL_SECONDS: Final = 2.0
"""How long deliveries under way may take to end when the server stops."""
_PAGE: Final = 500


class Driver:
    """Drives those subscriptions of one store that this process is to drive."""

    def __init__(
        self,
        store: Store,
        perform: Perform,
        options: SubscriptionOptions,
        keyring: Keyring,
        posts: Webhooks,
    ) -> None:
        self._store = store
        self._perform = perform
        self._options = options
        self._keyring = keyring
        self._webhooks = posts
        self._shared = not isinstance(store, LocalStore)
        self.wake_streams = WakeStreams()
        self.positions = Positions(store, self.wake_streams)
        self.membership = Membership(store, perform, options.member_lease, self._moved)
        self.public_url = options.public_url
        self._driven: dict[str, SubscriptionState] = {}
        self._index: Index[SubscriptionState] = Index()
        self._steps = asyncio.Semaphore(MAX_STEPS)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stop_watching: Callable[[], None] | None = None
        self._running = False

    # Life.

    async def start(self) -> None:
        self._running = True
        if self._shared:
            self._watch()
        await self.scan()

    async def stop(self) -> None:
        """Let deliveries end, for a moment; the next driver repeats what is cut off."""
        self._running = False
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None
        for driven in self._driven.values():
            driven.disarm()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=FAREWELL_SECONDS)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.membership.stop()
        await self._webhooks.close()
        for driven in list(self._driven.values()):
            self._drop(driven)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _watch(self) -> None:
        """Hear of commits. A store of this process alone is listened to only once somebody is
        subscribed, so that subscriptions cost nothing where there are none.
        """
        if self._stop_watching is None and self._running:
            self._stop_watching = self._store.watch(self.heard)

    def __len__(self) -> int:
        return len(self._driven)

    # Which subscriptions.

    async def scan(self) -> None:
        """Take up every subscription that is ours, and leave those that are not any more."""
        # What is taken up meanwhile is not missed in a list that was read before.
        driven_before = list(self._driven.items())
        known_before = self.wake_streams.subscriptions()
        found: set[str] = set()
        after = ""
        while True:
            rows = await self._store.list(PREFIX, after, _PAGE)
            if rows:
                await self.take_part()
            for path, head in rows:
                found.add(path)
                self.adopt(path, head)
            if len(rows) < _PAGE:
                break
            after = rows[-1][0]
            await asyncio.sleep(0)
        for path, driven in driven_before:
            if path not in found or not self._is_ours(path):
                self._drop(driven)
        for path, incarnation in known_before:
            if path not in found:
                self._is_gone(path, incarnation)

    async def take_part(self) -> None:
        """Be one of those who drive. Before anybody is subscribed, nothing is written for it."""
        if self._shared and self._running:
            await self.membership.start()

    def _is_ours(self, path: str) -> bool:
        return not self._shared or self.membership.owns(shard_of(path.removeprefix(PREFIX)))

    def adopt(self, path: str, head: Head) -> None:
        """Drive a subscription, if it is ours and known."""
        self.wake_streams.note(path, head)
        if not self._running or head.state != LIVE or not self._is_ours(path):
            return
        driven = self._driven.get(path)
        if driven is not None:
            if driven.incarnation == head.incarnation:
                return
            self._drop(driven)
        self._watch()
        driven = self._driven[path] = SubscriptionState(path, head)
        glob = driven.config.glob
        if glob is not None:
            self._index.add_glob(glob, driven)
        self.poke(driven)

    def get(self, path: str) -> SubscriptionState | None:
        return self._driven.get(path)

    def _drop(self, driven: SubscriptionState) -> None:
        if driven.dropped:
            return
        driven.dropped = True
        driven.disarm()
        if self._driven.get(driven.path) is driven:
            del self._driven[driven.path]
        glob = driven.config.glob
        if glob is not None:
            self._index.remove_glob(glob, driven)
        for stream in driven.explicit:
            self._index.remove_stream(stream, driven)

    async def _moved(self) -> None:
        """Other members: some subscriptions are ours now, and some wakes have lost their driver."""
        await self.scan()
        for driven in list(self._driven.values()):
            if driven.lease.phase == WAKING:
                self.poke(driven)

    # Hearing.

    def heard(self, changes: Sequence[Change] | None) -> None:
        """What the store tells of commits."""
        if changes is None:
            self._keyring.forget()
            _ = self._spawn(self._resync())
            return
        found = self._index.found
        for change in changes:
            # The one look-up that an append costs which concerns nobody.
            concerned = found.get(change.path)
            if concerned is None:
                concerned = self._index.find(change.path)
                if not concerned:
                    self._heard_of_control(change)
            self._concern(concerned, change.path)

    def _concern(self, concerned: Iterable[SubscriptionState], stream: str) -> None:
        for driven in concerned:
            driven.changed(stream)
            if driven.lease.phase == IDLE:
                self.poke(driven)

    def _is_gone(self, path: str, incarnation: str) -> None:
        """A subscription was deleted; patterns may mean its wake stream again."""
        freed = self.wake_streams.gone(path, incarnation)
        if freed is not None:
            self._concern(self._index.find(freed), freed)

    def _heard_of_control(self, change: Change) -> None:
        if change.path.startswith(PREFIX):
            self._heard_of(change)
        elif change.path == KEYS_PATH:
            self._keyring.forget()
        elif change.path.startswith(MEMBERS):
            self.membership.look()

    async def _resync(self) -> None:
        """Anything may have happened: look at everything once."""
        try:
            await self.scan()
        except Exception:
            log.exception("looking at all subscriptions failed")
        for driven in list(self._driven.values()):
            driven.relink = True
            driven.look_at_all()
            self.poke(driven)

    def _heard_of(self, change: Change) -> None:
        if change.gone:
            self._is_gone(change.path, change.incarnation)
        driven = self._driven.get(change.path)
        if driven is not None and driven.incarnation == change.incarnation:
            if change.gone:
                self._drop(driven)
            else:
                driven.relink = True
                self.poke(driven)
        elif not change.gone and (
            self._is_ours(change.path)
            or not self.wake_streams.knows(change.path, change.incarnation)
        ):
            _ = self._spawn(self._meet(change.path))

    async def _meet(self, path: str) -> None:
        try:
            await self.take_part()
            facts = await self._store.load(path)
        except Exception:
            log.exception("looking at a new subscription failed")
            return
        if facts is not None:
            self.adopt(path, facts.head)

    def due(self, path: str) -> None:
        """The sweeper met a deadline that is over."""
        driven = self._driven.get(path)
        if driven is not None:
            self.poke(driven)
        elif path.startswith(MEMBERS):
            self.membership.bury(path)
        elif path.startswith(PREFIX) and self._is_ours(path):
            _ = self._spawn(self._meet(path))

    def stepped(self, path: str, lease: Lease) -> None:
        """A request of a worker has changed the lease."""
        driven = self._driven.get(path)
        if driven is not None:
            driven.lease = lease
            self._arm(driven)

    # Steps.

    def poke(self, driven: SubscriptionState) -> None:
        """Call for a step."""
        driven.again = True
        if driven.task is None and self._running and not driven.dropped:
            driven.task = self._spawn(self._run(driven))

    async def _run(self, driven: SubscriptionState) -> None:
        try:
            while driven.again and not driven.dropped:
                driven.again = False
                async with self._steps:
                    await self._step(driven)
        except Exception as error:
            if isinstance(error, ProtocolError):
                log.warning("a step of a subscription has to wait: %s", error)
            else:
                log.exception("a step of a subscription failed")
            self._arm_in(driven, RETRY_SECONDS)
        finally:
            driven.task = None

    async def _step(self, driven: SubscriptionState) -> None:
        facts = await self._store.load(driven.path, (LEASE, PLACE))
        if facts is None or facts.head.incarnation != driven.incarnation:
            self._drop(driven)
            return
        if driven.relink:
            await self._read_links(driven)
        driven.lease = decode_lease(facts.fields[LEASE])
        place = decode_place(facts.fields[PLACE])
        now = self._store.now()
        if driven.lease.expired(now):
            await self._advance(driven, EXPIRE)
            driven.again = True
            return
        lease = driven.lease
        if lease.phase == IDLE:
            await self.wake(driven, place)
        elif lease.phase == WAITING:
            if driven.announced != lease.generation and now >= lease.until:
                await self._announce(driven, lease)
            else:
                self._arm(driven)
        elif (
            lease.phase == HELD
            or driven.delivery is not None
            or (lease.phase == RETRYING and now < lease.until)
            or (lease.phase == WAKING and self._told_by_another(lease))
        ):
            self._arm(driven)
        else:
            again = await self._advance(driven, AGAIN, Changes(driver=self.membership.me))
            if again is not None:
                self._deliver_soon(driven, again, place, None)

    def _told_by_another(self, lease: Lease) -> bool:
        return lease.driver != self.membership.me and self.membership.is_alive(lease.driver)

    async def _advance(
        self, driven: SubscriptionState, step: str, changes: Changes = NO_CHANGES
    ) -> Lease | None:
        """Commit a step; None if another one overtook it, which calls for a new look."""
        lease: Lease | None = await self._perform(
            driven.path,
            Step(driven.incarnation, step, driven.lease.wake_id, changes, not self._has(driven)),
        )
        if lease is None:
            driven.again = True
        else:
            driven.lease = lease
            self._arm(driven)
        return lease

    def _has(self, driven: SubscriptionState) -> bool:
        return self._driven.get(driven.path) is driven

    async def _read_links(self, driven: SubscriptionState) -> None:
        driven.relink = False
        try:
            found = {
                stream
                async for stream, cursor in self.positions.cursors(driven.path, driven.incarnation)
                if cursor.explicit
            }
        except BaseException:
            driven.relink = True
            raise
        if driven.dropped:
            return
        for stream in found - driven.explicit:
            self._index.add_stream(stream, driven)
            driven.changed(stream)
        for stream in driven.explicit - found:
            self._index.remove_stream(stream, driven)
        driven.explicit = found

    async def wake(self, driven: SubscriptionState, place: Place | None) -> bool:
        """Begin a wake if work is pending. Answers whether it is."""
        pending = await self.pending(driven)
        if not pending:
            return False
        changes = Changes(wake_id=new_wake_id(), stream=pending[0].path, driver=self.membership.me)
        lease = await self._advance(driven, WAKE, changes)
        if lease is not None:
            if driven.config.type == PULL_WAKE:
                await self._announce(driven, lease)
            else:
                self._deliver_soon(driven, lease, place, pending)
        return True

    async def pending(self, driven: SubscriptionState) -> list[Standing]:
        """Streams with pending work, up to SNAPSHOT of them."""
        async with driven.looking:
            while True:
                if not driven.looked:
                    await self._look_at_all(driven)
                found = await self._look_at_dirty(driven)
                # What was dirty may have kept the look at all from getting anywhere.
                if found or driven.looked:
                    return found[:SNAPSHOT]

    async def _look_at_dirty(self, driven: SubscriptionState) -> list[Standing]:
        found: list[Standing] = []
        waiting = list(driven.dirty)
        for begin in range(0, len(waiting), SNAPSHOT):
            some = waiting[begin : begin + SNAPSHOT]
            # Off the list before looking, or news that comes meanwhile would be lost.
            for stream in some:
                driven.dirty.pop(stream, None)
            try:
                stand = await self.positions.of(driven.path, driven.incarnation, some)
                await self._forget(driven, stand)
            except BaseException:
                driven.look_at_all()
                raise
            for standing in stand:
                if standing.pending:
                    driven.dirty[standing.path] = None
                    found.append(standing)
            if len(found) >= SNAPSHOT:
                break
        return found

    async def _look_at_all(self, driven: SubscriptionState) -> None:
        driven.looked = True
        gone: list[Standing] = []
        try:
            stands = self.positions.all(driven.path, driven.incarnation, driven.config)
            async for standing in stands:
                if standing.head is None:
                    gone.append(standing)
                elif standing.pending:
                    if len(driven.dirty) >= MAX_DIRTY:
                        # Enough for now; another look follows when these are done with.
                        driven.looked = False
                        break
                    driven.dirty[standing.path] = None
            await self._forget(driven, gone)
        except BaseException:
            driven.looked = False
            raise

    async def _forget(self, driven: SubscriptionState, stand: Sequence[Standing]) -> None:
        """Drop the cursors of streams that are gone."""
        gone = [
            Tail(standing.path, standing.cursor.incarnation)
            for standing in stand
            if standing.head is None
            and standing.cursor is not None
            and not standing.cursor.explicit
        ]
        for begin in range(0, len(gone), _PAGE):
            some = gone[begin : begin + _PAGE]
            await self._perform(driven.path, ForgetStreams(driven.incarnation, some))

    # Telling.

    async def _announce(self, driven: SubscriptionState, lease: Lease) -> None:
        """Write the wake event, as a producer whose epoch is the generation: written again by
        another driver, it is a duplicate and stored once (§7.2).
        """
        stream = driven.config.wake_stream
        assert stream is not None
        event = {
            "type": "wake",
            "subscription_id": driven.id,
            "stream": lease.stream,
            "generation": lease.generation,
            "ts": self._store.now(),
        }
        producer = ProducerClaim(f"subscription:{driven.incarnation}", lease.generation, 0)
        body = Body(msgspec.json.encode(event) + b"\n")
        try:
            await self._perform(stream, Append(body, producer=producer))
        except ProtocolError as error:
            log.warning("the wake of a subscription cannot be written to %s: %s", stream, error)
            await self._failed(driven, lease)
            return
        driven.announced = lease.generation
        if lease.failing:
            await self._advance(driven, ACCEPT)

    async def _failed(self, driven: SubscriptionState, lease: Lease) -> None:
        delay = retry_delay(lease.attempts + 1, random.uniform(-1, 1))
        await self._advance(driven, FAIL, Changes(until=self._store.now() + delay))

    def _deliver_soon(
        self,
        driven: SubscriptionState,
        lease: Lease,
        place: Place | None,
        pending: list[Standing] | None,
    ) -> None:
        driven.delivery = self._spawn(self._deliver(driven, lease, place, pending))

    async def _deliver(
        self,
        driven: SubscriptionState,
        lease: Lease,
        place: Place | None,
        pending: list[Standing] | None,
    ) -> None:
        try:
            if pending is None:
                pending = await self.pending(driven)
            if pending:
                await self._tell(driven, lease, place, pending)
            else:
                await self._advance(driven, DROP)
        except ProtocolError as error:
            log.info("a delivery was overtaken: %s", error)
        except Exception:
            log.exception("a delivery failed")
            self._arm_in(driven, RETRY_SECONDS)
            return
        finally:
            driven.delivery = None
        self.poke(driven)

    async def _tell(
        self, driven: SubscriptionState, lease: Lease, place: Place | None, pending: list[Standing]
    ) -> None:
        """Send the webhook (§7.1), and commit what came of it."""
        config = driven.config
        assert config.webhook is not None
        await self._keyring.ready()
        body = msgspec.json.encode(
            {
                "subscription_id": driven.id,
                "wake_id": lease.wake_id,
                "generation": lease.generation,
                "streams": [standing.described(tail=True) for standing in pending],
                "callback_url": self.control_url(place, driven.id, "/callback"),
                "callback_token": self._keyring.token(
                    driven.id, driven.incarnation, lease.generation
                ),
            }
        )
        seconds = min(config.lease_ttl_ms / 1000, self._options.webhook_timeout)
        told = await self._webhooks.post(config.webhook, body, self._keyring.sign(body), seconds)
        if told == webhooks.DONE:
            await self._done(driven, lease, pending)
        elif told == webhooks.ACCEPTED:
            await self._result(driven, lease, ACCEPT)
        else:
            delay = retry_delay(lease.attempts + 1, random.uniform(-1, 1))
            await self._result(driven, lease, FAIL, Changes(until=self._store.now() + delay))

    async def _result(
        self, driven: SubscriptionState, lease: Lease, step: str, changes: Changes = NO_CHANGES
    ) -> None:
        """Commit what came of a delivery, unless the wake was over before."""
        nudge = not self._has(driven)
        after: Lease | None = await self._perform(
            driven.path, Step(driven.incarnation, step, lease.wake_id, changes, nudge)
        )
        if after is not None:
            driven.lease = after

    async def _done(self, driven: SubscriptionState, lease: Lease, pending: list[Standing]) -> None:
        """The receiver is done with the snapshot: ack it and release the lease (§7.1)."""
        acks = [
            AckedStream(s.path, s.head.tail, s.head.incarnation, s.head.tail)
            for s in pending
            if s.head is not None
        ]
        generation = lease.generation
        ref = WakeRef(driven.incarnation, generation, generation, lease.wake_id)
        driven.lease = await self._perform(
            driven.path, Finish(ref, DONE, acks, snapshot=True, nudge=not self._has(driven))
        )

    def control_url(self, place: Place | None, subscription: str, action: str) -> str:
        """The URL of one of a subscription's routes, for someone outside."""
        place = place or Place("", "/")
        return control_url(self.public_url, place, f"subscriptions/{quoted(subscription)}{action}")

    # Time.

    def _arm(self, driven: SubscriptionState) -> None:
        """Step again when the lease's timer is due."""
        until = driven.lease.until
        if until:
            self._arm_in(driven, max(0, until - self._store.now()) / 1000 + 0.001)
        else:
            driven.disarm()

    def _arm_in(self, driven: SubscriptionState, seconds: float) -> None:
        driven.disarm()
        if self._running and not driven.dropped:
            loop = asyncio.get_running_loop()
            driven.timer = loop.call_later(seconds, self.poke, driven)


def new_wake_id() -> str:
    return "w_" + secrets.token_hex(12)
