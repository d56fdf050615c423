"""The Lua scripts, and how a call of one is packed and its reply read.

Commands are packed here rather than by redis-py because most of each is the same every time, and
because a batch then goes out as one write.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, NamedTuple

import msgspec

from durable_streams_core.entities import (
    LIVE,
    NO_COUNTS,
    NO_FIELDS,
    Applied,
    Commit,
    Conflicted,
    Delta,
    Facts,
    Guard,
    Head,
    Outcome,
    Refused,
    Unknown,
)
from durable_streams_core.offsets import NO_TIMELINE, later_timeline, timeline_at
from durable_streams_redis.schema import CHUNK, Shard, fixed, mark_of

Argument = bytes


def pack(*arguments: Argument) -> bytes:
    """One command as it goes over the wire."""
    return b"*%d\r\n" % len(arguments) + bulk(arguments)


def bulk(arguments: Iterable[Argument]) -> bytes:
    """Arguments as they go over the wire."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(each), each) for each in arguments])


class Script:
    """A Lua script under one set of flags."""

    def __init__(self, name: str, flags: str) -> None:
        source = files(__package__).joinpath("lua", f"{name}.lua").read_bytes()
        self.text = f"#!lua{flags}\n".encode() + source
        self.sha = sha1(self.text, usedforsecurity=False).hexdigest().encode()

    def call(self, keys: Sequence[Argument], arguments: Sequence[Argument]) -> bytes:
        return b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n%b%b" % (
            3 + len(keys) + len(arguments),
            self.sha,
            bulk((b"%d" % len(keys), *keys)),
            bulk(arguments),
        )


COMMIT: Final = Script("commit", "")
"""Refused by a server that is out of memory before anything is done."""
COMMIT_WHEN_FULL: Final = Script("commit", " flags=allow-oom")
"""For what frees memory or adds next to none: let through when memory is full."""
READ: Final = Script("read", " flags=allow-oom")
"""Not `no-writes`: so that a replica refuses it, and nobody is answered from the past."""

BEGIN: Final = Script("begin", " flags=allow-oom")
"""Begins a new timeline; adds next to nothing."""

SCRIPTS: Final = (COMMIT, COMMIT_WHEN_FULL, READ, BEGIN)
LOAD: Final = tuple(pack(b"SCRIPT", b"LOAD", script.text) for script in SCRIPTS)

_COUNTS: Final = msgspec.msgpack.Decoder(dict[str, int])


