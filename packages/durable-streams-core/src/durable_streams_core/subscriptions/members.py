"""Which process drives which subscriptions, where several share a store.

Each process keeps a member entity alive as a lease: its deadline is when the process counts as
dead. Subscriptions hash to shards, and a shard belongs to the living member with the highest hash
for it, so that a member that comes or goes moves only its own share. For a moment two processes may
see different members; every step is guarded, so a shard driven twice only costs work.
"""

from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import Final
from zlib import crc32

import msgspec

from durable_streams_core.drafts import Draft
from durable_streams_core.entities import Head
from durable_streams_core.protocol import RESERVED_SEGMENT

__all__ = ["MEMBERS", "SHARDS", "Join", "Leave", "owner_of", "shard_of"]

MEMBERS: Final = RESERVED_SEGMENT + "/members/"
SHARDS: Final = 64


def shard_of(subscription: str) -> int:
    """The shard, below :data:`SHARDS`, that a subscription belongs to."""
    return crc32(subscription.encode()) % SHARDS


def owner_of(shard: int, members: Collection[str]) -> str:
    """The member that a shard belongs to, of those alive."""
    return max(members, key=lambda member: (_weight(shard, member), member))


def _weight(shard: int, member: str) -> bytes:
    return blake2b(f"{shard}:{member}".encode(), digest_size=8).digest()


class Join(msgspec.Struct, frozen=True, gc=False):
    """Be, or stay, a member until ``until`` (milliseconds)."""

    incarnation: str
    until: int

    @property
    def fields(self) -> Sequence[str]:
        return ()

    def decide(self, draft: Draft, now: int) -> None:
        if draft.head is None:
            draft.create(Head(self.incarnation, b"", deadline=self.until))
        else:
            draft.set_deadline(self.until)


class Leave(msgspec.Struct, frozen=True, gc=False):
    """Be no member any more; ``dead``: only if its lease is over."""

    dead: bool = False

    @property
    def fields(self) -> Sequence[str]:
        return ()

    def decide(self, draft: Draft, now: int) -> None:
        if draft.head is not None and (not self.dead or draft.deadline(guarded=True) <= now):
            draft.remove()
