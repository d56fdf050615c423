"""Delivers wakes: an event in the wake stream of workers, or a webhook to a receiver (§7)."""

import random
from collections.abc import Callable, Sequence

import msgspec

from durable_streams_core.operations import Append, Body, ProducerClaim
from durable_streams_core.subscriptions.leases import Lease, retry_delay
from durable_streams_core.subscriptions.records import BaseUrl, LinkedStream
from durable_streams_server.perform import Perform
from durable_streams_server.subscriptions.keyring import Keyring
from durable_streams_server.subscriptions.state import SubscriptionState
from durable_streams_server.subscriptions.urls import control_url, quoted
from durable_streams_server.subscriptions.webhooks import FAILED, Webhooks

TraceDelivery = Callable[[str, Sequence[str]], tuple[dict[str, str], Callable[[str], None]]]
"""Called with a subscription and the streams with pending work before a webhook is sent: headers to
send with it, and a function that takes its outcome."""


class Delivery:
    """Sends one wake at a time for each subscription; commits nothing of what comes of it."""

    def __init__(
        self,
        perform: Perform,
        keyring: Keyring,
        webhooks: Webhooks,
        *,
        webhook_timeout: float,
    ) -> None:
        self._perform = perform
        self._keyring = keyring
        self._webhooks = webhooks
        self._webhook_timeout = webhook_timeout
        self.trace: TraceDelivery | None = None

    async def announce(self, state: SubscriptionState, lease: Lease, now: int) -> None:
        """Append the wake event to the wake stream (§7.2); raises :class:`ProtocolError`.

        The producer's epoch is the generation, so an event that another driver appends again is a
        duplicate and stored once.
        """
        stream = state.config.wake_stream
        assert stream is not None
        event = {
            "type": "wake",
            "subscription_id": state.id,
            "stream": lease.stream,
            "generation": lease.generation,
            "ts": now,
        }
        producer = ProducerClaim(f"subscription:{state.incarnation}", lease.generation, 0)
        body = Body(msgspec.json.encode(event) + b"\n")
        await self._perform(stream, Append(body, producer=producer))
        state.announced = lease.generation

    async def post(
        self,
        state: SubscriptionState,
        lease: Lease,
        base_url: BaseUrl,
        pending: list[LinkedStream],
        public_url: str | None,
    ) -> str:
        """Send the webhook (§7.1); returns ``DONE``, ``ACCEPTED`` or ``FAILED``."""
        config = state.config
        assert config.webhook is not None
        await self._keyring.ready()
        callback = f"subscriptions/{quoted(state.id)}/callback"
        body = msgspec.json.encode(
            {
                "subscription_id": state.id,
                "wake_id": lease.wake_id,
                "generation": lease.generation,
                "streams": [linked.described(tail=True) for linked in pending],
                "callback_url": control_url(public_url, base_url, callback),
                "callback_token": self._keyring.token(
                    state.id, state.incarnation, lease.generation
                ),
            }
        )
        seconds = min(config.lease_ttl_ms / 1000, self._webhook_timeout)
        signature = self._keyring.sign(body)
        if self.trace is None:
            return await self._webhooks.post(config.webhook, body, signature, seconds)
        headers, end = self.trace(state.id, [linked.path for linked in pending])
        outcome = FAILED
        try:
            outcome = await self._webhooks.post(config.webhook, body, signature, seconds, headers)
        finally:
            end(outcome)
        return outcome


def retry_in(lease: Lease) -> int:
    """Milliseconds until a failed wake is tried again, with jitter (§7.3)."""
    return retry_delay(lease.attempts + 1, random.uniform(-1, 1))
