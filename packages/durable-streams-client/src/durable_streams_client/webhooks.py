"""Verification that a webhook came from the server, by its raw body (§7.1, §12.10).

Needs the extra ``webhooks``. ``verify_webhook`` takes the keys as an argument;
``WebhookVerifier`` fetches and caches them.
"""

import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any, Final

from durable_streams_client.parsing import NotJson, parse_object
from durable_streams_core.errors import DurableStreamsError

REPLAY_WINDOW_SECONDS: Final = 300.0
SIGNATURE: Final = "webhook-signature"

_SIGNATURE: Final = re.compile(r"t=(\d{1,15}),kid=([^,\s]{1,200}),ed25519=([A-Za-z0-9_-]{86})")


class WebhookRejected(DurableStreamsError):
    """The webhook is not from the server. Answer it with 401 or 403, and do nothing else.

    >>> try:
    ...     verify_webhook(headers, b"forged", jwks)
    ... except WebhookRejected as error:
    ...     print(error)
    The signature does not fit the body.
    """


class UnknownKey(WebhookRejected):
    """The key set does not hold the signing key; a newer one may.

    >>> try:
    ...     verify_webhook(headers, body, {"keys": []})
    ... except UnknownKey:
    ...     print("fetch the key set again")
    fetch the key set again
    """


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def signature_of(headers: Mapping[Any, Any]) -> tuple[int, str, bytes]:
    """Time, key id and signature in a request's headers; raises ``WebhookRejected``.

    Names may be in any case, as frameworks give them.
    """
    values = [_text(value) for name, value in headers.items() if _text(name).lower() == SIGNATURE]
    match = _SIGNATURE.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        raise WebhookRejected("The request carries no Webhook-Signature of this protocol.")
    return int(match[1]), match[2], urlsafe_b64decode(match[3] + "==")


def verify_webhook(
    headers: Mapping[Any, Any],
    body: bytes,
    jwks: Mapping[str, Any],
    *,
    window: float = REPLAY_WINDOW_SECONDS,
    now: float | None = None,
) -> dict[str, Any]:
    """Return the content of a webhook, a JSON object, if the server has just signed it (§7.1).

    - ``headers``: those of the request, with names in any case.
    - ``body``: its raw body; parsed and encoded again, it would not fit the signature.
    - ``jwks``: the server's key set, as ``Subscription.jwks_url`` gives it.
    - ``window``: the seconds by which the signature's time may differ from ``now``.
    - ``now``: Unix time in seconds; by default the clock's.

    Raises ``WebhookRejected``; ``UnknownKey`` if the key set does not hold the signing key;
    ``DurableStreamsError`` if the package ``cryptography`` is missing.

    >>> verify_webhook(headers, body, jwks)
    {'subscription_id': 'jobs'}
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise DurableStreamsError(
            "Verifying webhooks needs another package: "
            "pip install 'durable-streams-client[webhooks]'"
        ) from error

    timestamp, kid, signature = signature_of(headers)
    if abs((time.time() if now is None else now) - timestamp) > window:
        raise WebhookRejected("The signature is too old, or a clock is wrong.")
    key = key_of(jwks, kid)
    try:
        public = Ed25519PublicKey.from_public_bytes(key)
        public.verify(signature, b"%d." % timestamp + body)
    except (InvalidSignature, ValueError):
        raise WebhookRejected("The signature does not fit the body.") from None
    try:
        return parse_object(body)
    except NotJson as error:
        raise WebhookRejected(f"The body is not a JSON object: {error}.") from None


def key_of(jwks: Mapping[str, Any], kid: str) -> bytes:
    """The public key of this id; raises ``UnknownKey``."""
    keys = jwks.get("keys")
    for key in keys if isinstance(keys, list) else ():
        if (
            isinstance(key, Mapping)
            and key.get("kid") == kid
            and key.get("kty") == "OKP"
            and key.get("crv") == "Ed25519"
            and isinstance(key.get("x"), str)
        ):
            try:
                return urlsafe_b64decode(key["x"] + "=" * (-len(key["x"]) % 4))
            except ValueError:
                break
    raise UnknownKey("The signing key is not one of the server's keys.")
