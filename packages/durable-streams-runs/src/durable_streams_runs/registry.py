"""The registry: the stream to which all processes of a service append records.

One task reads it and folds the records into the ledger; another appends what is posted, one batch
at a time and in order. The registry is a chain of streams, its generations.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Final

import msgspec

from durable_streams_core.errors import (
    DurableStreamsError,
    Gone,
    NotFound,
    ProtocolError,
    StreamClosed,
)
from durable_streams_core.protocol import START
from durable_streams_runs.errors import RunsUnavailable
from durable_streams_runs.ledger import Ledger
from durable_streams_runs.records import (
    Record,
    Rotate,
    Snapshot,
    decode_records,
    encode_record,
)
from durable_streams_runs.snapshots import APPEND_BYTES, create_generation, read_parts
from durable_streams_runs.streams import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    StreamBatch,
    Streams,
    persistently,
)

log = logging.getLogger("durable_streams_runs")

JSON_TYPE: Final = "application/json"
GENERATION_BYTES: Final = 1024 * 1024
"""The least size at which a generation is closed and replaced."""
GROWTH: Final = 4
"""How many times as large as its snapshot a generation may grow, beyond that size."""

TOO_LARGE: Final = 413
RECORD_TOO_LARGE: Final = (
    "The server takes no record of this size into the registry of runs. Give the run fewer"
    " arguments, or raise the server's limit."
)

OnRecord = Callable[[Record, bool], None]


class _Posted:
    """A record on its way; ``result`` says whether it changed the ledger."""

    __slots__ = ("message", "number", "result", "sent")

    def __init__(self, number: int, message: bytes, result: asyncio.Future[bool]) -> None:
        self.number = number
        self.message = message
        self.result = result
        self.sent = False


class Registry:
    """One process's view of the registry.

    ``on_record`` is called with each record once the ledger is up to date, and whether it changed
    the ledger. ``on_loaded`` is called each time the ledger was read anew.
    """

    def __init__(
        self,
        streams: Streams,
        path: str,
        *,
        on_record: OnRecord,
        on_loaded: Callable[[], None],
    ) -> None:
        self.ledger = Ledger()
        self.worker = ""
        """The id under which this process posts."""
        self._streams = streams
        self._root = path
        self._on_record = on_record
        self._on_loaded = on_loaded
        self._generation: int | None = None
        self._offset = START
        self._bytes = 0
        """Bytes of the current generation, and of its first record."""
        self._snapshot_bytes = 0
        self._parts: str | None = None
        """The stream that holds the snapshot of the current generation, if it is large."""
        self._append_bytes = APPEND_BYTES
        self._live = False
        """Whether the ledger is up to date, so that records are new."""
        self._loaded = asyncio.Event()
        self._moved = asyncio.Event()
        self._wake = asyncio.Event()
        self._posted: dict[int, _Posted] = {}
        self._number = 0
        self._rotating = False
        self._tasks: list[asyncio.Task[None]] = []

    # Start and stop.

    async def open(self) -> None:
        """Read the registry, and follow it from then on."""
        self._tasks = [
            asyncio.create_task(self._read(), name="registry reader"),
            asyncio.create_task(self._send(), name="registry sender"),
        ]
        waiting = asyncio.create_task(self._loaded.wait())
        try:
            await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not self._loaded.is_set():
            await self.close()
            raise RunsUnavailable("The registry of runs cannot be read.")

    async def close(self) -> None:
        """Stop reading and posting."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self._fail(RunsUnavailable("The runs were shut down."))

    def renew(self) -> None:
        """Draw a new worker id; what was posted under the old one fails."""
        self._fail(RunsUnavailable("This worker was taken for dead. Try again."))
        self.worker = secrets.token_hex(8)
        self._number = 0

    def _fail(self, error: RunsUnavailable) -> None:
        posted, self._posted = self._posted, {}
        for each in posted.values():
            if not each.result.done():
                each.result.set_exception(error)
                each.result.exception()  # whoever posted it may have gone

    # Posting.

    async def post(self, record: Record) -> bool:
        """Append a record, and wait until it was read: True if it changed the ledger.

        Raises :class:`RunsUnavailable` if this worker is shut down or taken for dead before.
        """
        return await asyncio.shield(self.post_nowait(record))

    def tell(self, record: Record) -> None:
        """Append a record, whatever becomes of it."""
        _ = self.post_nowait(record)

    def post_nowait(self, record: Record) -> asyncio.Future[bool]:
        """The same without waiting: the result comes later."""
        result: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if not self._tasks:
            result.set_exception(RunsUnavailable("The runs are not started."))
            result.exception()
            return result
        self._number += 1
        numbered = msgspec.structs.replace(record, w=self.worker, n=self._number)
        self._posted[self._number] = _Posted(self._number, encode_record(numbered), result)
        self._wake.set()
        return result

    async def _send(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._unsent():
                moved = self._moved
                try:
                    await self._streams.append(self._path(), [each.message for each in batch])
                    pause = FIRST_PAUSE
                    for each in batch:
                        each.sent = True
                    continue
                except (StreamClosed, NotFound, Gone):
                    pass  # the reader finds the next generation
                except DurableStreamsError as error:
                    if isinstance(error, ProtocolError) and error.status == TOO_LARGE:
                        self._send_less(batch)
                        continue
                    if pause == FIRST_PAUSE:
                        log.warning("The registry of runs takes no records: %s", error)
                await _wait(moved, pause)
                pause = min(LONGEST_PAUSE, 2 * pause)

    def _unsent(self) -> list[_Posted]:
        found: list[_Posted] = []
        size = 0
        for each in self._posted.values():
            if not each.sent:
                size += len(each.message)
                if found and size > self._append_bytes:
                    break
                found.append(each)
        return found

    def _send_less(self, batch: list[_Posted]) -> None:
        """Send one record at a time from now on, and give up one that is too large alone."""
        self._append_bytes = 0
        if len(batch) == 1:
            self._posted.pop(batch[0].number, None)
            if not batch[0].result.done():
                batch[0].result.set_exception(RunsUnavailable(RECORD_TOO_LARGE))
                batch[0].result.exception()  # whoever posted it may have gone

    # Reading.

    async def _read(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                if self._generation is None:
                    await self._find()
                closed = False
                async for batch in self._streams.follow(self._path(), self._offset):
                    await self._take(batch)
                    closed = batch.closed
                    pause = FIRST_PAUSE
                if closed:
                    await self._advance()
                    continue
            except (NotFound, Gone):
                self._lose()
            except DurableStreamsError as error:
                if pause == FIRST_PAUSE:
                    log.warning("The registry of runs cannot be read: %s", error)
            except Exception:
                log.exception("The registry of runs cannot be read.")
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

    async def _take(self, batch: StreamBatch) -> None:
        self._bytes += len(batch.data)
        for record in decode_records(batch.data) if batch.data else ():
            if isinstance(record, Snapshot):
                self._snapshot_bytes = len(batch.data)
                self._parts = record.parts
                if record.parts is not None:
                    record, size = await read_parts(self._streams, record.parts)  # noqa: PLW2901
                    self._snapshot_bytes += size
            applied = self.ledger.apply(record)
            if record.w == self.worker:
                posted = self._posted.pop(record.n, None)
                if posted is not None and not posted.result.done():
                    posted.result.set_result(applied)
            if self._live:
                self._tell(record, applied)
        self._offset = batch.offset
        if batch.up_to_date and not self._live:
            self._live = True
            self._loaded.set()
            self._on_loaded()

    def _tell(self, record: Record, applied: bool) -> None:
        try:
            self._on_record(record, applied)
        except Exception:
            # Without its reader, no call of this process would ever return.
            log.exception("A record of the registry was not acted upon.")

    def _lose(self) -> None:
        """Read everything anew: the registry was deleted, or lost data that was read."""
        self._generation = None
        self._live = False

    # Generations.

    def _path(self) -> str:
        return f"{self._root}/{self._generation or 0}"

    async def _find(self) -> None:
        """Find the current generation, or make the first one."""
        while True:
            generation = await self._named()
            self._set_generation(generation)
            created = await self._create()
            if not created or await self._named() == generation:
                return
            # It was replaced and deleted since its name was read.
            await self._streams.delete(self._path())

    async def _named(self) -> int:
        """The number of the generation that was named last."""
        await self._streams.create(self._root, JSON_TYPE)
        latest = 0
        async for batch in self._streams.read(self._root):
            for message in msgspec.json.decode(batch.data or b"[]"):
                if isinstance(message, int):
                    latest = max(latest, message)
        return latest

    async def _create(self) -> bool:
        if not self.ledger.started:
            # Above the numbers that an earlier registry gave, if that was lost.
            self.ledger.started = int(time.time())
        return await create_generation(self._streams, self._path(), self.ledger.snapshot())

    async def _advance(self) -> None:
        """Go on to the next generation, and make it unless another process has."""
        generation = (self._generation or 0) + 1
        old = [f"{self._root}/{generation - 2}"] if generation >= 2 else []
        if self._parts is not None:
            old.append(self._parts)
        self._set_generation(generation)
        if await persistently(self._create):
            await persistently(lambda: self._streams.append(self._root, [b"%d" % generation]))
            for path in old:
                await persistently(lambda: self._streams.delete(path))  # noqa: B023

    def _set_generation(self, generation: int) -> None:
        self._generation = generation
        self._offset = START
        self._bytes = self._snapshot_bytes = 0
        self._parts = None
        for each in self._posted.values():
            each.sent = False
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        self._wake.set()

    def rotation_due(self) -> bool:
        """Whether the current generation is large enough to be replaced."""
        return self._bytes >= max(GENERATION_BYTES, GROWTH * self._snapshot_bytes)

    async def rotate(self) -> None:
        """Close the current generation; all readers then go on to the next one."""
        if self._rotating:
            return
        self._rotating = True
        try:
            await self._streams.append(self._path(), [encode_record(Rotate())], close=True)
        except DurableStreamsError as error:
            log.debug("The registry was not rotated: %s", error)
        finally:
            self._rotating = False


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
