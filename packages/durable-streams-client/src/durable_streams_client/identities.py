"""Producer identities that make a plain append safe to repeat (§5.2.1).

Each stream has up to four identities, and an append uses a free one until it is stored. So an
append whose response was lost can be repeated without being stored twice, and the server keeps
the state of a few producers per client and stream, however many appends there are.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from durable_streams_client.messages import Producing

MAX_IDENTITIES: Final = 4
MAX_STREAMS: Final = 1024


@dataclass(slots=True, eq=False)
class Identity:
    """A producer id with its epoch and next sequence number, which only a stored append uses up."""

    id: str
    epoch: int = 0
    seq: int = 0

    def producing(self) -> Producing:
        return Producing(self.id, self.epoch, self.seq)

    def stored(self) -> None:
        self.seq += 1

    def restart(self) -> None:
        """Begin a new epoch, in which the server refuses a late copy of an earlier append."""
        self.epoch += 1
        self.seq = 0


@dataclass(slots=True, eq=False)
class StreamIdentities:
    """The identities of one stream. The caller holds a lock."""

    prefix: str
    free: list[Identity] = field(default_factory=list)
    made: int = 0

    def take(self) -> Identity | None:
        """A free identity, or None while all are in use."""
        if self.free:
            return self.free.pop()
        if self.made < MAX_IDENTITIES:
            self.made += 1
            return Identity(f"{self.prefix}-{self.made}")
        return None

    def give_back(self, identity: Identity) -> None:
        self.free.append(identity)

    @property
    def unused(self) -> bool:
        return len(self.free) == self.made


@dataclass(slots=True, eq=False)
class IdentityCache:
    """Identities by stream URL, for the streams used last; the caller locks.

    ``prefix`` must be unique to the client. A stream that is forgotten gets new identities.
    """

    prefix: str
    streams: OrderedDict[str, StreamIdentities] = field(default_factory=OrderedDict)
    generation: int = 0

    def of(self, url: str) -> StreamIdentities:
        identities = self.streams.get(url)
        if identities is None:
            self.generation += 1
            identities = self.streams[url] = StreamIdentities(f"{self.prefix}-{self.generation:x}")
            self._forget()
        self.streams.move_to_end(url)
        return identities

    def drop(self, url: str) -> None:
        """Forget a stream that was deleted."""
        self.streams.pop(url, None)

    def _forget(self) -> None:
        if len(self.streams) > MAX_STREAMS:
            for url, identities in self.streams.items():
                if identities.unused:
                    del self.streams[url]
                    return
