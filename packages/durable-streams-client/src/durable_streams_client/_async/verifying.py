"""A verifier of webhooks that fetches the server's keys and caches them (§6.5)."""

import time
from collections.abc import Mapping
from typing import Any

from durable_streams_client._async.client import AsyncClient
from durable_streams_client._async.context import context_of
from durable_streams_client.errors import MalformedResponse
from durable_streams_client.messages import Request
from durable_streams_client.options import Extra
from durable_streams_client.parsing import NotJson, parse_object
from durable_streams_client.webhooks import REPLAY_WINDOW_SECONDS, UnknownKey, verify_webhook

KEEP_SECONDS = 300.0
"""How long fetched keys are used before they are fetched again."""
REFETCH_SECONDS = 10.0
"""The least seconds between two fetches because of an unknown key, which anybody can name."""


class AsyncWebhookVerifier:
    """A verifier of the webhooks of one server, which fetches and caches the keys (§6.5, §7.1).

    - ``client``: the client that fetches the keys.
    - ``jwks_url``: where they are. Take it from your configuration or from
      ``Subscription.jwks_url``, never from the webhook itself.
    - ``window``: the seconds by which the signature's time may differ from the clock.

    Needs the extra ``webhooks``.

    >>> verifier = AsyncWebhookVerifier(client, jwks_url)
    >>> await verifier.verify(headers, body)
    {'subscription_id': 'jobs'}
    """

    def __init__(
        self, client: AsyncClient, jwks_url: str, *, window: float = REPLAY_WINDOW_SECONDS
    ) -> None:
        self._calls = context_of(client).calls
        self._url = jwks_url
        self._window = window
        self._jwks: Mapping[str, Any] = {}
        self._fetched_at = self._tried_at = float("-inf")

    async def verify(self, headers: Mapping[Any, Any], body: bytes) -> dict[str, Any]:
        """Return the content of a webhook, a JSON object, if the server has signed it.

        ``headers`` are those of the request, with names in any case; ``body`` is its raw body.

        Raises ``WebhookRejected``, or ``UnknownKey`` if no key of the server has signed it; and
        what ``AsyncClient`` lists if the keys cannot be fetched.

        >>> verifier = AsyncWebhookVerifier(client, jwks_url)
        >>> try:
        ...     await verifier.verify(headers, b"forged")
        ... except WebhookRejected as error:
        ...     print(error)
        The signature does not fit the body.
        """
        if time.monotonic() - self._fetched_at > KEEP_SECONDS:
            await self._fetch()
        try:
            return verify_webhook(headers, body, self._jwks, window=self._window)
        except UnknownKey:
            if time.monotonic() - self._tried_at <= REFETCH_SECONDS:
                raise
        await self._fetch()
        return verify_webhook(headers, body, self._jwks, window=self._window)

    async def _fetch(self) -> None:
        try:
            with self._calls.span("GET", "jwks", self._url) as span:
                response = await self._calls.call(
                    Request("GET", self._url), extra=Extra([], []), span=span
                )
                jwks = parse_object(response.body)
        except NotJson as error:
            raise MalformedResponse(
                f"The key set is not a JSON object: {error}.", method="GET", url=self._url
            ) from None
        finally:
            self._tried_at = time.monotonic()
        self._jwks = jwks
        self._fetched_at = time.monotonic()
