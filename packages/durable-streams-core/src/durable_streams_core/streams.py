"""The typed content of a stream's head and fields, as the rules use it.

Field keys begin with their kind:

| key              | value                                                                |
|------------------|----------------------------------------------------------------------|
| ``p<producer>``  | :class:`ProducerEntry`, the last batch accepted (§5.2.1)             |
| ``f<fork>``      | :class:`ForkLink`, a fork that reads this stream's bytes (§4.2);     |
|                  | :func:`link_key` spells it                                           |
| ``s``            | the last ``Stream-Seq`` (§5.2)                                       |
"""

from functools import lru_cache
from typing import Final

import msgspec

from durable_streams_core.content import Kind, media_type
from durable_streams_core.entities import Head
from durable_streams_core.offsets import NO_TIMELINE, Offset

__all__ = [
    "LINK",
    "PRODUCER",
    "Birth",
    "CreationRequest",
    "ForkLink",
    "Origin",
    "birth_of",
    "decode_link",
    "decode_producer",
    "link_key",
    "linked_fork",
]

PRODUCER: Final = "p"
LINK: Final = "f"
SEQ: Final = "s"


class CreationRequest(msgspec.Struct, frozen=True, array_like=True):
    """A creation as it was asked for, so that the same PUT compares equal later, whatever its
    source did since. None: not said. ``expires_at`` is in milliseconds, ``fork_offset`` and
    ``fork_timeline`` are the two halves of an offset of the source.
    """

    content_type: str | None = None
    ttl: int | None = None
    expires_at: int | None = None
    forked_from: str | None = None
    fork_offset: int | None = None
    fork_sub_offset: int = 0
    fork_timeline: bytes = NO_TIMELINE

    @property
    def fork_from(self) -> Offset | None:
        """The offset of the source at which the fork leaves it; None for the source's tail."""
        return None if self.fork_offset is None else Offset(self.fork_timeline, self.fork_offset)

    def forked_at(self, offset: Offset | None) -> "CreationRequest":
        """The same with an offset of the source, None for its tail."""
        if offset is None:
            return msgspec.structs.replace(self, fork_offset=None, fork_timeline=NO_TIMELINE)
        return msgspec.structs.replace(
            self, fork_offset=offset.position, fork_timeline=offset.timeline
        )


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """The source of a fork: this incarnation has the bytes before the fork's ``start``."""

    path: str
    incarnation: str


class Birth(msgspec.Struct, frozen=True, array_like=True):
    """The facts that are fixed when a stream is created. Times are in milliseconds since 1970."""

    content_type: str
    created: int
    requested: CreationRequest = CreationRequest()
    ttl: int | None = None
    expires_at: int | None = None
    origin: Origin | None = None

    @property
    def kind(self) -> Kind:
        """How the bytes of the stream are cut and shown."""
        return media_type(self.content_type).kind


class ProducerEntry(msgspec.Struct, frozen=True, array_like=True):
    """The newest batch of a producer; ``used`` (milliseconds) tells which were idle longest."""

    epoch: int
    seq: int
    used: int


class ForkLink(msgspec.Struct, frozen=True, array_like=True):
    """A source's record of one fork: pending, then ``held``."""

    incarnation: str
    position: int
    held: bool = False


_encoder: Final = msgspec.msgpack.Encoder()
_birth: Final = msgspec.msgpack.Decoder(Birth)
_producer: Final = msgspec.msgpack.Decoder(ProducerEntry)
_link: Final = msgspec.msgpack.Decoder(ForkLink)


def encode(value: Birth | ProducerEntry | ForkLink) -> bytes:
    """The stored form."""
    return _encoder.encode(value)


def link_key(fork: str, incarnation: str) -> str:
    """The field of one fork's link. Two tries to make the same fork have a link each, so that
    neither can drop the other's.
    """
    return f"{LINK}{incarnation}:{fork}"


def linked_fork(key: str) -> str:
    """The path of the fork that a link's key names."""
    return key.partition(":")[2]


@lru_cache(maxsize=8192)
def _decode_birth(data: bytes) -> Birth:
    return _birth.decode(data)


def birth_of(head: Head) -> Birth:
    """The decoded birth of a stream's head."""
    return _decode_birth(head.birth)


def decode_producer(data: bytes | None) -> ProducerEntry | None:
    """The entry in a stored field; None where there is none."""
    return None if data is None else _producer.decode(data)


def decode_link(data: bytes | None) -> ForkLink | None:
    """The link in a stored field; None where there is none."""
    return None if data is None else _link.decode(data)
