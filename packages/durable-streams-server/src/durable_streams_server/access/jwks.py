"""Keys that verify JWT: one that is configured, or a set that is fetched from an address (JWKS).

A set is fetched when it is first needed, when it is old, and when a token names a key that is not
in it, but never more often than every :data:`REFRESH_SECONDS`. Requests with a known key never wait
for that. While the address does not answer, the keys that were fetched last go on.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import aiohttp
import msgspec

log = logging.getLogger("durable_streams_server.access")

REFRESH_SECONDS: Final = 30.0
"""The least time between two fetches."""
MAX_AGE_SECONDS: Final = 300.0
"""Keys older than this are fetched again at their next use; a key that was withdrawn is forgotten
then."""
IDLE_SECONDS: Final = 600.0
"""Where nobody has tried to fetch keys for so long, requests wait for a fetch: a key may have been
withdrawn long ago."""
FETCH_SECONDS: Final = 5.0
MAX_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 100
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192

_CURVES: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_RSA: Final = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))


class Key(msgspec.Struct, frozen=True):
    """A public key, or a shared secret, and the algorithms that it may verify."""

    value: Any
    algorithms: frozenset[str]


class Keys(Protocol):
    """Where keys come from."""

    version: int
    """Grows whenever a key is no longer there: what it verified has to be verified again."""

    def freshen(self) -> "asyncio.Future[bool] | None":
        """Begin to fetch the keys again if they are old; the fetch, where it is to be waited for
        because the keys were not used for long.
        """

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key for a token; None where there is none now."""

    def missing(self) -> "asyncio.Future[bool] | None":
        """A fetch that may bring what :meth:`find` did not find, None where there is none to wait
        for. Its result is whether keys were fetched.
        """

    @property
    def known(self) -> bool:
        """Whether there are any keys."""


class OneKey:
    """A key that is configured."""

    version = 0
    known = True

    def __init__(self, key: Key) -> None:
        self._key = key

    def freshen(self) -> None:
        """A configured key does not change."""

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        return self._key if algorithm in self._key.algorithms else None

    def missing(self) -> None:
        """There is nothing to fetch."""


class FetchedKeys:
    """The keys of a JWKS address.

    ``load`` turns one JWK into a key object; ``clock`` returns seconds that only ever grow.
    """

    def __init__(
        self,
        url: str,
        algorithms: Iterable[str],
        load: Callable[[Mapping[str, Any]], Any],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ``ValueError`` for an address that is neither https nor loopback."""
        check_url(url)
        self.url = url
        self.algorithms = frozenset(algorithms)
        self._load = load
        self._clock = clock
        self._keys: list[tuple[str | None, Key]] = []
        self._identity: object = None
        self._tried_at = self._fetched_at = float("-inf")
        self._fetching: asyncio.Task[bool] | None = None
        self._awaited: asyncio.Task[bool] | None = None
        """The fetch that requests with a known key wait for too."""
        self.version = 0

    def is_as(self, other: "FetchedKeys") -> bool:
        """Whether both are fetched from one address for the same algorithms."""
        return self.url == other.url and self.algorithms == other.algorithms

    @property
    def known(self) -> bool:
        return bool(self._keys)

    def freshen(self) -> "asyncio.Future[bool] | None":
        now = self._clock()
        if self._keys and now - self._fetched_at > MAX_AGE_SECONDS:
            idle = now - self._tried_at > IDLE_SECONDS
            task = self._fetch()
            if idle or self._awaited is not task:
                # A task of an event loop that has ended would never end.
                self._awaited = task if idle else None
        return self._awaited

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key with this id; without an id, the only one that fits the algorithm."""
        fit = [
            key
            for known, key in self._keys
            if algorithm in key.algorithms and (kid is None or known == kid)
        ]
        return fit[0] if len(fit) == 1 else None

    def missing(self) -> "asyncio.Future[bool] | None":
        return self._fetch()

    def _fetch(self) -> "asyncio.Task[bool] | None":
        """The fetch that is under way, or a new one unless the last is too recent."""
        task = self._fetching
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            return task
        now = self._clock()
        if now - self._tried_at < REFRESH_SECONDS:
            return None
        self._tried_at = now
        task = self._fetching = asyncio.create_task(self._refresh())
        task.add_done_callback(self._fetched)
        return task

    def _fetched(self, task: "asyncio.Task[bool]") -> None:
        if self._fetching is task:
            self._fetching = None
        if self._awaited is task:
            self._awaited = None

    async def _refresh(self) -> bool:
        try:
            document = await _get(self.url)
            keys = self._read(document)
        except Exception as error:
            # Whatever a hostile answer does, the keys that are known go on.
            log.warning(
                "the keys at %s cannot be fetched (%s); %s",
                shown(self.url),
                str(error) or type(error).__name__,
                "those fetched before go on" if self._keys else "no token can be verified",
            )
            return False
        self._fetched_at = self._clock()
        if document != self._identity:
            self._identity = document
            self._keys = keys
            self.version += 1
        return True

    def _read(self, document: bytes) -> list[tuple[str | None, Key]]:
        try:
            listed = msgspec.json.decode(document)["keys"]
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError, KeyError):
            raise ValueError("the answer is not a JWKS") from None
        if not isinstance(listed, list) or len(listed) > MAX_KEYS:
            raise ValueError(f"the answer does not list at most {MAX_KEYS} keys")
        keys: list[tuple[str | None, Key]] = []
        for jwk in listed:
            kid = jwk.get("kid") if isinstance(jwk, dict) else None
            algorithms = algorithms_of(jwk) & self.algorithms
            if not algorithms or not (kid is None or isinstance(kid, str)):
                continue
            try:
                value = self._load(jwk)
            except Exception as error:
                log.warning("a key at %s cannot be read: %s", shown(self.url), error)
                continue
            bits = getattr(value, "key_size", MIN_RSA_BITS)
            if jwk["kty"] != "RSA" or MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
                keys.append((kid, Key(value, algorithms)))
        if not keys:
            raise ValueError("the answer holds no key for the algorithms that are allowed")
        return keys


