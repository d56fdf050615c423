"""Where things are in Redis: shards, keys, marks and numbers.

A path belongs to one of a fixed number of shards. All keys of a shard carry the same hash tag, so
that a script which touches several of them works in Cluster. The tags are chosen so that shards lie
evenly over the slots, however the slots are spread over nodes.
"""

from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Final
from zlib import crc32

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from durable_streams_core.errors import StoreError

SCHEMA_VERSION: Final = 2
DEFAULT_SHARDS: Final = 16
MAX_SHARDS: Final = 1024

CHUNK: Final = 64 * 1024
"""Bytes are stored in entries of at most this size: to read a slice, Redis copies a whole one."""

_FIRST_MARK: Final = 10**18
_MARKS: Final = 2**63 - _FIRST_MARK


def mark_of(commit_id: str) -> bytes:
    """The mark by which a commit is recognised: 19 digits, so that it can be the second half of the
    id of a stream entry and never changes its spelling.
    """
    digest = blake2b(commit_id.encode(), digest_size=8).digest()
    return b"%d" % (_FIRST_MARK + int.from_bytes(digest) % _MARKS)


def fixed(position: int) -> bytes:
    """A position with as many digits as the largest one, 2**53 - 1, has."""
    return b"%016d" % position


@lru_cache(maxsize=8)
def shard_tags(count: int) -> tuple[str, ...]:
    """The hash tag of each shard, the n-th of ``count`` in the n-th part of the slots."""
    return tuple(_tag(shard, count) for shard in range(count))


def _tag(shard: int, count: int) -> str:
    attempt = 0
    while True:
        tag = f"{shard}.{attempt}" if attempt else f"{shard}"
        if key_slot(tag.encode()) * count // REDIS_CLUSTER_HASH_SLOTS == shard:
            return tag
        attempt += 1


class Shard:
    """The keys that the entities of one shard share, and its newest known timeline."""

    __slots__ = (
        "deadlines", "feed", "last_timeline", "nothing", "number", "paths", "prefix", "removals",
        "removals_before", "run", "shards", "slot", "timeline",
    )  # fmt: skip

    def __init__(self, prefix: str, tag: str, number: int, shards: int) -> None:
        self.number, self.shards = number, shards
        self.prefix = own = f"{prefix}:{{{tag}}}:".encode()
        self.slot = key_slot(own)
        self.feed = own + b"feed"
        self.deadlines = own + b"deadlines"
        self.paths = own + b"paths"
        self.removals = own + b"removed"
        self.removals_before = own + b"removed-before"
        self.last_timeline = own + b"timeline"
        """The latest timeline that was given: what is created has a later one."""
        self.run = own + b"run"
        self.nothing = own + b"nothing"
        """A key that never is: see the probe of the store."""
        self.timeline = 0
        """The first half of the ids in the feed; it rises whenever data may have been lost."""

    def entity(self, path: str) -> bytes:
        return b"%be:%b" % (self.prefix, path.encode())

    def bytes_of(self, path: str, incarnation: str) -> bytes:
        return b"%bb:%b:%b" % (self.prefix, incarnation.encode(), path.encode())

    def index_of(self, path: str, incarnation: str) -> bytes:
        """The field keys of an entity, in order."""
        return b"%bk:%b:%b" % (self.prefix, incarnation.encode(), path.encode())

    def fixed_keys(self) -> Iterator[tuple[bytes, str]]:
        """Each key that every shard may have, and its type."""
        yield self.feed, "stream"
        yield self.deadlines, "zset"
        yield self.paths, "zset"
        yield self.removals, "hash"
        yield self.removals_before, "hash"
        yield self.last_timeline, "string"
        yield self.run, "string"


class Schema:
    """All keys under one prefix."""

    def __init__(self, prefix: str, shards: int) -> None:
        self.shards = tuple(
            Shard(prefix, tag, number, shards) for number, tag in enumerate(shard_tags(shards))
        )

    def shard(self, path: str) -> Shard:
        return self.shards[crc32(path.encode()) % len(self.shards)]


def check_prefix(prefix: str) -> str:
    if not prefix or "{" in prefix or "}" in prefix:
        raise StoreError(
            f"The prefix {prefix!r} cannot be: give one or more characters without braces."
        )
    return prefix


def check_shards(shards: int) -> int:
    if not 1 <= shards <= MAX_SHARDS:
        raise StoreError(f"{shards} shards cannot be: give a number from 1 to {MAX_SHARDS}.")
    return shards


def record_key(prefix: str) -> bytes:
    """Where the version of the schema and the number of shards stand, written once."""
    return f"{prefix}:schema".encode()


def record_value(shards: int) -> bytes:
    return b"durable-streams schema=%d shards=%d" % (SCHEMA_VERSION, shards)


def parse_record(key: bytes, value: object) -> int:
    """The number of shards; raises StoreError for what another program or version wrote."""
    name = key.decode()
    words = value.decode(errors="replace").split() if isinstance(value, bytes) else []
    if len(words) < 2 or words[0] != "durable-streams" or not words[1].startswith("schema="):
        raise _foreign(name)
    version = words[1].removeprefix("schema=")
    if version != str(SCHEMA_VERSION):
        raise StoreError(
            f"{name} says that the data has schema version {version}, and this package knows "
            f"version {SCHEMA_VERSION}: upgrade durable-streams-redis, or use another prefix."
        )
    shards = words[2].removeprefix("shards=") if len(words) == 3 else ""
    if not shards.isdecimal() or not 1 <= int(shards) <= MAX_SHARDS:
        raise _foreign(name)
    return int(shards)


def _foreign(name: str) -> StoreError:
    return StoreError(
        f"{name} holds a value of another program: use another prefix, or another database."
    )


def foreign_type(key: bytes, found: str, wanted: str) -> StoreError:
    return StoreError(
        f"{key.decode()} is a {found} of another program where this store keeps a {wanted}: "
        "use another prefix, or another database."
    )
