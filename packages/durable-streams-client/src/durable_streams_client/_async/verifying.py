"""Verifying webhooks with keys that are fetched when they are needed, and kept (§6.5)."""

import time
from collections.abc import Mapping
from typing import Any

from durable_streams_client._async.client import AsyncClient
from durable_streams_client._async.context import context_of
from durable_streams_client.errors import MalformedAnswer
from durable_streams_client.messages import Request
from durable_streams_client.options import Extra
from durable_streams_client.parsing import NotJson, parse_object
from durable_streams_client.webhooks import REPLAY_WINDOW_SECONDS, UnknownKey, verify_webhook

KEEP_SECONDS = 300.0
REFETCH_SECONDS = 10.0
"""How soon a key that is not known may make it ask again: anybody can name one."""


class AsyncWebhookVerifier:
    """Keeps the keys of one server, whose ``jwks_url`` its subscriptions tell.

    Take the URL from your configuration or from :meth:`AsyncSubscriptions.get`, never from the
    webhook itself.
    """

    def __init__(
        self, client: AsyncClient, jwks_url: str, *, window: float = REPLAY_WINDOW_SECONDS
    ) -> None:
        self._calls = context_of(client).calls
        self._url = jwks_url
        self._window = window
        self._jwks: Mapping[str, Any] = {}
        self._fetched = self._asked = float("-inf")

    async def verify(self, headers: Mapping[Any, Any], body: bytes) -> dict[str, Any]:
        """The webhook's content; raises :class:`~durable_streams_client.WebhookRejected`."""
        if time.monotonic() - self._fetched > KEEP_SECONDS:
            await self._fetch()
        try:
            return verify_webhook(headers, body, self._jwks, window=self._window)
        except UnknownKey:
            if time.monotonic() - self._asked <= REFETCH_SECONDS:
                raise
        await self._fetch()
        return verify_webhook(headers, body, self._jwks, window=self._window)

    async def _fetch(self) -> None:
        try:
            reply = await self._calls.call(Request("GET", self._url), extra=Extra([], []))
        finally:
            self._asked = time.monotonic()
        try:
            jwks = parse_object(reply.body)
        except NotJson as error:
            raise MalformedAnswer(
                f"The key set is not a JSON object: {error}.", method="GET", url=self._url
            ) from None
        self._jwks = jwks
        self._fetched = time.monotonic()
