"""Signatures, the keys behind them, and tokens (§6.5, §12.9, §12.10)."""

import time
from base64 import urlsafe_b64decode
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from remote import RemoteStore

from durable_streams_core.errors import SubscriptionError
from durable_streams_core.subscriptions.keys import PUBLISHED_MS
from durable_streams_server import MemoryStore
from durable_streams_server.subscriptions import tokens
from durable_streams_server.subscriptions.tokens import LIFE_SECONDS, Claims

SECRET = b"s" * 32
CLAIMS = Claims("sub-1", "inc", 7, 1000)


def unb64(text: Any) -> Any:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def verify(signature: Any, body: Any, jwks: Any) -> Any:
    timestamp, kid, mark = (part.split("=", 1)[1] for part in signature.split(","))
    (key,) = [key for key in jwks["keys"] if key["kid"] == kid]
    public = Ed25519PublicKey.from_public_bytes(unb64(key["x"]))
    public.verify(unb64(mark), timestamp.encode() + b"." + body)
    return int(timestamp)


async def test_a_signature_is_over_the_time_and_the_raw_body(node: Any) -> None:
    jwks = await node.subscriptions.jwks()
    signature = node.subscriptions.keyring.sign(b'{"a":1}')
    verify(signature, b'{"a":1}', jwks)
    with pytest.raises(InvalidSignature):
        verify(signature, b'{"a":2}', jwks)


async def test_a_signature_tells_the_time_of_the_wall_clock_though_the_stores_is_ahead(
    node: Any, clock: Any
) -> None:
    clock.now = round(time.time() * 1000)
    clock.advance(3600)
    jwks = await node.subscriptions.jwks()
    before = int(time.time())
    signature = node.subscriptions.keyring.sign(b"{}")
    assert before <= verify(signature, b"{}", jwks) <= time.time()


async def test_a_key_is_named_by_its_thumbprint(node: Any) -> None:
    (key,) = (await node.subscriptions.jwks())["keys"]
    text = msgspec.json.encode({"crv": key["crv"], "kty": key["kty"], "x": key["x"]})
    assert unb64(key["kid"].removeprefix("ds_")) == sha256(text).digest()
    assert (key["kty"], key["crv"], key["use"], key["alg"]) == ("OKP", "Ed25519", "sig", "EdDSA")
    assert "d" not in key


async def test_keys_outlive_the_process_and_are_shared(memory: MemoryStore, nodes: Any) -> None:
    first, second = await nodes(memory), await nodes(memory)
    jwks = await first.subscriptions.jwks()
    assert await second.subscriptions.jwks() == jwks
    token = first.subscriptions.keyring.token("s", "i", 1)
    assert second.subscriptions.keyring.check(token, "s").gen == 1
    await first.engine.stop()
    assert await (await nodes(memory)).subscriptions.jwks() == jwks


async def test_rotation_keeps_old_keys_published_until_their_window_has_passed(
    remote: RemoteStore, nodes: Any, clock: Any
) -> None:
    first, second = await nodes(remote), await nodes(remote)
    old = (await second.subscriptions.jwks())["keys"][0]["kid"]
    signature = second.subscriptions.keyring.sign(b"{}")
    new = await first.subscriptions.rotate_keys()
    assert first.subscriptions.keyring.kid == new != old

    async def heard() -> Any:
        return [k["kid"] for k in (await second.subscriptions.jwks())["keys"]] == [new, old]

    second.subscriptions.keyring.forget()
    assert await heard()
    verify(signature, b"{}", await second.subscriptions.jwks())
    clock.advance(PUBLISHED_MS / 1000)
    assert [k["kid"] for k in (await second.subscriptions.jwks())["keys"]] == [new]


async def test_a_process_hears_of_a_rotation_by_another(remote: RemoteStore, nodes: Any) -> None:
    first, second = await nodes(remote), await nodes(remote)
    await second.subscriptions.jwks()
    new = await first.subscriptions.rotate_keys()

    async def signs_with_it() -> Any:
        await second.subscriptions.keyring.ready()
        return second.subscriptions.keyring.kid == new

    await second.until(signs_with_it)


async def test_keys_are_changed_by_age_where_asked_for(
    memory: MemoryStore, nodes: Any, clock: Any
) -> None:
    node = await nodes(memory, key_days=1)
    await node.subscriptions.jwks()
    before = node.subscriptions.keyring.kid
    clock.advance(2 * 86_400)
    keys = (await node.subscriptions.jwks())["keys"]
    assert [key["kid"] for key in keys] == [node.subscriptions.keyring.kid, before]
    assert node.subscriptions.keyring.kid != before


def test_a_token_says_what_it_was_made_for() -> None:
    assert tokens.check(SECRET, tokens.mint(SECRET, CLAIMS), "sub-1", 999) == CLAIMS


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "a.b",
        "é.b",
        "x" * 5000,
        tokens.mint(b"other", CLAIMS),
        tokens.mint(SECRET, CLAIMS)[:-1],
        tokens.mint(SECRET, CLAIMS) + "A",
        tokens.mint(SECRET, CLAIMS).split(".")[0],
        tokens.mint(SECRET, Claims("sub-2", "inc", 7, 1000)),
    ],
)
def test_any_other_token_is_invalid(token: Any) -> None:
    with pytest.raises(SubscriptionError) as raised:
        tokens.check(SECRET, token, "sub-1", 0)
    assert (raised.value.code, raised.value.status) == ("TOKEN_INVALID", 401)


def test_a_token_has_its_time() -> None:
    assert LIFE_SECONDS >= 3600
    with pytest.raises(SubscriptionError) as raised:
        tokens.check(SECRET, tokens.mint(SECRET, CLAIMS), "sub-1", 1000)
    assert (raised.value.code, raised.value.status) == ("TOKEN_EXPIRED", 401)
