"""Bearer tokens with a name and rights, known by the SHA-256 digests of their secrets."""

import hmac
import re
from collections.abc import Iterable
from hashlib import sha256 as sha256_of
from typing import Final

from durable_streams_server.access.grants import Grant
from durable_streams_server.access.rights import Permissions, Rights

MIN_SECRET: Final = 16
"""Characters of a secret. Shorter ones can be guessed."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Token:
    """One bearer token.

    >>> token = Token("ingest", Rights(write=["logs/**"]), secret="use-a-random-one-here")
    >>> token.name
    'ingest'

    Args:
        name: who has it, for limits and logs, as ``token:NAME``.
        rights: what it permits.
        secret: the token itself, of at least 16 characters; or
        sha256: its SHA-256 digest in hexadecimal, so that the secret is written nowhere.

    Raises:
        ValueError: for a name or a secret that cannot be one.

    """

    __slots__ = ("digest", "grant", "name")

    def __init__(
        self,
        name: str,
        rights: Permissions,
        *,
        secret: str | None = None,
        sha256: str | None = None,
    ) -> None:
        if NAME.fullmatch(name) is None:
            raise ValueError(
                f"A token's name has 1 to 64 letters, digits and ._@- and begins with one of the "
                f"first two, got {name!r}."
            )
        if isinstance(rights, Rights) and rights.names:
            raise ValueError("The patterns of a token have no claims to put in: leave braces out.")
        self.name = name
        self.digest = _digest(name, secret, sha256)
        self.grant = Grant(f"token:{name}", rights)

    def __repr__(self) -> str:
        return f"Token({self.name!r})"


def _digest(name: str, secret: str | None, given: str | None) -> bytes:
    if (secret is None) == (given is None):
        raise ValueError(f"The token {name!r} needs secret or sha256, and not both.")
    if secret is not None:
        if len(secret) < MIN_SECRET or not secret.isascii() or secret.split() != [secret]:
            raise ValueError(
                f"The secret of the token {name!r} must have at least {MIN_SECRET} ASCII "
                "characters and no spaces; make one with "
                '`python -c "import secrets; print(secrets.token_urlsafe(32))"`.'
            )
        return sha256_of(secret.encode()).digest()
    assert given is not None
    if _DIGEST.fullmatch(given.lower()) is None:
        raise ValueError(
            f"sha256 of the token {name!r} must be 64 hexadecimal digits, as "
            "`printf %s SECRET | sha256sum` writes them."
        )
    return bytes.fromhex(given)


class Tokens:
    """Finds a token by the digest of its secret."""

    __slots__ = ("_by_digest",)

    def __init__(self, tokens: Iterable[Token]) -> None:
        """Raises ``ValueError`` for two tokens with one name or one secret."""
        self._by_digest: dict[bytes, Token] = {}
        names: set[str] = set()
        for token in tokens:
            if token.name in names:
                raise ValueError(f"Two tokens are named {token.name!r}: give each its own name.")
            if token.digest in self._by_digest:
                other = self._by_digest[token.digest].name
                raise ValueError(f"The tokens {other!r} and {token.name!r} have the same secret.")
            names.add(token.name)
            self._by_digest[token.digest] = token

    def find(self, digest: bytes) -> Grant | None:
        """The grant of the secret with this SHA-256 digest, None if no token has it.

        Secrets meet only as digests, whose bytes an attacker cannot choose.
        """
        token = self._by_digest.get(digest)
        if token is None or not hmac.compare_digest(token.digest, digest):
            return None
        return token.grant
