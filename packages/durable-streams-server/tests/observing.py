"""An observer that keeps what front ends report, for tests to look at and to wait for."""

import asyncio
from typing import NamedTuple

from durable_streams_server.http.observing import Caller


class Report(NamedTuple):
    """One finished request; ``kind`` is empty for a request without an exchange."""

    kind: str
    status: int
    received: int
    sent: int
    target: str


class Recorder:
    """Keeps every report, in order."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self._came = asyncio.Event()

    def finished(self, caller: Caller, status: int, received: int, sent: int, began: float) -> None:
        assert began > 0
        kind = "" if caller.exchange is None else caller.exchange.kind
        self.reports.append(Report(kind, status, received, sent, caller.target))
        self._came.set()

    async def count(self, number: int) -> None:
        """Return once so many requests were reported."""
        while len(self.reports) < number:
            self._came.clear()
            await self._came.wait()
