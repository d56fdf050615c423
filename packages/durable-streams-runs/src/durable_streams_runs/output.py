"""Gathers the output of a run into few appends, without delaying the first after a pause."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from durable_streams_core.errors import DurableStreamsError
from durable_streams_runs.errors import RunFailed
from durable_streams_runs.formats import Format
from durable_streams_runs.limits import Limits
from durable_streams_runs.states import End
from durable_streams_runs.streams import Lost, Why, Writer, persistently

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
"""Makes a task of that name, which ends with its worker at the latest."""

ADDED_IN_ONE_TURN: Final = 64
"""Items that a source may yield before other tasks get a turn of the loop."""


class Output:
    """The appends of one owner to a run. ``on_lost`` is called when it may append no more."""

    def __init__(
        self,
        writer: Writer,
        form: Format,
        limits: Limits,
        on_lost: Callable[[], None],
        spawn: Spawn,
    ) -> None:
        self.end: End | None = None
        """The end that was written."""
        self.lost: Lost | None = None
        """Why nothing more can be written, if so."""
        self._writer = writer
        self._format = form
        self._limits = limits
        self._on_lost = on_lost
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._parts: list[bytes] = []
        self._batch: list[bytes] = []
        """The batch that is being appended. It is sent unchanged until its outcome is known."""
        self._size = 0
        """Bytes of parts and batch."""
        self._total = 0
        self._count = 0
        self._due = 0.0
        """When the next append may begin."""
        self._timer: asyncio.TimerHandle | None = None
        self._ending = False

    @property
    def closed(self) -> bool:
        """Whether nothing more is accepted."""
        return self._ending or self.lost is not None

    async def add(self, item: Any) -> None:
        """Accept an item; waits only to let output flow.

        Raises :class:`RunFailed` for output beyond the limits, ``TypeError`` and ``ValueError``
        for an item that the format cannot hold.
        """
        part = self._format.encode(item)
        size = len(part)
        if not size:
            return
        self._total += size
        if size > self._limits.item_bytes or self._total > self._limits.run_bytes:
            raise RunFailed("The output is too large.")
        self._parts.append(part)
        self._size += size
        self._count += 1
        if self._loop.time() >= self._due or self._size >= self._limits.gather_bytes:
            if not self._lock.locked() or self._size >= self._limits.pending_bytes:
                await self._send()
        elif self._timer is None:
            self._timer = self._loop.call_at(self._due, self._begin_sending)
        if not self._count % ADDED_IN_ONE_TURN:
            await asyncio.sleep(0)

    async def finish(self, end: End) -> End:
        """Write the rest and the end, and close the stream; the first end that is given holds.

        Raises :class:`Lost`.
        """
        self._ending = True
        self._stop_timer()
        async with self._lock:
            if self.lost is not None:
                raise self.lost
            if self.end is None:
                if self._batch:
                    await self._append()
                message = self._format.end(end)
                await self._write(lambda: self._writer.close(self._parts, message))
                self.end = end
        return self.end

    async def flush(self) -> None:
        """Write what was accepted, and accept nothing more. Raises :class:`Lost`."""
        self._ending = True
        self._stop_timer()
        async with self._lock:
            for _ in range(2):
                if not self._batch:
                    self._batch, self._parts = self._parts, []
                if self._batch:
                    await self._append()

    async def release(self) -> None:
        """Write nothing more, and give back what the writer holds."""
        self._ending = True
        self._stop_timer()
        await self._writer.release()

    def _begin_sending(self) -> None:
        self._timer = None
        if not self._lock.locked():
            _ = self._spawn(self._send_in_background(), "output of a run")

    async def _send_in_background(self) -> None:
        try:
            await self._send()
        except Lost:
            self._on_lost()

    async def _send(self) -> None:
        async with self._lock:
            if self.closed:
                return
            self._due = self._loop.time() + self._limits.gather
            if not self._batch:
                self._batch, self._parts = self._parts, []
            if self._batch:
                await self._append()
        # Items that came meanwhile wait for the next turn.
        if self._parts and self._timer is None and not self.closed:
            self._timer = self._loop.call_at(self._due, self._begin_sending)

    async def _append(self) -> None:
        await self._write(lambda: self._writer.append(self._batch))
        self._size -= sum(map(len, self._batch))
        self._batch = []

    async def _write(self, attempt: Callable[[], Any]) -> None:
        try:
            await persistently(attempt)
        except Lost as lost:
            self.lost = lost
            raise
        except DurableStreamsError as error:
            # The stream does not take what the format wrote; it would not take it later either.
            self.lost = Lost(Why.BROKEN)
            raise self.lost from error

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
