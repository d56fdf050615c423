"""Signed read URLs: a query parameter that permits reading one stream until a moment.

``sig=<expiry>.<signature>``: the expiry in seconds since 1970, and an HMAC-SHA256 over it and the
stream's path. A browser that cannot send headers (``EventSource``, an ``<img>``, a link) is given
such a URL by the application. It permits GET and HEAD, and nothing else.
"""

import hmac
import time
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final
from urllib.parse import unquote

from durable_streams_core.errors import ProtocolError
from durable_streams_core.paths import check_path

PARAMETER: Final = "sig"
MIN_KEY_BYTES: Final = 16
_MAX_DIGITS: Final = 12
_SIGNATURE_LENGTH: Final = 43


class ReadSigner:
    """Signs with the first of its keys, and accepts what any of them signed.

    To rotate, put the new key first and keep the old one until its last URL has expired.
    """

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        self._keys = [key.encode() if isinstance(key, str) else key for key in keys]
        if not self._keys:
            raise ValueError("Signed URLs need a key.")
        if any(len(key) < MIN_KEY_BYTES for key in self._keys):
            raise ValueError(
                f"A signing key has at least {MIN_KEY_BYTES} bytes; "
                'make one with `python -c "import secrets; print(secrets.token_urlsafe(32))"`.'
            )

    def sign(self, path: str, expires: datetime | timedelta | float) -> str:
        """The query parameter for a stream's path.

        ``expires`` is a moment with a time zone, or a time from now (a number means seconds).
        Raises :class:`InvalidRequest` for a path that no stream can have, and ``ValueError`` for
        a moment in the past.
        """
        path = check_path(path)
        now = time.time()
        if isinstance(expires, datetime):
            if expires.tzinfo is None:
                raise ValueError("expires needs a time zone, for example datetime.now(UTC) + …")
            until = expires.astimezone(UTC).timestamp()
        elif isinstance(expires, timedelta):
            until = now + expires.total_seconds()
        else:
            until = now + expires
        if not now < until < 10**_MAX_DIGITS:
            raise ValueError("expires is in the past, or too far in the future.")
        expiry = str(int(until) + 1)
        return f"{PARAMETER}={expiry}.{_signature(self._keys[0], expiry, path)}"

    def check(self, path: str, value: str) -> None:
        """Raise :class:`ProtocolError` (403) unless ``value`` permits reading ``path`` now."""
        expiry, _, signature = value.partition(".")
        if (
            not (expiry.isascii() and expiry.isdigit() and len(expiry) <= _MAX_DIGITS)
            or len(signature) != _SIGNATURE_LENGTH
            or not signature.isascii()
            or not any(
                hmac.compare_digest(_signature(key, expiry, path), signature) for key in self._keys
            )
        ):
            raise ProtocolError(
                "The signature is not valid for this stream.",
                status=403,
                code="signature-invalid",
            )
        if time.time() >= int(expiry):
            raise ProtocolError(
                "The signed URL has expired; ask the application for a new one.",
                status=403,
                code="signature-expired",
            )


def signature_in(query: str) -> str | None:
    """The value of the parameter in a raw query, None without one."""
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if unquote(name) == PARAMETER:
            return unquote(value)
    return None


def refuse_write() -> ProtocolError:
    """The error for a signed URL on anything but a read."""
    return ProtocolError(
        "A signed URL permits reading only.", status=403, code="signature-read-only"
    )


def _signature(key: bytes, expiry: str, path: str) -> str:
    digest = hmac.digest(key, f"durable-streams read\n{expiry}\n{path}".encode(), sha256)
    return urlsafe_b64encode(digest).rstrip(b"=").decode()
