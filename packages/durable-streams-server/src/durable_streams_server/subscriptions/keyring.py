"""The keys that sign webhooks and tokens, as the store keeps them (§6.5, §12.9, §12.10)."""

import logging
import secrets
import time
from hashlib import sha256
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from durable_streams_core.store import Store
from durable_streams_core.subscriptions.keys import KEYS_PATH, EnsureKeys, Keys, published
from durable_streams_server.perform import Perform
from durable_streams_server.subscriptions import tokens
from durable_streams_server.subscriptions.tokens import Claims, b64, unb64

log = logging.getLogger("durable_streams_server.subscriptions")

DAY_MILLISECONDS: Final = 86_400_000
RELOAD_MILLISECONDS: Final = 60_000
"""How long keys are used without reading them again, in case a rotation went unnoticed."""


_NONCE: Final = 12
_SEALED_STEP: Final = 64


class Keyring:
    """Call :meth:`ready` before anything else; it makes and rotates keys as needed."""

    def __init__(self, store: Store, perform: Perform, days: float | None) -> None:
        self._store = store
        self._perform = perform
        self._max_age = None if days is None else int(days * DAY_MILLISECONDS)
        self._keys: Keys | None = None
        self._loaded = 0
        self._private: dict[bytes, tuple[Ed25519PrivateKey, dict[str, str]]] = {}

    async def ready(self) -> None:
        now = self._store.now()
        if self._keys is None or now - self._loaded > RELOAD_MILLISECONDS:
            await self._ensure(0 if self._max_age is None else now - self._max_age)

    async def rotate(self) -> str:
        """Sign with a new key from now on; returns its id."""
        await self._ensure(self._store.now() + 1)
        return self.kid

    def forget(self) -> None:
        """The stored keys have changed."""
        self._keys = None

    async def _ensure(self, rotate_before: int) -> None:
        fresh = EnsureKeys(
            secrets.token_hex(8), secrets.token_bytes(32), secrets.token_bytes(32), rotate_before
        )
        self._keys = await self._perform(KEYS_PATH, fresh)
        self._loaded = self._store.now()
        self._private.clear()

    @property
    def kid(self) -> str:
        """The id of the key that signs."""
        return self._pair(self._known.signing[-1].seed)[1]["kid"]

    @property
    def _known(self) -> Keys:
        assert self._keys is not None, "call ready() first"
        return self._keys

    def sign(self, body: bytes) -> str:
        """The ``Webhook-Signature`` of a body sent now (§7.1)."""
        private, public = self._pair(self._known.signing[-1].seed)
        # Receivers compare it with their own clocks. The store's may be ahead: it never goes back.
        timestamp = int(time.time())
        signature = private.sign(b"%d." % timestamp + body)
        return f"t={timestamp},kid={public['kid']},ed25519={b64(signature)}"

    def jwks(self) -> dict[str, Any]:
        """The public keys that receivers may need (§6.5)."""
        keys = published(self._known, self._store.now())
        return {"keys": [self._pair(key.seed)[1] for key in keys]}

    def _pair(self, seed: bytes) -> tuple[Ed25519PrivateKey, dict[str, str]]:
        known = self._private.get(seed)
        if known is None:
            private = Ed25519PrivateKey.from_private_bytes(seed)
            x = b64(private.public_key().public_bytes_raw())
            # The thumbprint of RFC 7638: the required members in order, without spaces.
            thumbprint = sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode()).digest()
            public = {
                "kty": "OKP",
                "crv": "Ed25519",
                "kid": "ds_" + b64(thumbprint),
                "use": "sig",
                "alg": "EdDSA",
                "x": x,
            }
            known = self._private[seed] = private, public
        return known

    def token(self, subscription: str, incarnation: str, generation: int) -> str:
        """A token for one wake."""
        expiry = self._store.now() // 1000 + tokens.LIFE_SECONDS
        claims = Claims(subscription, incarnation, generation, expiry)
        return tokens.mint(self._known.token_secret, claims)

    def seal(self, text: str) -> str:
        """Text that only servers on this store can read again, in letters that a URL may hold."""
        nonce = secrets.token_bytes(_NONCE)
        data = text.encode()
        # Its length says no more than a multiple.
        data += bytes(-len(data) % _SEALED_STEP)
        return b64(nonce + self._cipher().encrypt(nonce, data, None))

    def open(self, sealed: str) -> str | None:
        """The text that was sealed; None for anything else."""
        try:
            data = unb64(sealed)
            return self._cipher().decrypt(data[:_NONCE], data[_NONCE:], None).rstrip(b"\0").decode()
        except (ValueError, InvalidTag):
            return None

    def _cipher(self) -> AESGCM:
        return AESGCM(sha256(b"sealed" + self._known.token_secret).digest())

    def check(self, token: str, subscription: str) -> Claims:
        """The claims of a token; raises :class:`SubscriptionError`."""
        return tokens.check(
            self._known.token_secret, token, subscription, self._store.now() // 1000
        )
