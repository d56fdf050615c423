"""Callback and claim tokens (§7, §12.9): HMAC-signed, for one wake generation of one subscription.

``<payload>.<signature>``, both base64url without padding; the payload is JSON with ``sub``, the
incarnation ``inc``, the generation ``gen`` and the expiry ``exp`` in seconds.
"""

import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Final

import msgspec

from durable_streams_core.errors import SubscriptionError

LIFE_SECONDS: Final = 24 * 3600
"""Longer than any wake takes: in practice a token ends with its lease."""
MAX_TOKEN: Final = 4096


class Claims(msgspec.Struct, frozen=True):
    sub: str
    inc: str
    gen: int
    exp: int


def new_wake_id() -> str:
    """A random id for one wake."""
    return "w_" + secrets.token_hex(12)


def b64(data: bytes) -> str:
    """base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """The reverse; raises ValueError."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def mint(secret: bytes, claims: Claims) -> str:
    payload = b64(msgspec.json.encode(claims))
    return f"{payload}.{_signature(secret, payload)}"


def check(secret: bytes, token: str, subscription: str, now: int) -> Claims:
    """The claims of a token for this subscription; raises :class:`SubscriptionError`.

    ``now`` in seconds.
    """
    payload, dot, signature = token.partition(".")
    if (
        not dot
        or len(token) > MAX_TOKEN
        or not token.isascii()
        or not hmac.compare_digest(_signature(secret, payload), signature)
    ):
        raise token_invalid()
    claims = msgspec.json.decode(unb64(payload), type=Claims)
    if claims.sub != subscription:
        raise token_invalid()
    if now >= claims.exp:
        raise SubscriptionError("TOKEN_EXPIRED", "The token has expired; wait for the next wake.")
    return claims


def _signature(secret: bytes, payload: str) -> str:
    return b64(hmac.digest(secret, payload.encode(), sha256))


def token_invalid() -> SubscriptionError:
    return SubscriptionError(
        "TOKEN_INVALID", "Send the token of this wake as Authorization: Bearer <token>."
    )
