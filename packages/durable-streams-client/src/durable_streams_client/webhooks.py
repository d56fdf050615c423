"""Verifying that a webhook came from the server (§7.1, §12.10), by its raw, unparsed body.

Needs the extra ``webhooks``. :func:`verify_webhook` works on keys that are at hand;
:class:`~durable_streams_client.WebhookVerifier` fetches and keeps them.
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
    """The request is not to be believed: answer it 401 or 403, and do nothing else."""


class UnknownKey(WebhookRejected):
    """The signing key is not among those at hand; newer ones may hold it."""


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def signature_of(headers: Mapping[Any, Any]) -> tuple[int, str, bytes]:
    """Time, key id and signature in a request's headers; raises :class:`WebhookRejected`.

    Names may be in any case, as frameworks give them.
    """
    found = [_text(value) for name, value in headers.items() if _text(name).lower() == SIGNATURE]
    match = _SIGNATURE.fullmatch(found[0]) if len(found) == 1 else None
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
    """The webhook's content, if one of the server's keys has signed it a short while ago.

    ``jwks`` is the key set of the server, ``window`` the seconds by which the signature's time may
    differ from ``now`` (default: the clock). Raises :class:`WebhookRejected`, or
    :class:`UnknownKey` if the key set does not hold the key.
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
    """The public key of this id; raises :class:`UnknownKey`."""
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
    raise UnknownKey("The signing key is none of the server's.")
