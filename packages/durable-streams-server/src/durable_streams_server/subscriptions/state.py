"""One subscription as the process that drives it remembers it."""

import asyncio

from durable_streams_core.entities import Head
from durable_streams_core.subscriptions.leases import Lease
from durable_streams_core.subscriptions.records import PREFIX, Config, birth_of

MAX_CANDIDATES = 10_000
"""Streams remembered as changed; with more, every linked stream is checked instead."""


class SubscriptionState:
    """The memory of a subscription between steps.

    Only ``candidates`` and ``complete`` carry weight: together they say which streams can have
    pending work. Everything else is read from the store again before it is acted on.
    """

    __slots__ = (
        "announced", "candidates", "checking", "complete", "config", "delivery", "dropped", "id",
        "incarnation", "lease", "links", "links_stale", "path", "step_again", "step_task", "timer",
    )  # fmt: skip

    def __init__(self, path: str, head: Head) -> None:
        self.path = path
        self.id = path.removeprefix(PREFIX)
        self.incarnation = head.incarnation
        self.config: Config = birth_of(head).config
        self.lease = Lease()
        """The lease as last seen."""
        self.candidates: dict[str, None] = {}
        """Streams that may have pending work, the least recently checked first."""
        self.complete = False
        """Whether every stream with pending work is among the candidates."""
        self.checking = asyncio.Lock()
        """Held while pending work is looked up."""
        self.links: set[str] = set()
        """Streams that are linked explicitly (§6.4)."""
        self.links_stale = True
        """Whether the links have to be read from the store."""
        self.announced = 0
        """The generation whose wake event is known to be written."""
        self.step_task: asyncio.Task[None] | None = None
        self.step_again = False
        """Whether another step is due after the one that runs."""
        self.delivery: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.dropped = False
        """Whether this process no longer drives the subscription."""

    def stream_changed(self, stream: str) -> None:
        """A stream has more data, or is gone."""
        if len(self.candidates) >= MAX_CANDIDATES and stream not in self.candidates:
            self.candidates.clear()
            self.complete = False
        else:
            self.candidates[stream] = None

    def disarm(self) -> None:
        """Cancel the timer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
