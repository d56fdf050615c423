"""A checkpoint: bring the stream files and a snapshot up to date, so that the journal before it can
go.

Nothing stops for it. It must not hold the event loop, so the snapshot is taken in slices; why
replaying over a newer slice changes nothing is told in `snapshot`.
"""

from collections.abc import Callable
from typing import Final

from durable_streams_server.stores.file.data_files import FileWriter
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.journal import Journal
from durable_streams_server.stores.file.snapshot import (
    Cover,
    Done,
    SnapshotEntity,
    SnapshotWriter,
    keep,
)
from durable_streams_server.stores.file.worker import Worker
from durable_streams_server.stores.file.write_behind import Stored, WriteBehind
from durable_streams_server.stores.table import Recent, Table

SLICE: Final = 256
"""Entities that are taken at once: about a millisecond."""


class Checkpoint:
    """One checkpoint of a store. ``seen`` gives the last group that the table holds."""

    def __init__(
        self,
        disk: Disk,
        cover: Cover,
        *,
        table: Table[Stored],
        recent: Recent,
        write_behind: WriteBehind,
        seen: Callable[[], int],
    ) -> None:
        self._disk = disk
        self._cover = cover
        self._table = table
        self._recent = recent
        self._write_behind = write_behind
        self._seen = seen
        self._paths = list(table.entities)

    async def run(
        self, journal_worker: Worker, files_worker: Worker, journal: Journal, files: FileWriter
    ) -> None:
        """Raises ``OSError`` or :class:`WriteFailedError` as the disk does; whatever was unfinished
        is of no consequence.
        """
        await self._write_behind.save_all()
        self._write_behind.proofs = {}
        try:
            await files_worker.run(files.sync)
            writer = await files_worker.run(lambda: SnapshotWriter(self._disk, self._cover))
            try:
                await self._write(writer, files_worker)
                recent = [
                    Done(commit_id, applied.tail, applied.timeline)
                    for commit_id, applied in self._recent.items()
                ]
                # The content of the slices must be in the journal before they count.
                await journal_worker.run(journal.flush)
                await files_worker.run(lambda: writer.finish(recent))
            except BaseException:
                files_worker.put(writer.abandon, lambda _, __: None)
                raise
        finally:
            self._write_behind.proofs = None
        await journal_worker.run(lambda: journal.drop(self._cover.through))

    async def _write(self, writer: SnapshotWriter, worker: Worker) -> None:
        for begin in range(0, len(self._paths), SLICE):
            slice_ = self._slice(begin)
            if slice_:
                seen = self._seen()
                await worker.run(lambda seen=seen, slice_=slice_: writer.add(seen, slice_))  # type: ignore[misc]

    def _slice(self, begin: int) -> list[SnapshotEntity]:
        entities = self._table.entities
        proofs = self._write_behind.proofs
        assert proofs is not None
        kept = []
        for path in self._paths[begin : begin + SLICE]:
            entity = entities.get(path)
            # An entity created since then is whole in the journal.
            if entity is not None and entity.number < self._cover.numbers:
                proven, sums = proofs.get(entity.number) or (entity.saved, entity.sums)
                kept.append(keep(path, entity, proven, sums))
        return kept
