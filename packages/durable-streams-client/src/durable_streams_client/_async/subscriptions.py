"""Managing subscriptions and taking their work (§6, §7)."""

from collections.abc import Mapping, Sequence

from durable_streams_client._async.client import AsyncClient
from durable_streams_client._async.context import context_of
from durable_streams_client.messages import Request
from durable_streams_client.options import Extra
from durable_streams_client.subscribing import (
    ALREADY_CLAIMED,
    FENCED,
    NO_PENDING_WORK,
    REFUSALS,
    Claim,
    Subscription,
    SubscriptionRefused,
    ack_body,
    check,
    claim_of,
    control_url,
    link_action,
    more_work,
    paths_of,
    request,
    subscription_of,
    wish,
)


class AsyncSubscriptions:
    """The subscriptions of the server whose stream root is the client's base URL.

    Methods raise :class:`~durable_streams_client.SubscriptionRefused` with the protocol's code.
    """

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self._calls = context_of(client).calls
        # A wake's own token takes the place of the client's credentials.
        self._by_token = self._calls.without_header("authorization")
        self._extra = Extra([], [])

    async def create_webhook(
        self,
        subscription: str,
        url: str,
        *,
        pattern: str | None = None,
        streams: Sequence[str] = (),
        lease_seconds: float = 30.0,
        description: str | None = None,
    ) -> Subscription:
        """Create, or confirm, a subscription that tells ``url`` of new data (§6.2, §7.1)."""
        body = wish(
            "webhook",
            pattern=pattern,
            streams=streams,
            lease_seconds=lease_seconds,
            description=description,
            webhook={"url": url},
        )
        return await self._create(subscription, body)

    async def create_pull(
        self,
        subscription: str,
        wake_stream: str,
        *,
        pattern: str | None = None,
        streams: Sequence[str] = (),
        lease_seconds: float = 30.0,
        description: str | None = None,
    ) -> Subscription:
        """Create, or confirm, a subscription whose wakes are events on ``wake_stream`` (§7.2).

        The wake stream is an ordinary stream that you create; let it be JSON.
        """
        body = wish(
            "pull-wake",
            pattern=pattern,
            streams=streams,
            lease_seconds=lease_seconds,
            description=description,
            wake_stream=wake_stream,
        )
        return await self._create(subscription, body)

    async def _create(self, subscription: str, body: dict[str, object]) -> Subscription:
        asked = request("PUT", self._url(subscription), body)
        reply = await self._calls.call(asked, extra=self._extra, accept=REFUSALS)
        return subscription_of(asked, reply)

    async def get(self, subscription: str) -> Subscription:
        """The subscription with its streams and cursors (§6.3)."""
        asked = request("GET", self._url(subscription))
        reply = await self._calls.call(asked, extra=self._extra, accept=REFUSALS)
        return subscription_of(asked, reply)

    async def delete(self, subscription: str) -> None:
        """Delete it; one that is not there is fine."""
        await self._do(request("DELETE", self._url(subscription)))

    async def add_streams(self, subscription: str, streams: Sequence[str]) -> None:
        """Link streams explicitly, from their tails on (§6.4)."""
        body = {"streams": paths_of(streams)}
        await self._do(request("POST", self._url(subscription, "/streams"), body))

    async def remove_stream(self, subscription: str, stream: str) -> None:
        """Drop an explicit link; a pattern's link stays (§6.4)."""
        await self._do(request("DELETE", self._url(subscription, link_action(stream))))

    async def claim(self, subscription: str, worker: str) -> Claim | None:
        """Take what is pending (§7.2). None if nothing is, or another worker has it."""
        asked = request("POST", self._url(subscription, "/claim"), {"worker": worker})
        # Not repeated when its answer is lost: then the lease is taken, by nobody who knows of it.
        reply = await self._calls.call(asked, extra=self._extra, accept=REFUSALS, repeatable=False)
        try:
            return claim_of(subscription, asked, reply)
        except SubscriptionRefused as refused:
            if refused.code in (ALREADY_CLAIMED, NO_PENDING_WORK):
                return None
            raise

    async def ack(
        self, claim: Claim, acks: Mapping[str, str] | None = None, *, done: bool = False
    ) -> bool:
        """Say how far streams are worked on (path to offset), and extend the lease; with ``done``
        end it instead (§7.2). Answers whether more work waits already.

        Raises :class:`~durable_streams_client.SubscriptionRefused` with the code ``FENCED`` if the
        lease is over: stop working on it.
        """
        asked = request(
            "POST",
            self._url(claim.subscription, "/ack"),
            ack_body(claim, acks or {}, done=done),
            claim.token,
        )
        reply = await self._by_token.call(asked, extra=self._extra, accept=REFUSALS)
        try:
            return more_work(asked, reply)
        except SubscriptionRefused as refused:
            if done and reply.uncertain and refused.code == FENCED:
                return False  # an earlier try has ended the lease, and its answer was lost
            raise

    async def release(self, claim: Claim) -> None:
        """Give the lease back without an ack, for another worker (§7.2)."""
        body = {"wake_id": claim.wake_id, "generation": claim.generation}
        asked = request("POST", self._url(claim.subscription, "/release"), body, claim.token)
        reply = await self._by_token.call(asked, extra=self._extra, accept=REFUSALS)
        try:
            check(asked, reply)
        except SubscriptionRefused as refused:
            if not (reply.uncertain and refused.code == FENCED):
                raise

    def _url(self, subscription: str, action: str = "") -> str:
        return control_url(self.client.base_url, subscription, action)

    async def _do(self, asked: Request) -> None:
        check(asked, await self._calls.call(asked, extra=self._extra, accept=REFUSALS))
