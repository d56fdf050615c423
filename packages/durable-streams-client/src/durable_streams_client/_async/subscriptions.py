"""The subscriptions of a server: managing them, and claiming their work (§6, §7)."""

from collections.abc import Mapping, Sequence

from durable_streams_client._async.client import AsyncClient
from durable_streams_client._async.context import context_of
from durable_streams_client.messages import Request, WholeResponse
from durable_streams_client.options import Extra
from durable_streams_client.spans import Span
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
    control_request,
    control_url,
    link_action,
    more_work,
    paths_of,
    subscription_body,
    subscription_of,
)


class AsyncSubscriptions:
    """The subscriptions of the server whose stream root is the client's base URL.

    Methods raise ``SubscriptionRefused``, whose ``code`` is the protocol's, if the server refuses;
    ``InvalidArgument`` for an id, path or lease that has no meaning, or if the client has no base
    URL; and what ``AsyncClient`` lists.

    >>> subscriptions = AsyncSubscriptions(client)
    >>> made = await subscriptions.create_pull("sums", "wake", streams=["numbers"])
    >>> made.created, made.streams[0].path
    (True, 'numbers')
    >>> await subscriptions.delete("sums")
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
        """Create a subscription whose wakes are posted to a URL (§6.2, §7.1).

        - ``subscription``: the id, which you choose.
        - ``url``: where the server posts a webhook when a stream has new data.
        - ``pattern``: links every stream whose path matches it, now and later.
        - ``streams``: the paths of streams to link, from their tails on.
        - ``lease_seconds``: how long one worker may take before the server wakes another.
        - ``description``: any text.

        Returns the ``Subscription``. If it exists with the same configuration, nothing changes and
        its ``created`` is false; with another one ``SubscriptionRefused`` is raised.

        >>> made = await AsyncSubscriptions(client).create_webhook(
        ...     "hook", "https://example.org/hook", streams=["numbers"]
        ... )
        >>> made.webhook_url
        'https://example.org/hook'
        """
        body = subscription_body(
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
        """Create a subscription whose wakes are messages on a stream (§6.2, §7.2).

        ``wake_stream`` is the path of an ordinary JSON stream, which you create first. The other
        arguments, the result and the errors are those of ``create_webhook``.

        >>> made = await AsyncSubscriptions(client).create_pull("sums", "wake", streams=["numbers"])
        >>> made.wake_stream
        'wake'
        """
        body = subscription_body(
            "pull-wake",
            pattern=pattern,
            streams=streams,
            lease_seconds=lease_seconds,
            description=description,
            wake_stream=wake_stream,
        )
        return await self._create(subscription, body)

    async def _create(self, subscription: str, body: dict[str, object]) -> Subscription:
        sent = control_request("PUT", self._url(subscription), body)
        with self._calls.span("PUT", "subscribe", sent.url) as span:
            return subscription_of(sent, await self._call(sent, span))

    async def get(self, subscription: str) -> Subscription:
        """Return the subscription with its streams and cursors (§6.3).

        Raises ``SubscriptionRefused`` with ``SUBSCRIPTION_NOT_FOUND`` if there is none.

        >>> subscription = await AsyncSubscriptions(client).get("jobs")
        >>> subscription.status, subscription.wake_stream
        ('active', 'wake')
        """
        sent = control_request("GET", self._url(subscription))
        with self._calls.span("GET", "subscribe", sent.url) as span:
            return subscription_of(sent, await self._call(sent, span))

    async def delete(self, subscription: str) -> None:
        """Delete the subscription (§6.3). Nothing happens if there is none.

        >>> await AsyncSubscriptions(client).delete("jobs")
        """
        await self._do(control_request("DELETE", self._url(subscription)))

    async def add_streams(self, subscription: str, streams: Sequence[str]) -> None:
        """Link the streams at these paths, from their tails on (§6.4).

        >>> subscriptions = AsyncSubscriptions(client)
        >>> await subscriptions.add_streams("jobs", ["poem"])
        >>> subscription = await subscriptions.get("jobs")
        >>> [linked.path for linked in subscription.streams]
        ['numbers', 'poem']
        """
        body = {"streams": paths_of(streams)}
        await self._do(control_request("POST", self._url(subscription, "/streams"), body))

    async def remove_stream(self, subscription: str, stream: str) -> None:
        """Remove the link to the stream at this path (§6.4). A link by pattern stays.

        >>> subscriptions = AsyncSubscriptions(client)
        >>> await subscriptions.remove_stream("jobs", "numbers")
        >>> subscription = await subscriptions.get("jobs")
        >>> subscription.streams
        ()
        """
        await self._do(control_request("DELETE", self._url(subscription, link_action(stream))))

    async def claim(self, subscription: str, worker: str) -> Claim | None:
        """Claim all pending work of a pull-wake subscription for ``worker``, a name (§7.2).

        Returns a ``Claim``, or None if no work is pending or another worker holds the lease. The
        request is not repeated when its response is lost, because the lease would be lost too.

        >>> claim = await AsyncSubscriptions(client).claim("jobs", "worker-7")
        >>> [linked.path for linked in claim.streams if linked.has_pending]
        ['numbers']
        """
        sent = control_request("POST", self._url(subscription, "/claim"), {"worker": worker})
        with self._calls.span("POST", "claim", sent.url) as span:
            # Not repeated when its response is lost: the lease is then held, and its token unknown.
            response = await self._calls.call(
                sent, extra=self._extra, span=span, accept=REFUSALS, repeatable=False
            )
            try:
                return claim_of(subscription, sent, response)
            except SubscriptionRefused as refused:
                if refused.code in (ALREADY_CLAIMED, NO_PENDING_WORK):
                    return None
                raise

    async def ack(
        self, claim: Claim, acks: Mapping[str, str] | None = None, *, done: bool = False
    ) -> bool:
        """Acknowledge work, and extend the lease of ``claim`` (§7.2).

        - ``acks``: for each path, the offset up to which the stream was handled.
        - ``done``: ends the lease instead of extending it.

        Returns whether more work is pending already. Raises ``SubscriptionRefused`` with the code
        ``FENCED`` if the lease is over: then stop the work.

        >>> subscriptions = AsyncSubscriptions(client)
        >>> claim = await subscriptions.claim("jobs", "worker-7")
        >>> await subscriptions.ack(claim, {"numbers": "00000003"}, done=True)
        False
        """
        sent = control_request(
            "POST",
            self._url(claim.subscription, "/ack"),
            ack_body(claim, acks or {}, done=done),
            claim.token,
        )
        with self._calls.span("POST", "ack", sent.url) as span:
            response = await self._call_by_token(sent, span)
            try:
                return more_work(sent, response)
            except SubscriptionRefused as refused:
                if done and response.uncertain and refused.code == FENCED:
                    return False  # an earlier attempt ended the lease, and its response was lost
                raise

    async def release(self, claim: Claim) -> None:
        """End the lease of ``claim`` without acknowledging, for another worker (§7.2).

        >>> subscriptions = AsyncSubscriptions(client)
        >>> claim = await subscriptions.claim("jobs", "worker-7")
        >>> await subscriptions.release(claim)
        """
        body = {"wake_id": claim.wake_id, "generation": claim.generation}
        sent = control_request("POST", self._url(claim.subscription, "/release"), body, claim.token)
        with self._calls.span("POST", "release", sent.url) as span:
            response = await self._call_by_token(sent, span)
            try:
                check(sent, response)
            except SubscriptionRefused as refused:
                if not (response.uncertain and refused.code == FENCED):
                    raise

    def _url(self, subscription: str, action: str = "") -> str:
        return control_url(self.client.base_url, subscription, action)

    async def _do(self, sent: Request) -> None:
        with self._calls.span(sent.method, "subscribe", sent.url) as span:
            check(sent, await self._call(sent, span))

    async def _call(self, sent: Request, span: Span) -> WholeResponse:
        return await self._calls.call(sent, extra=self._extra, span=span, accept=REFUSALS)

    async def _call_by_token(self, sent: Request, span: Span) -> WholeResponse:
        return await self._by_token.call(sent, extra=self._extra, span=span, accept=REFUSALS)
