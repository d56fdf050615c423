"""Producer identities that make a plain append safe to repeat (§5.2.1).

A stream has a few lanes, each an idempotent producer of the client's own; an append takes a free
one for as long as it lasts. So the server keeps a few small entries per client and stream, however
many appends there are, and an append whose answer was lost is repeated without being stored twice.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from durable_streams_client.messages import Producing

LANES: Final = 4
MAX_STREAMS: Final = 1024


@dataclass(slots=True, eq=False)
class Lane:
    """One identity. A number is used up only by an append that was stored."""

    id: str
    epoch: int = 0
    seq: int = 0

    def producing(self) -> Producing:
        return Producing(self.id, self.epoch, self.seq)

    def stored(self) -> None:
        self.seq += 1

    def restart(self) -> None:
        """Begin a new epoch: a late copy of an append of unknown outcome is then turned away."""
        self.epoch += 1
        self.seq = 0


@dataclass(slots=True, eq=False)
class StreamLanes:
    """The lanes of one stream; the caller locks."""

    prefix: str
    free: list[Lane] = field(default_factory=list)
    made: int = 0

    def take(self) -> Lane | None:
        """A free lane, or None while all are in use."""
        if self.free:
            return self.free.pop()
        if self.made < LANES:
            self.made += 1
            return Lane(f"{self.prefix}-{self.made}")
        return None

    def give_back(self, lane: Lane) -> None:
        self.free.append(lane)

    @property
    def unused(self) -> bool:
        return len(self.free) == self.made


@dataclass(slots=True, eq=False)
class LaneBook:
    """Lanes by stream URL, for the streams used last; the caller locks.

    ``prefix`` must be unique to the client. A stream that is forgotten gets new identities.
    """

    prefix: str
    streams: OrderedDict[str, StreamLanes] = field(default_factory=OrderedDict)
    generation: int = 0

    def of(self, url: str) -> StreamLanes:
        lanes = self.streams.get(url)
        if lanes is None:
            self.generation += 1
            lanes = self.streams[url] = StreamLanes(f"{self.prefix}-{self.generation:x}")
            self._forget()
        self.streams.move_to_end(url)
        return lanes

    def drop(self, url: str) -> None:
        """Forget a stream that was deleted."""
        self.streams.pop(url, None)

    def _forget(self) -> None:
        if len(self.streams) > MAX_STREAMS:
            for url, lanes in self.streams.items():
                if lanes.unused:
                    del self.streams[url]
                    return
