"""The secrets that sign: kept in the store under ``__ds/keys``, shared by all who share the store.

One secret for the tokens of workers (§12.9), and Ed25519 seeds for webhooks (§6.5, §12.10): the
newest signs, older ones stay published until nothing signed with them can be accepted any more.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from durable_streams_core.drafts import Draft
from durable_streams_core.entities import Head
from durable_streams_core.protocol import RESERVED_SEGMENT

__all__ = ["KEYS_PATH", "EnsureKeys", "Keys", "published"]

KEYS_PATH: Final = RESERVED_SEGMENT + "/keys"
KEYS: Final = "k"

_REPLAY_WINDOW_MS: Final = 300_000
"""How old a signature receivers should accept (§7.1)."""
PUBLISHED_MS: Final = 2 * _REPLAY_WINDOW_MS
"""How long a retired key stays published: the replay window, and the same time again for caches and
for processes that learn of the rotation late.
"""


class SigningKey(msgspec.Struct, frozen=True, array_like=True):
    """``seed`` are the 32 private bytes, times are milliseconds; ``retired`` 0: not yet."""

    seed: bytes
    created: int
    retired: int = 0


class Keys(msgspec.Struct, frozen=True, array_like=True):
    """``signing`` in order of creation; the last one signs."""

    token_secret: bytes
    signing: tuple[SigningKey, ...]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Keys)


def decode_keys(data: bytes | None) -> Keys | None:
    return None if data is None else _decoder.decode(data)


class EnsureKeys(msgspec.Struct, frozen=True, gc=False):
    """The keys that are stored, made of the fresh ones if there are none. ``rotate`` signs with the
    fresh seed from now on and forgets retired keys whose time is over.
    """

    incarnation: str
    secret: bytes
    seed: bytes
    rotate_before: int = 0

    @property
    def fields(self) -> Sequence[str]:
        return (KEYS,)

    def decide(self, draft: Draft, now: int) -> Keys:
        fresh = SigningKey(self.seed, now)
        if draft.head is None:
            keys = Keys(self.secret, (fresh,))
            draft.create(Head(self.incarnation, b""))
        else:
            stored = decode_keys(draft.field(KEYS))
            assert stored is not None
            if stored.signing[-1].created >= self.rotate_before:
                return stored
            kept = tuple(
                SigningKey(key.seed, key.created, key.retired or now)
                for key in stored.signing
                if not key.retired or now - key.retired < PUBLISHED_MS
            )
            keys = Keys(stored.token_secret, (*kept, fresh))
            # Watchers in other processes are notified of bytes, not of fields.
            draft.append(b".")
        draft.set_field(KEYS, _encoder.encode(keys))
        return keys


def published(keys: Keys, now: int) -> list[SigningKey]:
    """The keys that receivers may still need, the signing one first."""
    return [
        key for key in reversed(keys.signing) if not key.retired or now - key.retired < PUBLISHED_MS
    ]
