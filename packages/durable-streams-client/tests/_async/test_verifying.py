"""Webhooks whose keys are fetched when they are needed, and kept (§6.5, §7.1)."""

import json
import time

import pytest
from hostile import Fault, refuse
from subscribed import JWKS, Signer, Subscribed

from durable_streams_client import (
    AsyncClient,
    AsyncWebhookVerifier,
    MalformedResponse,
    RetryPolicy,
    Unavailable,
    UnknownKey,
    WebhookRejected,
)
from durable_streams_client._async import verifying

BODY = json.dumps({"subscription_id": "s", "generation": 1}).encode()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock that tells how old keys are; the wall clock goes on."""
    now = [1000.0]

    class Time:
        @staticmethod
        def monotonic() -> float:
            return now[0]

    monkeypatch.setattr(verifying, "time", Time)
    return now


def signed(key: Signer, body: bytes = BODY) -> dict[str, str]:
    return key.headers(body, int(time.time()))


async def test_keys_are_fetched_once_and_kept_for_a_while(
    hub: Subscribed, clock: list[float]
) -> None:
    key = Signer("k1")
    hub.keys = [Signer("k0"), key]
    async with AsyncClient(hub.url) as client:
        verifier = AsyncWebhookVerifier(client, f"{hub.url}{JWKS}")
        for _ in range(3):
            assert (await verifier.verify(signed(key), BODY))["subscription_id"] == "s"
        assert len(hub.asked) == 1
        clock[0] += verifying.KEEP_SECONDS + 1
        await verifier.verify(signed(key), BODY)
        assert len(hub.asked) == 2
        # Keys that were withdrawn meanwhile are not believed any more.
        hub.keys = [Signer("k2")]
        clock[0] += verifying.KEEP_SECONDS + 1
        with pytest.raises(UnknownKey):
            await verifier.verify(signed(key), BODY)
        assert len(hub.asked) == 3


async def test_an_unknown_key_makes_it_ask_again_but_not_at_everybodys_whim(
    hub: Subscribed, clock: list[float]
) -> None:
    old, new = Signer("k1"), Signer("k2")
    hub.keys = [old]
    async with AsyncClient(hub.url) as client:
        verifier = AsyncWebhookVerifier(client, f"{hub.url}{JWKS}")
        await verifier.verify(signed(old), BODY)
        hub.keys = [old, new]
        with pytest.raises(UnknownKey):
            await verifier.verify(signed(new), BODY)
        assert len(hub.asked) == 1
        clock[0] += verifying.REFETCH_SECONDS + 1
        assert (await verifier.verify(signed(new), BODY))["generation"] == 1
        await verifier.verify(signed(old), BODY)
        assert len(hub.asked) == 2
        clock[0] += verifying.REFETCH_SECONDS + 1
        for _ in range(3):
            with pytest.raises(UnknownKey):
                await verifier.verify(signed(Signer("k3")), BODY)
        assert len(hub.asked) == 3


async def test_what_is_forged_or_late_asks_for_no_keys_again(
    hub: Subscribed, clock: list[float]
) -> None:
    key = Signer("k1")
    hub.keys = [key]
    async with AsyncClient(hub.url) as client:
        verifier = AsyncWebhookVerifier(client, f"{hub.url}{JWKS}", window=60)
        await verifier.verify(signed(key), BODY)
        clock[0] += verifying.REFETCH_SECONDS + 1
        late = key.headers(BODY, int(time.time()) - 120)
        for headers, body in (
            (signed(key), BODY + b" "),
            (signed(Signer("k1")), BODY),
            (late, BODY),
            ({}, BODY),
        ):
            with pytest.raises(WebhookRejected):
                await verifier.verify(headers, body)
        assert len(hub.asked) == 1


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"<p>"])
async def test_a_key_set_that_is_none_is_no_verdict_on_the_webhook(
    hub: Subscribed, body: bytes
) -> None:
    hub.faults = lambda asked: Fault(apply=False, status=200, body=body)
    async with AsyncClient(hub.url) as client:
        verifier = AsyncWebhookVerifier(client, f"{hub.url}{JWKS}")
        with pytest.raises(MalformedResponse, match="key set"):
            await verifier.verify(signed(Signer("k1")), BODY)


async def test_keys_that_cannot_be_had_are_asked_for_again_at_the_next_webhook(
    hub: Subscribed,
) -> None:
    key = Signer("k1")
    hub.keys = [key]
    hub.faults = lambda asked: refuse(503) if asked.count == 0 else None
    async with AsyncClient(hub.url, retry=RetryPolicy(attempts=1)) as client:
        verifier = AsyncWebhookVerifier(client, f"{hub.url}{JWKS}")
        with pytest.raises(Unavailable):
            await verifier.verify(signed(key), BODY)
        assert await verifier.verify(signed(key), BODY)


async def test_unknown_keys_do_not_hammer_a_server_that_is_down(
    hub: Subscribed, clock: list[float]
) -> None:
    key = Signer("k1")
    hub.keys = [key]
    async with AsyncClient(hub.url, retry=RetryPolicy(attempts=1)) as client:
        verifier = AsyncWebhookVerifier(client, f"{hub.url}{JWKS}")
        await verifier.verify(signed(key), BODY)
        clock[0] += verifying.REFETCH_SECONDS + 1
        hub.faults = lambda asked: refuse(503)
        with pytest.raises(Unavailable):
            await verifier.verify(signed(Signer("k2")), BODY)
        for _ in range(3):
            with pytest.raises(UnknownKey):
                await verifier.verify(signed(Signer("k2")), BODY)
        # The cached keys are as good as before.
        assert await verifier.verify(signed(key), BODY)
        assert len(hub.asked) == 2
