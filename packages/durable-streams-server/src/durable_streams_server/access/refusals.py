"""Refusals of access, as responses.

They tell a client what to do next and an attacker nothing: whether a signature, an issuer or an
audience was wrong is said in the log alone.
"""

from durable_streams_core.errors import ProtocolError, Unavailable


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


def forbidden() -> ProtocolError:
    """403: the principal has no right to this."""
    return ProtocolError("You may not do this here.", status=403, code="forbidden")


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
