"""The snapshot with which a generation of the registry begins.

It is the first record, or is kept in a stream of its own if it is large.
"""

import secrets
from typing import Any, Final

import msgspec

from durable_streams_runs.records import Snapshot, decode_records, encode_record
from durable_streams_runs.streams import Streams, persistently

APPEND_BYTES: Final = 256 * 1024
"""The most that is sent to the registry at once, unless one record is larger. Proxies refuse large
requests, some from 1 MB on.
"""
JSON_TYPE: Final = "application/json"


async def create_generation(streams: Streams, path: str, snapshot: Snapshot) -> bool:
    """Create a generation that begins with a snapshot; False if there is one already."""
    parts = encode_parts(snapshot, APPEND_BYTES)
    if len(parts) == 1:
        return await streams.create(path, JSON_TYPE, data=parts[0])
    held = f"{path}-{secrets.token_hex(4)}"
    await streams.create(held, JSON_TYPE)
    for part in parts:
        await persistently(lambda: streams.append(held, [part]))  # noqa: B023
    first = encode_record(Snapshot(parts=held))
    if await streams.create(path, JSON_TYPE, data=first):
        return True
    if await _begins_with(streams, path, first):
        return True  # a proxy repeated the request
    await streams.delete(held)
    return False


async def _begins_with(streams: Streams, path: str, record: bytes) -> bool:
    async for batch in streams.read(path):
        return bool(batch.data) and encode_record(decode_records(batch.data)[0]) == record
    return False


async def read_parts(streams: Streams, path: str) -> tuple[Snapshot, int]:
    """The snapshot that a stream holds in parts, some of them perhaps twice, and its bytes."""
    whole = Snapshot()
    size = 0
    async for batch in streams.read(path):
        size += len(batch.data)
        for part in decode_records(batch.data) if batch.data else ():
            if isinstance(part, Snapshot):
                whole = Snapshot(
                    members=whole.members + part.members,
                    entries=whole.entries + part.entries,
                    ended=whole.ended + part.ended,
                    started=part.started,
                )
    return whole, size


def encode_parts(snapshot: Snapshot, size: int) -> list[bytes]:
    """A snapshot as records of at most ``size`` bytes each, unless one item is larger."""
    encoded = encode_record(snapshot)
    held: tuple[list[Any], ...] = (snapshot.members, snapshot.entries, snapshot.ended)
    longest = max(map(len, held))
    if len(encoded) <= size or longest <= 1:
        return [encoded]
    found = []
    for half in (slice(longest // 2), slice(longest // 2, None)):
        members, entries, ended = (items[half] for items in held)
        part = msgspec.structs.replace(snapshot, members=members, entries=entries, ended=ended)
        found += encode_parts(part, size)
    return found
