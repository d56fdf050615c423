"""How commits stand in the journal: msgpack, one array a commit, short for what is frequent.

A group is ``[now, [entry, …]]``, and an entry one of

    [number, id, position, data]
    [number, id, position, data, fields]
    [number, id, position, data, fields, close, state, deadline, path, removed, created]

``number`` is the entity's own, given once and never again; ``id`` that of the commit, empty for an
append that nobody sends again; ``position`` the tail before it, where ``data`` goes. ``removed`` is
the number of the entity that the commit drops, or 0; ``created`` the head of the one it makes, or
null. Guards are not kept: what stands here was let through.

``data`` is the bytes themselves, up to ``LARGE`` of them. More stand behind the array, uncopied,
and the entry has their length instead. Direct data is in the data file already, and the entry
describes it: see :class:`InFile`.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from durable_streams_core.entities import Commit, Head
from durable_streams_core.offsets import NO_TIMELINE

LARGE: Final = 16 * 1024

Entry = tuple[Any, ...]


class InFile(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Direct data, as the journal names it: ``length`` bytes in the data file.

    ``full`` is the CRCs of the file's blocks that it completed, ``rest`` that of the bytes behind
    them (see `sums`).
    """

    length: int
    full: bytes
    rest: int

    def __len__(self) -> int:
        return self.length


EntryData = bytes | int | InFile

_encoder: Final = msgspec.msgpack.Encoder()
_group: Final = msgspec.msgpack.Decoder(tuple[int, list[list[Any]]])


def entry_of(commit: Commit, number: int, position: int, removed: int) -> Entry:
    """The journal's record of a commit. Where it has a length, the data is to stand behind."""
    delta = commit.delta
    data: EntryData = delta.data
    if len(delta.data) > LARGE:
        data = len(delta.data)
    create = delta.create
    if (
        create is None
        and not delta.close
        and not delta.remove
        and delta.deadline is None
        and delta.state is None
    ):
        if delta.fields:
            return (number, commit.id, position, data, dict(delta.fields))
        return (number, commit.id, position, data)
    return (
        number,
        commit.id,
        position,
        data,
        dict(delta.fields),
        delta.close,
        delta.state,
        delta.deadline,
        commit.path,
        removed,
        None if create is None else pack_head(create),
    )


def pack_head(head: Head) -> tuple[Any, ...]:
    return (
        head.incarnation, head.birth, head.start, head.tail, head.closed, head.state, head.deadline,
        head.timeline, head.past,
    )  # fmt: skip


def unpack_head(packed: Sequence[Any]) -> Head:
    """The head that :func:`pack_head` packed, here or before heads had timelines."""
    incarnation, birth, start, tail, closed, state, deadline, *rest = packed
    timeline, past = rest or (NO_TIMELINE, ())
    pairs = tuple((earlier, end) for earlier, end in past)
    return Head(incarnation, birth, start, tail, closed, state, deadline, timeline, pairs)


def encode_group(now: int, entries: Sequence[Entry]) -> bytes:
    return _encoder.encode((now, entries))


def decode_group(body: bytes | memoryview, large: memoryview) -> tuple[int, list[list[Any]]]:
    """The time and the entries of a group, each with its data in place."""
    now, entries = _group.decode(body)
    begin = 0
    for entry in entries:
        data = entry[3]
        if type(data) is int:
            end = begin + data
            entry[3] = bytes(large[begin:end])
            begin = end
        elif type(data) is list:
            entry[3] = msgspec.convert(data, InFile)
    return now, entries
