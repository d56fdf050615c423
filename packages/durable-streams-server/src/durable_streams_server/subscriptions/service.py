"""Subscriptions as requests and applications use them: the engine's ``subscriptions``.

Any process answers the requests of workers, from the store. The process that drives the
subscription learns of the change like of any other commit.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from durable_streams_core.entities import LIVE, Facts, Head
from durable_streams_core.errors import Gone, InvalidRequest, NotFound, SubscriptionError
from durable_streams_core.expiry import format_time
from durable_streams_core.metrics import Metric
from durable_streams_core.offsets import Offset
from durable_streams_core.store import Store
from durable_streams_core.subscriptions.leases import (
    ACK,
    DONE,
    DROP,
    HELD,
    IDLE,
    RELEASE,
    RETRYING,
    WAITING,
    Lease,
    decode_lease,
)
from durable_streams_core.subscriptions.operations import (
    AckedStream,
    AddStreams,
    Claim,
    Finish,
    LinkMore,
    RemoveStream,
    Step,
    Subscribe,
    Subscribed,
    Unsubscribe,
    WakeRef,
    already_claimed,
    no_subscription,
    require_type,
)
from durable_streams_core.subscriptions.records import (
    BASE_URL,
    LEASE,
    PREFIX,
    PULL_WAKE,
    WEBHOOK,
    BaseUrl,
    Config,
    LinkedStream,
    birth_of,
    decode_base_url,
    invalid,
    parse_ack_offset,
    parse_object,
    parse_stream,
    subscription_path,
)
from durable_streams_server.perform import Perform
from durable_streams_server.subscriptions.delivery import TraceDelivery
from durable_streams_server.subscriptions.driver import Driver
from durable_streams_server.subscriptions.keyring import Keyring
from durable_streams_server.subscriptions.options import SubscriptionOptions
from durable_streams_server.subscriptions.pending import SNAPSHOT
from durable_streams_server.subscriptions.positions import tail_of
from durable_streams_server.subscriptions.receivers import Receivers
from durable_streams_server.subscriptions.tokens import new_wake_id
from durable_streams_server.subscriptions.urls import control_url
from durable_streams_server.subscriptions.webhooks import Webhooks

log = logging.getLogger("durable_streams_server.subscriptions")

MAX_LISTED: Final = 10_000
"""Streams that the description of a subscription lists."""
MAX_ACKS: Final = 10_000
MAX_WORKER: Final = 256
_LINKS: Final = 500

CheckReadable = Callable[[str, Offset], Awaitable[None]]
"""Raises the ProtocolError that a read of a stream from an offset would meet."""


class ListedSubscription(msgspec.Struct, frozen=True):
    """One subscription of a listing."""

    id: str
    type: str
    status: str


class Subscriptions:
    """The subscriptions of one engine: ``engine.subscriptions``.

    Every call raises :class:`SubscriptionError`, whose code and status are the protocol's, and
    :class:`Unavailable` if the engine is not started or the store cannot be reached.

    Long because it has a call for each control route, with its contract.
    """

    def __init__(
        self,
        store: Store,
        perform: Perform,
        check_readable: CheckReadable,
        options: SubscriptionOptions | None,
    ) -> None:
        self.options = options or SubscriptionOptions()
        self._store = store
        self._perform = perform
        self._check_offset = check_readable
        localhost = self.options.webhook_localhost
        if localhost is None:
            localhost = self.options.public_url is None
        self._receivers = Receivers(self.options.webhook_allow, localhost=localhost)
        self.keyring = Keyring(store, perform, self.options.key_days)
        self.driver = Driver(
            store,
            perform,
            self.options,
            self.keyring,
            Webhooks(self._receivers, self.options.max_deliveries),
        )
        self._positions = self.driver.positions

    async def start(self) -> None:
        """Begin to drive subscriptions."""
        await self.driver.start()

    async def stop(self) -> None:
        """Let deliveries end, for a moment."""
        await self.driver.stop()

    def stop_watching(self) -> None:
        """Learn of no more commits."""
        self.driver.stop_watching()

    def due(self, path: str) -> None:
        """The sweep found a control entity whose deadline has passed."""
        self.driver.due(path)

    def trace_deliveries(self, trace: TraceDelivery) -> None:
        """Have ``trace`` begin a span of each webhook."""
        self.driver.trace_deliveries(trace)

    def metrics(self) -> Iterator[Metric]:
        """What this process counts of subscriptions, at once."""
        return self.driver.metrics()

    async def rotate_keys(self) -> str:
        """Sign webhooks with a new key from now on; returns its id (§6.5)."""
        return await self.keyring.rotate()

    # Managing (§6.2 to §6.5).

    async def create(
        self, subscription: str, config: Config, base_url: BaseUrl
    ) -> tuple[bool, dict[str, Any]]:
        """Create a subscription, or confirm the one that is there (§6.2).

        Args:
            subscription: its id.
            config: what it links and how it wakes, from :func:`parse_config`.
            base_url: the URL of the stream root, from which receivers get their callback.

        Returns whether it is new, and its description. Raises with the code
        ``SUBSCRIPTION_ALREADY_EXISTS`` if it is there with another configuration, and
        ``WEBHOOK_URL_REJECTED`` for a receiver that may not be reached.

        """
        path = subscription_path(subscription)
        if config.webhook is not None:
            self._receivers.judge(config.webhook)
        await self.driver.take_part()
        incarnation = secrets.token_hex(8)
        while True:
            facts = await self._store.load(path)
            tails = await self._positions.tails(config) if facts is None else []
            operation = Subscribe(
                incarnation,
                config,
                base_url,
                tails[:_LINKS],
                linking=len(tails) > _LINKS,
                confirm=facts is not None,
            )
            subscribed: Subscribed | None = await self._perform(path, operation)
            if subscribed is not None:
                break
        if subscribed.linking:
            await self._link(path, subscribed.head, tails[_LINKS:] if subscribed.new else None)
        self.driver.adopt(path, await self._head(path))
        return subscribed.new, await self.describe(subscription, base_url)

    async def _link(self, path: str, head: Head, tails: Sequence[Any] | None) -> None:
        """Write the cursors that did not fit, or all if an earlier creation stopped half-way."""
        if tails is None:
            tails = await self._positions.tails(birth_of(head).config)
        for begin in range(0, len(tails), _LINKS):
            await self._perform(path, LinkMore(head.incarnation, tails[begin : begin + _LINKS]))
        await self._perform(path, LinkMore(head.incarnation, ()))

    async def _facts(self, path: str) -> Facts:
        facts = await self._store.load(path, (LEASE, BASE_URL))
        if facts is None or facts.head.state != LIVE:
            raise no_subscription()
        return facts

    async def _head(self, path: str) -> Head:
        return (await self._facts(path)).head

    async def describe(self, subscription: str, base_url: BaseUrl | None = None) -> dict[str, Any]:
        """The description of a subscription (§6.3); ``base_url`` as for :meth:`create`."""
        path = subscription_path(subscription)
        facts = await self._facts(path)
        birth, lease = birth_of(facts.head), decode_lease(facts.fields[LEASE])
        config = birth.config
        streams: list[dict[str, Any]] = []
        incarnation = facts.head.incarnation
        async for linked in self._positions.all(path, incarnation, config):
            if linked.head is not None or linked.explicit:
                streams.append(linked.described(tail=False))
            if len(streams) >= MAX_LISTED:
                break
        webhook = None
        if config.webhook is not None:
            await self.keyring.ready()
            base_url = base_url or decode_base_url(facts.fields[BASE_URL]) or BaseUrl("", "/")
            webhook = {
                "url": config.webhook,
                "signing": {
                    "alg": "ed25519",
                    "kid": self.keyring.kid,
                    "jwks_url": control_url(self.options.public_url, base_url, "jwks.json"),
                },
            }
        described = {
            "id": subscription,
            "subscription_id": subscription,
            "type": config.type,
            "pattern": config.pattern,
            "streams": streams,
            "webhook": webhook,
            "wake_stream": config.wake_stream,
            "lease_ttl_ms": config.lease_ttl_ms,
            "created_at": format_time(birth.created),
            "status": "failed" if lease.failing else "active",
            "description": config.description,
            "lease": _lease(lease),
        }
        if lease.failing and lease.phase in (RETRYING, WAITING):
            described["next_attempt_at"] = format_time(lease.until)
        return described

    async def delete(self, subscription: str) -> None:
        """Delete; acknowledgements of its wakes are refused from now on (§6.3)."""
        await self._perform(subscription_path(subscription), Unsubscribe())

    async def add_streams(self, subscription: str, streams: Sequence[str]) -> None:
        """Link streams explicitly, at their tails (§6.4)."""
        path = subscription_path(subscription)
        heads = await self._positions.heads(streams)
        tails = [tail_of(stream, head) for stream, head in zip(streams, heads, strict=True)]
        for begin in range(0, len(tails), _LINKS):
            some = tails[begin : begin + _LINKS]
            await self._perform(path, AddStreams(some, self.driver.wake_streams))

    async def remove_stream(self, subscription: str, stream: str) -> None:
        """Drop an explicit link (§6.4)."""
        await self._perform(subscription_path(subscription), RemoveStream(parse_stream(stream)))

    async def jwks(self) -> dict[str, Any]:
        """The public keys that verify webhooks (§6.5)."""
        await self.keyring.ready()
        return self.keyring.jwks()

    # Working (§7).

    async def claim(self, subscription: str, worker: str) -> dict[str, Any]:
        """Lease the pending work of a pull-wake subscription to one worker (§7.2).

        Returns the wake's id, generation and token, the streams with pending work, and how long
        the lease lasts in milliseconds. Raises with code ``ALREADY_CLAIMED`` while another worker
        has it, and ``NO_PENDING_WORK`` when there is nothing to do.
        """
        path = subscription_path(subscription)
        facts = await self._facts(path)
        require_type(birth_of(facts.head).config, PULL_WAKE)
        lease = decode_lease(facts.fields[LEASE])
        if lease.phase == HELD and not lease.expired(self._store.now()):
            raise already_claimed(lease)
        await self.keyring.ready()
        incarnation = facts.head.incarnation
        pending = await self._pending(path, facts.head)
        if not pending:
            if lease.phase == WAITING:
                await self._perform(path, Step(incarnation, DROP, lease.wake_id, nudge=True))
            raise nothing_pending()
        nudge = self.driver.get(path) is None
        claimed: Lease = await self._perform(
            path, Claim(worker, new_wake_id(), pending[0].path, nudge)
        )
        self.driver.meter.claims += 1
        self.driver.lease_changed(path, claimed)
        return {
            "wake_id": claimed.wake_id,
            "generation": claimed.generation,
            "token": self.keyring.token(subscription, incarnation, claimed.generation),
            "streams": [linked.described(tail=True) for linked in pending],
            "lease_ttl_ms": birth_of(facts.head).config.lease_ttl_ms,
        }

    async def _pending(self, path: str, head: Head) -> list[LinkedStream]:
        """The pending work: of the candidates, where this process drives; else of all streams."""
        state = self.driver.get(path)
        if state is not None and state.incarnation == head.incarnation:
            pending = await self.driver.pending(state)
            if pending:
                return pending
        pending = []
        linked_streams = self._positions.all(path, head.incarnation, birth_of(head).config)
        async for linked in linked_streams:
            if linked.pending:
                pending.append(linked)
                if len(pending) >= SNAPSHOT:
                    break
        return pending

    async def callback(self, subscription: str, token: str, body: object) -> dict[str, Any]:
        """A webhook's receiver acknowledges, extends its lease, or is done (§7.1).

        ``token`` is the one of the wake, ``body`` the decoded request. Raises with the code
        ``FENCED`` when the wake is over, and ``TOKEN_INVALID`` or ``TOKEN_EXPIRED``.
        """
        return await self._finish(WEBHOOK, subscription, token, body)

    async def ack(self, subscription: str, token: str, body: object) -> dict[str, Any]:
        """A pull-wake worker acknowledges, extends its lease, or is done (§7.2).

        Takes and raises what :meth:`callback` does.
        """
        return await self._finish(PULL_WAKE, subscription, token, body)

    async def release(self, subscription: str, token: str, body: object) -> None:
        """A pull-wake worker releases its lease without acknowledging (§7.2)."""
        await self._finish(PULL_WAKE, subscription, token, body, release=True)

    async def _finish(
        self, kind: str, subscription: str, token: str, body: object, *, release: bool = False
    ) -> dict[str, Any]:
        path = subscription_path(subscription)
        facts = await self._facts(path)
        require_type(birth_of(facts.head).config, kind)
        await self.keyring.ready()
        claims = self.keyring.check(token, subscription)
        request = parse_object(body)
        generation, wake_id = request.get("generation"), request.get("wake_id")
        if type(generation) is not int or not isinstance(wake_id, str):
            raise invalid("Send the wake_id and the generation of the wake.")
        is_done = request.get("done", False)
        if type(is_done) is not bool:
            raise invalid("done is true or false.")
        acks = [] if release else await self._acks(request.get("acks"))
        step = RELEASE if release else DONE if is_done else ACK
        state = self.driver.get(path)
        ref = WakeRef(claims.inc, claims.gen, generation, wake_id)
        lease: Lease = await self._perform(path, Finish(ref, step, acks, nudge=state is None))
        self.driver.lease_changed(path, lease)
        next_wake = False
        if lease.phase == IDLE:
            if state is not None:
                base_url = decode_base_url(facts.fields[BASE_URL])
                next_wake = await self.driver.wake_again(state, base_url)
            elif not release:
                next_wake = bool(await self._pending(path, facts.head))
        return {"ok": True, "next_wake": next_wake}

    async def _acks(self, value: object) -> list[AckedStream]:
        """The acks of a request, each with the head of its stream."""
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > MAX_ACKS:
            raise invalid(f"acks is an array of at most {MAX_ACKS} acks.")
        offsets: list[tuple[str, Offset]] = []
        for item in value:
            ack = parse_object(item)
            stream = ack.get("stream", ack.get("path"))
            if not isinstance(stream, str):
                raise invalid("An ack names its stream.")
            offsets.append((parse_stream(stream), parse_ack_offset(ack.get("offset"))))
        heads = await self._positions.heads([stream for stream, _ in offsets])
        acks: list[AckedStream] = []
        for (stream, offset), head in zip(offsets, heads, strict=True):
            acks.append(AckedStream(stream, offset, head))
            if head is not None and offset != head.tail_offset:
                await self._check_readable(stream, offset)
        return acks

    async def _check_readable(self, stream: str, offset: Offset) -> None:
        """Refuse an ack from which the stream could not be read on: one inside a message, past the
        tail, or of bytes that are no longer there.
        """
        try:
            await self._check_offset(stream, offset)
        except (InvalidRequest, NotFound, Gone) as error:
            raise SubscriptionError("INVALID_OFFSET", f"{stream}: {error.message}") from None

    # Listing, last: within the class the name hides the builtin from what follows.

    async def list(
        self, prefix: str = "", *, after: str = "", limit: int = 100
    ) -> tuple[Sequence[ListedSubscription], str | None]:
        """Subscriptions whose id begins with ``prefix``, by id.

        Returns at most ``limit`` of them and the ``after`` of the next page, None after the last.
        """
        rows = await self._store.list(PREFIX + prefix, after and PREFIX + after, limit)
        listed = [
            ListedSubscription(
                path.removeprefix(PREFIX),
                birth_of(facts.head).config.type,
                "failed" if decode_lease(facts.fields[LEASE]).failing else "active",
            )
            for path, _ in rows
            if (facts := await self._store.load(path, (LEASE,))) is not None
        ]
        return listed, rows[-1][0].removeprefix(PREFIX) if len(rows) == limit else None


def nothing_pending() -> SubscriptionError:
    """The error for a claim that finds nothing to do (§7.2)."""
    return SubscriptionError(
        "NO_PENDING_WORK", "No stream of the subscription has anything new; wait for a wake."
    )


def _lease(lease: Lease) -> dict[str, Any]:
    """The lease as an operator sees it (an extension); its tokens and wake id stay inside."""
    shown: dict[str, Any] = {"phase": lease.phase, "generation": lease.generation}
    if lease.until:
        shown["until"] = format_time(lease.until)
    if lease.holder:
        shown["worker"] = lease.holder
    return shown