def algorithms_of(jwk: object) -> frozenset[str]:
    """The algorithms that a JWK may verify: those of its type, and of these the one it names.

    None for a shared secret or a private key: whoever can read the address could sign. And none for
    a key that is published for another purpose (RFC 7517 §4.2, §4.3).
    """
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or "d" in jwk:
        return frozenset()
    purposes = jwk.get("key_ops", ["verify"])
    if not isinstance(purposes, list) or "verify" not in purposes:
        return frozenset()
    match jwk.get("kty"):
        case "RSA":
            fit = _RSA
        case "EC":
            curve = jwk.get("crv")
            fit = frozenset({_CURVES[curve]} if isinstance(curve, str) and curve in _CURVES else ())
        case "OKP":
            fit = frozenset({"EdDSA"} if jwk.get("crv") == "Ed25519" else ())
        case _:
            fit = frozenset()
    named = jwk.get("alg")
    return fit if named is None else fit & {named} if isinstance(named, str) else frozenset()


def check_url(url: str) -> None:
    """Raise ``ValueError`` for an address from which no keys may be fetched."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" and host:
        return
    loopback = host == "localhost"
    if not loopback:
        try:
            loopback = ip_address(host).is_loopback
        except ValueError:
            loopback = False
    if parts.scheme != "http" or not loopback:
        raise ValueError(
            f"jwks must be an https URL, or an http URL of this machine, got {shown(url)!r}: "
            "whoever "
            "could change the keys on their way could make any token."
        )


async def _get(url: str) -> bytes:
    """The body at an address; raises for a redirect, an error and a body that is too large."""
    async with (
        asyncio.timeout(FETCH_SECONDS),
        aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
        ) as session,
        session.get(
            url,
            allow_redirects=False,
            headers={"accept": "application/json", "accept-encoding": "identity"},
        ) as response,
    ):
        if response.status != 200:
            raise ValueError(f"the answer has the status {response.status}")
        received = b""
        while chunk := await response.content.read(MAX_BYTES + 1 - len(received)):
            received += chunk
            if len(received) > MAX_BYTES:
                response.close()
                raise ValueError(f"the answer is larger than {MAX_BYTES} bytes")
        return received


def shown(url: str) -> str:
    """A URL for the log: without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
