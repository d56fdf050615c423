"""Refusals of access, as responses.

They tell a client what to do next and an attacker nothing: whether a signature, an issuer or an
audience was wrong is said in the log alone.
"""

from typing import Final

from durable_streams_core.errors import ProtocolError, Unavailable

_FORBIDDEN: Final = "You may not do this here."


def no_credentials() -> ProtocolError:
    """401: this needs credentials, and there were none."""
    return ProtocolError(
        "Say who you are: send credentials in the Authorization header.",
        status=401,
        code="not-authenticated",
        headers={"WWW-Authenticate": "Bearer"},
    )


def invalid_token() -> ProtocolError:
    """401: the credentials are none of this server's."""
    return _token_error("The token is not valid here.", "token-invalid")


def expired_token() -> ProtocolError:
    """401: the token was valid once."""
    return _token_error("The token has expired; get a new one.", "token-expired")


class Forbidden(ProtocolError):
    """403: the principal, which is known, has no right to this. ``principal`` is its name."""

    def __init__(self, principal: str) -> None:
        super().__init__(_FORBIDDEN, status=403, code="forbidden")
        self.principal = principal


def forbidden() -> ProtocolError:
    """403: somebody without a name has no right to this."""
    return ProtocolError(_FORBIDDEN, status=403, code="forbidden")


def no_keys() -> Unavailable:
    """503: the keys that tokens are verified by were never fetched."""
    return Unavailable(
        "The keys by which tokens are verified cannot be fetched now; try again.",
        code="keys-unavailable",
        retry_after=5,
    )


def _token_error(message: str, code: str) -> ProtocolError:
    challenge = f'Bearer error="invalid_token", error_description="{message}"'
    return ProtocolError(message, status=401, code=code, headers={"WWW-Authenticate": challenge})
