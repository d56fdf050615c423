"""JSON Web Tokens (RFC 7519): verified, and their claims put into patterns.

Needs PyJWT, the extra ``jwt``. A token counts only with a signature by a known key and an allowed
algorithm, for this audience, from this issuer, and with an expiry that has not come. A verified
token is kept until it expires or a key is withdrawn.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from importlib import import_module
from typing import Any, Final

import msgspec

from durable_streams_server.access.grants import Grant
from durable_streams_server.access.jwks import FetchedKeys, Key, Keys, OneKey
from durable_streams_server.access.refusals import expired_token, invalid_token, no_keys
from durable_streams_server.access.rights import Rights
from durable_streams_server.caches import ByteCache

log = logging.getLogger("durable_streams_server.access")

SECRET_ALGORITHMS: Final = frozenset(("HS256", "HS384", "HS512"))
KEY_ALGORITHMS: Final = frozenset(
    (
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    )
)  # fmt: skip
MIN_SECRET_BYTES: Final = 32
MAX_LEEWAY: Final = 300.0
MAX_VERIFIED_BYTES: Final = 32 * 1024 * 1024
"""Bytes of the tokens that are remembered as verified: about 20,000 tokens of different people."""
MAX_SUBJECT: Final = 256


class _Verified(msgspec.Struct, frozen=True, gc=False):
    grant: Grant
    until: float
    """Seconds since 1970."""
    version: int
    """Of the keys."""


class JwtVerifier:
    """Verifies JSON Web Tokens and grants what their claims name.

    >>> verifier = JwtVerifier(
    ...     Rights(all=["chats/{sub}/**"], names=True),
    ...     jwks="https://login.example/.well-known/jwks.json",
    ...     algorithms=["RS256"],
    ...     issuer="https://login.example/",
    ...     audience="streams",
    ... )

    Args:
        rights: what a token permits; ``{sub}`` in a pattern is the token's claim ``sub``, and so
            on. A claim that is not text of one path segment makes its pattern permit nothing.
        algorithms: those that are allowed. They are of one kind: a shared secret's (``HS256``) or
            those of public keys.
        issuer: the ``iss`` that a token must have.
        audience: the ``aud`` that it must have or hold.
        key: a public key or a certificate (PEM); or
        secret: a shared secret of at least 32 bytes; or
        jwks: the address of a JWK set. It is https, except on this machine.
        leeway: seconds by which the clocks may differ.
        principal: the claim that names the principal, as ``jwt:VALUE``.
        clock: returns seconds since 1970.
        key_clock: returns seconds that only ever grow, for the age of fetched keys.

    Raises:
        ImportError: if PyJWT is not installed.
        ValueError: for arguments that contradict each other or are not safe.

    """

    def __init__(
        self,
        rights: Rights,
        *,
        algorithms: Sequence[str],
        issuer: str,
        audience: str,
        key: str | None = None,
        secret: str | None = None,
        jwks: str | None = None,
        leeway: float = 30.0,
        principal: str = "sub",
        clock: Callable[[], float] = time.time,
        key_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jwt = _import_jwt()
        self._rights = rights
        self._algorithms = _check_algorithms(algorithms)
        if not issuer or not audience:
            raise ValueError(
                "issuer and audience are needed: without them a token that was made for another "
                "service would be valid here."
            )
        if not 0 <= leeway <= MAX_LEEWAY:
            raise ValueError(f"leeway must be from 0 to {MAX_LEEWAY:.0f} seconds, got {leeway!r}.")
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        self._claim = principal
        self._clock = clock
        self._key_clock = key_clock
        self.keys = self._keys_of(key, secret, jwks)
        self._verified: ByteCache[bytes, _Verified] = ByteCache(MAX_VERIFIED_BYTES)

    def _keys_of(self, key: str | None, secret: str | None, jwks: str | None) -> Keys:
        if sum(given is not None for given in (key, secret, jwks)) != 1:
            raise ValueError("Give one of key, secret and jwks: how tokens are verified.")
        shared = self._algorithms <= SECRET_ALGORITHMS
        if shared != (secret is not None):
            raise ValueError(
                f"{'secret' if secret is not None else 'key' if key is not None else 'jwks'} does "
                f"not go with the algorithms {', '.join(sorted(self._algorithms))}: those that "
                "begin with HS take a shared secret, all others a public key."
            )
        if jwks is not None:
            return FetchedKeys(jwks, self._algorithms, self._load_jwk, clock=self._key_clock)
        if secret is not None:
            if len(secret.encode()) < MIN_SECRET_BYTES:
                raise ValueError(f"The secret of JWT needs at least {MIN_SECRET_BYTES} bytes.")
            return OneKey(Key(secret.encode(), self._algorithms))
        assert key is not None
        return OneKey(Key(self._load_pem(key), self._algorithms))

    def _load_jwk(self, jwk: Any) -> Any:
        # Without `alg` PyJWT guesses one of the type, which the key object does not depend on.
        return self._jwt.PyJWK.from_dict(jwk).key

    def _load_pem(self, pem: str) -> Any:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            if "BEGIN CERTIFICATE" in pem:
                return self._fit(x509.load_pem_x509_certificate(pem.encode()).public_key())
            return self._fit(load_pem_public_key(pem.encode()))
        except ValueError as error:
            raise ValueError(f"key is not a public key or certificate in PEM: {error}") from error

    def _fit(self, key: Any) -> Any:
        """The key, if every algorithm can use it."""
        for name in self._algorithms:
            try:
                self._jwt.get_algorithm_by_name(name).prepare_key(key)
            except (self._jwt.PyJWTError, TypeError) as error:
                raise ValueError(f"it is not a key for {name}") from error
        return key

    def keep_keys_of(self, other: "JwtVerifier") -> None:
        """Go on with the keys that another verifier has fetched from the same address."""
        known, mine = other.keys, self.keys
        if isinstance(known, FetchedKeys) and isinstance(mine, FetchedKeys) and mine.is_as(known):
            self.keys = known

    def find(self, token: bytes, digest: bytes | None = None) -> "Grant | Awaitable[Grant]":
        """The grant of a token; to be awaited where a key has to be fetched first.

        ``digest`` is its SHA-256 digest, where the caller has it already. Verified tokens are
        remembered by it alone.

        Raises :class:`ProtocolError`: 401 for a token that is not valid or has expired, 503 before
        any key was fetched.
        """
        fetch = self.keys.freshen()
        if fetch is not None:
            return self._find_fresh(fetch, token, digest)
        if digest is None:
            digest = sha256(token).digest()
        known = self._verified.get(digest)
        if known is not None and known.version == self.keys.version:
            if self._clock() < known.until:
                return known.grant
            raise expired_token()
        kid, algorithm = self._header(token)
        key = self.keys.find(kid, algorithm)
        if key is None:
            fetch = self.keys.missing()
            if fetch is not None:
                return self._find_later(fetch, token, digest, kid, algorithm)
            raise invalid_token() if self.keys.known else no_keys()
        return self._verify(token, digest, key, algorithm)

    async def _find_fresh(
        self, fetch: "asyncio.Future[bool]", token: bytes, digest: bytes | None
    ) -> Grant:
        # If that fails, the keys that were fetched before stay in use.
        await asyncio.shield(fetch)
        found = self.find(token, digest)
        return found if isinstance(found, Grant) else await found

    async def _find_later(
        self,
        fetch: "asyncio.Future[bool]",
        token: bytes,
        digest: bytes,
        kid: str | None,
        algorithm: str,
    ) -> Grant:
        # Others wait for the same fetch.
        await asyncio.shield(fetch)
        key = self.keys.find(kid, algorithm)
        if key is None:
            raise invalid_token() if self.keys.known else no_keys()
        return self._verify(token, digest, key, algorithm)

    def _header(self, token: bytes) -> tuple[str | None, str]:
        """Key id and algorithm that a token names; what is not allowed goes no further."""
        try:
            header = self._jwt.get_unverified_header(token)
        except Exception as error:
            raise self._refused(error) from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms or "crit" in header:
            raise self._refused("its algorithm is not allowed, or its header is critical")
        return kid, algorithm

    def _verify(self, token: bytes, digest: bytes, key: Key, algorithm: str) -> Grant:
        version = self.keys.version
        now = self._clock()
        try:
            claims: dict[str, Any] = self._jwt.decode(
                token,
                key.value,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                options={
                    "require": ["exp", "iss", "aud"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
            until = _seconds(claims["exp"]) + self._leeway
            begins = _seconds(claims.get("nbf", 0)) - self._leeway
        except Exception as error:
            # A hostile token may fail in ways that PyJWT does not name.
            raise self._refused(error) from None
        if now >= until:
            raise expired_token()
        if now < begins:
            raise self._refused("it is not valid yet")
        subject = claims.get(self._claim)
        if not isinstance(subject, str) or not is_principal(subject):
            raise self._refused(f"its claim {self._claim} does not name anybody")
        grant = Grant(f"jwt:{subject}", self._rights.bind(claims))
        self._verified.add(digest, _Verified(grant, until, version), grant.size)
        return grant

    def _refused(self, reason: object) -> Exception:
        log.debug("a JWT is refused: %s", reason)
        return invalid_token()


def is_principal(subject: str) -> bool:
    """Whether a claim may name a principal: short text that a log line can hold."""
    return 0 < len(subject) <= MAX_SUBJECT and subject.isprintable()


def _seconds(value: object) -> float:
    """A NumericDate (RFC 7519 §2); raises ``ValueError``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise ValueError("a time is not a number")
    return float(value)


def _check_algorithms(algorithms: Sequence[str]) -> frozenset[str]:
    if isinstance(algorithms, str):
        raise TypeError(f"algorithms is a list, got {algorithms!r}.")
    allowed = frozenset(algorithms)
    unknown = allowed - SECRET_ALGORITHMS - KEY_ALGORITHMS
    if unknown or not allowed:
        raise ValueError(
            f"algorithms must list some of {', '.join(sorted(SECRET_ALGORITHMS | KEY_ALGORITHMS))}, "
            f"got {sorted(allowed)}."
        )
    if allowed & SECRET_ALGORITHMS and allowed & KEY_ALGORITHMS:
        raise ValueError(
            "algorithms must be of one kind: a public key that is taken for a shared secret would "
            "let everybody who knows it make tokens."
        )
    return allowed


def _import_jwt() -> Any:
    try:
        return import_module("jwt")
    except ImportError as error:
        raise ImportError(
            "JWT needs PyJWT: install durable-streams-server[jwt].", name="jwt"
        ) from error