def commit_call(
    commit: Commit,
    shard: Shard,
    feed_length: bytes,
    *,
    first: bool = True,
    probe: bool = False,
    confirm: bool = False,
    plain: bool = True,
) -> bytes:
    """A commit as a command.

    ``first`` says that this process sends it for the first time: the script then looks for an
    earlier copy of it among the latest entries only. ``probe`` only asks whether it was applied.
    ``confirm`` has a resend write something, so that WAIT waits. ``plain`` permits the shorter form
    where it fits.
    """
    guard, delta = commit.guard, commit.delta
    if plain and first and not probe and _is_plain(guard, delta):
        return _plain_call(commit, shard, feed_length)
    create = delta.create
    flags = b""
    if guard.open:
        flags += b"o"
    if delta.remove:
        flags += b"R"
    if delta.close:
        flags += b"C"
    if delta.data:
        flags += b"D"
    if not first:
        flags += b"A"
    if probe:
        flags += b"P"
    if confirm:
        flags += b"W"
    more = not delta.data or bool(
        create is not None
        or delta.remove
        or guard.tail is not None
        or guard.deadline is not None
        or guard.fields
        or guard.none_of
        or delta.state is not None
        or delta.deadline is not None
        or delta.fields
    )
    incarnation = guard.incarnation or ""
    own = create.incarnation if create is not None and not incarnation else incarnation
    keys = [
        shard.entity(commit.path),
        shard.bytes_of(commit.path, own),
        shard.feed,
        shard.removals,
        shard.removals_before,
    ]
    if more:
        flags += b"M"
        keys += [
            shard.index_of(commit.path, own),
            shard.deadlines,
            shard.paths,
            shard.last_timeline,
        ]
    if create is not None:
        flags += b"N" if delta.timeline is None else b"NT"
        if incarnation:
            new = create.incarnation
            keys += [shard.bytes_of(commit.path, new), shard.index_of(commit.path, new)]
    arguments = [
        commit.path.encode(),
        mark_of(commit.id),
        fixed(commit.known_tail),
        incarnation.encode(),
        flags,
        (guard.state or "").encode(),
        feed_length,
        b"%d" % shard.timeline,
    ]
    if more:
        arguments += _more_than_data(guard, delta, shard)
    data = delta.data
    if len(data) <= CHUNK:
        arguments += [data] if data else []
    else:
        arguments += [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    light = probe or not (
        create is not None or data or any(value is not None for value in delta.fields.values())
    )
    return (COMMIT_WHEN_FULL if light else COMMIT).call(keys, arguments)


def _is_plain(guard: Guard, delta: Delta) -> bool:
    """Whether a commit only adds some data to a live and open entity."""
    return (
        0 < len(delta.data) <= CHUNK
        and guard.open
        and guard.state == LIVE
        and not guard.fields
        and not delta.fields
        and not delta.close
        and guard.tail is None
        and guard.deadline is None
        and not guard.none_of
        and guard.incarnation is not None
        and delta.create is None
        and not delta.remove
        and delta.state is None
        and delta.deadline is None
    )


def _plain_call(commit: Commit, shard: Shard, feed_length: bytes) -> bytes:
    entity = shard.entity(commit.path)
    stored = shard.bytes_of(commit.path, commit.guard.incarnation or "")
    data = commit.delta.data
    timeline = b"%d" % shard.timeline
    return (
        b"*11\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
        b"$19\r\n%b\r\n$16\r\n%016d\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
    ) % (
        COMMIT.sha,
        *(len(entity), entity, len(stored), stored, len(shard.feed), shard.feed),
        *(mark_of(commit.id), commit.known_tail),
        *(len(feed_length), feed_length, len(timeline), timeline, len(data), data),
    )


def _more_than_data(guard: Guard, delta: Delta, shard: Shard) -> list[Argument]:
    create = delta.create
    arguments = [
        b"" if guard.tail is None else fixed(guard.tail),
        b"" if guard.deadline is None else b"%d" % guard.deadline,
        (delta.state or "").encode(),
        b"" if delta.deadline is None else b"%d" % delta.deadline,
    ]
    if create is not None:
        arguments += [
            create.incarnation.encode(),
            create.birth,
            fixed(create.start),
            b"1" if create.closed else b"0",
            create.state.encode(),
            b"%d" % create.deadline,
            create.timeline if delta.timeline is None else delta.timeline,
            b"".join(timeline + fixed(end) for timeline, end in create.past),
            b"%d" % shard.number,
            b"%d" % shard.shards,
        ]
    arguments.append(b"%d" % len(guard.fields))
    for key, value in guard.fields.items():
        arguments += [key.encode(), b"-" if value is None else b"+" + value]
    arguments.append(b"%d" % len(guard.none_of))
    arguments += [kind.encode() for kind in guard.none_of]
    arguments.append(b"%d" % len(delta.fields))
    for key, value in delta.fields.items():
        arguments += [key.encode(), b"-" if value is None else b"+" + value]
    return arguments


def begin_call(shard: Shard, run: str, *, earliest: int, lost: bool = False) -> bytes:
    """A call of the script that begins a new timeline where one is due.

    ``run`` says which server process this is, ``earliest`` is the earliest time that a new timeline
    may have, ``lost`` says that the shard has lost data in the timeline that is known.
    """
    known = shard.timeline + lost
    return BEGIN.call([shard.feed, shard.run], [run.encode(), b"%d" % known, b"%d" % earliest])


class CommitStatus:
    """The first element of a reply of the commit script."""

    CONFLICTED: Final = 0
    APPLIED: Final = 1
    REFUSED: Final = 2
    UNKNOWN: Final = 3
    OTHER_TIMELINE: Final = 4
    OTHER_FORM: Final = 5


def is_of_another_timeline(reply: object) -> bool:
    """Whether a commit was not looked at because the shard has another timeline."""
    return isinstance(reply, list) and reply[0] == CommitStatus.OTHER_TIMELINE


def is_for_the_other_form(reply: object) -> bool:
    """Whether a commit was not looked at because it has to be sent as one that is not plain."""
    return isinstance(reply, list) and reply[0] == CommitStatus.OTHER_FORM


def commit_outcome(commit: Commit, shard: Shard, reply: list[Any] | bytes) -> Outcome:
    """The outcome that a reply of the commit script stands for."""
    if type(reply) is bytes:
        return Applied(int(reply[:16]), reply[16:])
    match reply:
        case [CommitStatus.APPLIED, tail, timeline]:
            return Applied(int(tail), timeline)
        case [CommitStatus.CONFLICTED]:
            return Conflicted(None)
        case [CommitStatus.CONFLICTED, *found]:
            names = [*commit.guard.fields, *commit.delta.fields]
            head, values = HeadReply(*found[:_HEAD_LENGTH]), found[_HEAD_LENGTH:]
            return Conflicted(_facts(shard, head, names, values))
        case [CommitStatus.REFUSED, code, message]:
            return Refused(code.decode(), message.decode())
        case [CommitStatus.OTHER_TIMELINE]:
            return Refused("unavailable", "The data of Redis changed under this commit.")
    return Unknown("The server does not remember this commit.")


def read_call(
    shard: Shard, path: str, incarnation: str, start: int, limit: int, *fields: str
) -> bytes:
    keys = [shard.entity(path)]
    if limit:
        keys.append(shard.bytes_of(path, incarnation))
    return READ.call(
        keys,
        [incarnation.encode(), b"%d" % start, b"%d" % limit, *[field.encode() for field in fields]],
    )


class HeadReply(NamedTuple):
    """The fields of an entity's hash that make its head, as the scripts reply them."""

    incarnation: bytes
    birth: bytes
    start: bytes
    tail: bytes
    closed: bytes
    state: bytes
    deadline: bytes
    timeline: bytes | None
    past: bytes | None
    shard_timeline: bytes | None
    """The timeline of the shard when the entity was last appended to."""
    counts: bytes | None = None


HEAD_FIELDS: Final = (b"i", b"b", b"s", b"t", b"c", b"x", b"d", b"l", b"p", b"e")
"""Where these are in the hash, without the counts."""
_HEAD_LENGTH: Final = len(HeadReply._fields)


class ReadReply(NamedTuple):
    """The reply of the read script about an entity."""

    head: HeadReply
    data: bytes
    values: list[bytes | None]
    """Of the fields that were asked for, in their order."""

    @classmethod
    def of(cls, reply: list[Any]) -> "ReadReply":
        """From the reply, in which the fields of the head come first."""
        return cls(HeadReply(*reply[:_HEAD_LENGTH]), reply[_HEAD_LENGTH], reply[_HEAD_LENGTH + 1 :])


def facts_of(shard: Shard, reply: ReadReply, names: Sequence[str]) -> Facts:
    """The facts in a reply of the read script that was asked for the fields of these names."""
    return _facts(shard, reply.head, names, reply.values)


def _facts(
    shard: Shard, head: HeadReply, names: Sequence[str], values: Sequence[bytes | None]
) -> Facts:
    return Facts(
        head_of(shard, head),
        dict(zip(names, values, strict=True)) if names else NO_FIELDS,
        NO_COUNTS if head.counts is None else _COUNTS.decode(head.counts),
    )


def head_of(shard: Shard, reply: HeadReply) -> Head:
    """The head that a reply stands for.

    An entity that was last written in an earlier timeline of its shard has moved on since, which
    the next commit with data writes down.
    """
    head = Head(
        reply.incarnation.decode(),
        reply.birth,
        int(reply.start),
        int(reply.tail),
        reply.closed == b"1",
        reply.state.decode(),
        int(reply.deadline),
        reply.timeline or NO_TIMELINE,
        _past(reply.past) if reply.past else (),
    )
    if int(reply.shard_timeline or 0) < shard.timeline:
        return head.moved_on(later_timeline(timeline_at(shard.timeline), head.timeline))
    return head


def _past(packed: bytes) -> tuple[tuple[bytes, int], ...]:
    """From records of timeline and end, 16 digits each."""
    return tuple(
        (packed[at : at + 16], int(packed[at + 16 : at + 32])) for at in range(0, len(packed), 32)
    )
