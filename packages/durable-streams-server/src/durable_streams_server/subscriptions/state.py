"""One subscription as the process that drives it sees it."""

import asyncio

from durable_streams_core.entities import Head
from durable_streams_core.subscriptions.leases import IDLE, Lease
from durable_streams_core.subscriptions.records import PREFIX, Birth, Config, birth_of

MAX_DIRTY = 10_000
"""Streams that may be remembered as changed; with more, all are looked at."""


class SubscriptionState:
    """What the driver remembers. Only ``dirty`` and ``looked`` carry weight: together they say
    which streams can have pending work. Everything else is read from the store again.
    """

    __slots__ = (
        "again", "announced", "birth", "delivery", "dirty", "dropped", "explicit", "id",
        "incarnation", "lease", "looked", "looking", "path", "relink", "task", "timer",
    )  # fmt: skip

    def __init__(self, path: str, head: Head) -> None:
        self.path = path
        self.id = path.removeprefix(PREFIX)
        self.incarnation = head.incarnation
        self.birth: Birth = birth_of(head)
        self.lease = Lease()
        self.dirty: dict[str, None] = {}
        """Streams that may have pending work, those that were looked at longest ago first."""
        self.looked = False
        """Whether every stream with pending work is in ``dirty``."""
        self.looking = asyncio.Lock()
        self.explicit: set[str] = set()
        self.relink = True
        """Whether the explicit links have to be read."""
        self.announced = 0
        """The generation whose wake event is known to be written."""
        self.task: asyncio.Task[None] | None = None
        self.again = False
        self.delivery: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.dropped = False

    @property
    def config(self) -> Config:
        return self.birth.config

    @property
    def idle(self) -> bool:
        return self.lease.phase == IDLE

    def changed(self, stream: str) -> None:
        """A stream has more data, or is gone."""
        if len(self.dirty) >= MAX_DIRTY and stream not in self.dirty:
            self.dirty.clear()
            self.looked = False
        else:
            self.dirty[stream] = None

    def look_at_all(self) -> None:
        self.looked = False

    def disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
