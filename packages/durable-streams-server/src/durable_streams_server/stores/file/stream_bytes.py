"""Reads the streams' bytes, from their data files and from what is not in them yet."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from durable_streams_core.entities import Slice
from durable_streams_server.stores.file.data_file_reader import FileReader
from durable_streams_server.stores.file.write_behind import Stored
from durable_streams_server.stores.table import Table

_THREADS: Final = 4


class StreamBytes:
    """Slices of the streams in a table. Reads of more than ``large`` bytes go to threads."""

    def __init__(self, table: Table[Stored], reader: FileReader, large: int) -> None:
        self._table = table
        self._reader = reader
        self._large = large
        self._threads = ThreadPoolExecutor(_THREADS, "durable-streams-reads")
        # Each keeps a file open, so no more than can be read at once.
        self._large_reads = asyncio.Semaphore(_THREADS)

    def close(self) -> None:
        """Wait for the reads that are under way, and close all files."""
        self._threads.shutdown()
        self._reader.close()

    def slice(self, path: str, incarnation: str, start: int, limit: int) -> Slice | None:
        """At most ``limit`` bytes from position ``start``; None where that incarnation is not."""
        entity = self._table.entities.get(path)
        if entity is None or entity.head.incarnation != incarnation:
            return None
        head = entity.head
        length = min(limit, head.tail - start)
        if length <= 0:
            return Slice(head, b"")
        unsaved = entity.unsaved
        if unsaved is not None and start >= unsaved.begin:
            return Slice(head, unsaved.read(start, length))
        in_file = min(length, entity.saved - start)
        data = self._reader.read(entity, start - head.start, in_file)
        if in_file < length:
            assert unsaved is not None
            data += unsaved.read(unsaved.begin, length - in_file)
        return Slice(head, data)

    async def read(self, path: str, incarnation: str, start: int, limit: int) -> Slice | None:
        """As :meth:`slice`, without holding the event loop."""
        if limit <= self._large:
            return self.slice(path, incarnation, start, limit)
        async with self._large_reads:
            entity = self._table.entities.get(path)
            if entity is None or entity.head.incarnation != incarnation:
                return None
            if min(limit, entity.saved - start) <= self._large:
                return self.slice(path, incarnation, start, limit)
            return await self._read_in_thread(entity, start, limit)

    async def _read_in_thread(self, entity: Stored, start: int, limit: int) -> Slice:
        head, saved, unsaved = entity.head, entity.saved, entity.unsaved
        in_file = min(limit, saved - start)
        rest = b""
        if start + limit > saved and unsaved is not None:
            rest = unsaved.read(saved, start + limit - saved)
        reader, loop = self._reader, asyncio.get_running_loop()
        offset = start - head.start
        file = reader.begin(entity.number)
        unverified = reader.unverified(entity, offset, in_file)
        reading = self._threads.submit(
            reader.read_from, file, entity.number, offset, in_file, unverified
        )
        # A thread reads on although its caller was cancelled; the file stays open as long.
        reading.add_done_callback(lambda _: loop.call_soon_threadsafe(reader.end, file))
        data = await asyncio.wrap_future(reading)
        reader.verified(entity, unverified)
        return Slice(head, data + rest if rest else data)
