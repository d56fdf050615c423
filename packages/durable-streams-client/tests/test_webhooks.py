"""Whether a webhook came from the server, with given keys (§7.1, §12.10)."""

import base64
import sys
from typing import Any

import pytest
from subscribed import Signer

from durable_streams_client import UnknownKey, WebhookRejected, verify_webhook
from durable_streams_core.errors import DurableStreamsError

NOW = 1_700_000_000
BODY = b'{"subscription_id": "s"}'


@pytest.fixture
def key() -> Signer:
    return Signer("k1")


def keys(*signers: Signer) -> dict[str, Any]:
    return {"keys": [signer.jwk for signer in signers]}


def test_what_the_server_signed_is_believed(key: Signer) -> None:
    headers = key.headers(BODY, NOW)
    [value] = headers.values()
    for named in (
        headers,
        {"webhook-signature": value, "content-type": "application/json"},
        {b"Webhook-Signature": value.encode()},
    ):
        assert verify_webhook(named, BODY, keys(key), now=NOW) == {"subscription_id": "s"}


def test_the_key_is_the_one_that_is_named(key: Signer) -> None:
    other = Signer("k2")
    for jwks in (keys(other, key), keys(key, other)):
        assert verify_webhook(key.headers(BODY, NOW), BODY, jwks, now=NOW)
        assert verify_webhook(other.headers(BODY, NOW), BODY, jwks, now=NOW)
    with pytest.raises(WebhookRejected, match="fit"):
        verify_webhook(key.headers(BODY, NOW), BODY, keys(Signer("k1")), now=NOW)
    with pytest.raises(UnknownKey):
        verify_webhook(key.headers(BODY, NOW), BODY, keys(other), now=NOW)


@pytest.mark.parametrize("window", [300.0, 5.0])
def test_the_time_of_a_signature_may_differ_by_the_window_only(key: Signer, window: float) -> None:
    for sign in (-1, 1):
        assert verify_webhook(
            key.headers(BODY, NOW), BODY, keys(key), now=NOW + sign * window, window=window
        )
        with pytest.raises(WebhookRejected, match="clock"):
            verify_webhook(
                key.headers(BODY, NOW),
                BODY,
                keys(key),
                now=NOW + sign * (window + 1),
                window=window,
            )
    with pytest.raises(WebhookRejected, match="clock"):  # by the clock on the wall
        verify_webhook(key.headers(BODY, NOW), BODY, keys(key))


def test_nothing_of_a_signed_request_can_be_changed(key: Signer) -> None:
    [value] = key.headers(BODY, NOW).values()
    for changed in (BODY + b" ", BODY.replace(b"s", b"S"), b""):
        with pytest.raises(WebhookRejected, match="fit"):
            verify_webhook({"Webhook-Signature": value}, changed, keys(key), now=NOW)
    moved = value.replace(f"t={NOW}", f"t={NOW + 1}")
    with pytest.raises(WebhookRejected, match="fit"):
        verify_webhook({"Webhook-Signature": moved}, BODY, keys(key), now=NOW)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "t=1",
        "t=x,kid=k1,ed25519=" + "A" * 86,
        "t=-1,kid=k1,ed25519=" + "A" * 86,
        "t=1,kid=,ed25519=" + "A" * 86,
        "t=1,kid=k1,ed25519=" + "A" * 85,
        "t=1,kid=k1,ed25519=" + "A" * 86 + "==",
        "t=1,kid=k1,ed25519=" + "+" * 86,
        "t=1,kid=k1,ed25519=" + "A" * 86 + ",more=1",
        "t=1, kid=k1, ed25519=" + "A" * 86,
        "kid=k1,t=1,ed25519=" + "A" * 86,
    ],
)
def test_malformed_signatures_are_rejected(key: Signer, value: str) -> None:
    with pytest.raises(WebhookRejected, match="Webhook-Signature"):
        verify_webhook({"Webhook-Signature": value}, BODY, keys(key), now=NOW)


def test_no_signature_or_two_are_rejected(key: Signer) -> None:
    [value] = key.headers(BODY, NOW).values()
    for headers in ({}, {"Webhook-Signature": value, "webhook-signature": value}):
        with pytest.raises(WebhookRejected, match="Webhook-Signature"):
            verify_webhook(headers, BODY, keys(key), now=NOW)


@pytest.mark.parametrize("body", [b"[]", b"1", b"{", b"\xff"])
def test_signed_nonsense_is_rejected(key: Signer, body: bytes) -> None:
    with pytest.raises(WebhookRejected, match="JSON"):
        verify_webhook(key.headers(body, NOW), body, keys(key), now=NOW)


@pytest.mark.parametrize(
    "jwks",
    [
        {},
        {"keys": None},
        {"keys": {"kid": "k1"}},
        {"keys": [5, None, "k1"]},
        {"keys": [{"kid": "k1"}]},
        {"keys": [{"kid": "k1", "kty": "RSA", "crv": "Ed25519", "x": "AA"}]},
        {"keys": [{"kid": "k1", "kty": "OKP", "crv": "X25519", "x": "AA"}]},
        {"keys": [{"kid": "k1", "kty": "OKP", "crv": "Ed25519", "x": 5}]},
        {"keys": [{"kid": "k1", "kty": "OKP", "crv": "Ed25519", "x": "ä"}]},
    ],
)
def test_a_key_set_without_the_key(key: Signer, jwks: dict[str, Any]) -> None:
    with pytest.raises(UnknownKey):
        verify_webhook(key.headers(BODY, NOW), BODY, jwks, now=NOW)


def test_a_key_of_another_length_verifies_nothing(key: Signer) -> None:
    short = base64.urlsafe_b64encode(b"k" * 31).rstrip(b"=").decode()
    jwks = {"keys": [{**key.jwk, "x": short}]}
    with pytest.raises(WebhookRejected, match="fit"):
        verify_webhook(key.headers(BODY, NOW), BODY, jwks, now=NOW)


def test_without_what_verifies_it_says_what_to_install(
    key: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(DurableStreamsError, match=r"durable-streams-client\[webhooks\]") as caught:
        verify_webhook(key.headers(BODY, NOW), BODY, keys(key), now=NOW)
    assert not isinstance(caught.value, WebhookRejected)
