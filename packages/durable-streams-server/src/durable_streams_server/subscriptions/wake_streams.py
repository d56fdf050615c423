"""The wake streams of all subscriptions, whichever process drives them.

Two pull-wake subscriptions whose patterns cover each other's wake streams would wake each other
without end: each wake is an append to a stream that the other one works on. So no pattern of a
pull-wake subscription links a wake stream (:meth:`Config.means`), for which every process knows
the wake streams of all subscriptions of the store. One that it does not know yet costs one needless
wake.
"""

from collections import Counter
from typing import Final

from durable_streams_core.entities import Head
from durable_streams_core.subscriptions.records import birth_of

MAX_GONE: Final = 1000
"""Deleted subscriptions that are remembered, so that an older look at one does not revive it."""


class WakeStreams:
    """A container of the paths of wake streams, updated as subscriptions come and go."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str | None]] = {}
        """The incarnation and the wake stream of each subscription, by its path."""
        self._uses: Counter[str] = Counter()
        self._gone: dict[str, None] = {}

    def __contains__(self, stream: object) -> bool:
        return stream in self._uses

    def subscriptions(self) -> list[tuple[str, str]]:
        """Path and incarnation of each that is known."""
        return [(path, incarnation) for path, (incarnation, _) in self._known.items()]

    def knows(self, subscription: str, incarnation: str) -> bool:
        known = self._known.get(subscription)
        return known is not None and known[0] == incarnation

    def note(self, subscription: str, head: Head) -> None:
        """Add a subscription."""
        if head.incarnation in self._gone or self.knows(subscription, head.incarnation):
            return
        self._forget(subscription)
        stream = birth_of(head).config.wake_stream
        self._known[subscription] = head.incarnation, stream
        if stream is not None:
            self._uses[stream] += 1

    def gone(self, subscription: str, incarnation: str) -> str | None:
        """Remove a deleted subscription; returns its stream if that is no longer a wake stream."""
        self._gone[incarnation] = None
        if len(self._gone) > MAX_GONE:
            del self._gone[next(iter(self._gone))]
        return self._forget(subscription) if self.knows(subscription, incarnation) else None

    def _forget(self, subscription: str) -> str | None:
        _, stream = self._known.pop(subscription, ("", None))
        if stream is None:
            return None
        self._uses[stream] -= 1
        if self._uses[stream]:
            return None
        del self._uses[stream]
        return stream
