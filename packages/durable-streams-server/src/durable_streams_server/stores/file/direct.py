"""Direct data: large data is written once, to its data file, and then the journal names it.

The order is what makes this durable. The data goes to the stream's file, behind any earlier bytes
that the file lacks. The file is synced, and its name if that is new. Only then the journal gets an
entry with the data's position, length and checksums. So

- a crash before the entry is durable leaves bytes in the file that no entry names, which are cut at
  the next start, and nobody was told that they are stored;
- an entry that is whole proves every byte of the file up to the end of its data, as a snapshot
  does: the bytes before it were synced with it, and a failed sync is followed by no other.
"""

from collections.abc import Callable, Sequence

from durable_streams_core.entities import Head
from durable_streams_server.stores.file.commit_group import Staged
from durable_streams_server.stores.file.data_files import DirectSums, DirectWrite, FileWriter
from durable_streams_server.stores.file.sums import NO_SUMS
from durable_streams_server.stores.file.worker import Worker
from durable_streams_server.stores.file.write_behind import Stored, WriteBehind
from durable_streams_server.stores.table import Table


class DirectData:
    """Writes the direct data of commit groups, one group at a time."""

    def __init__(
        self, table: Table[Stored], files: FileWriter, worker: Worker, write_behind: WriteBehind
    ) -> None:
        self._table = table
        self._files = files
        self._worker = worker
        self._write_behind = write_behind

    @property
    def ready(self) -> bool:
        """Whether the files worker would write it now, and not after a save or a checkpoint."""
        behind = self._write_behind
        return not behind.busy and behind.proofs is None

    def write(self, staged: Sequence[Staged], done: Callable[[BaseException | None], None]) -> None:
        """Write the data of some commits, and describe it in their entries. Not while a save is
        under way.
        """
        behind, files = self._write_behind, self._files
        entities = [self._appended_to(each) for each in staged]
        behind.take(entity for entity in entities if entity is not None)
        writes = [_write_of(each, entity) for each, entity in zip(staged, entities, strict=True)]

        def written(result: Sequence[DirectSums] | None, error: BaseException | None) -> None:
            sums = {} if result is None else dict(zip(staged, result, strict=True))
            behind.taken({each.number: of.before for each, of in sums.items()}, error)
            for each, of in sums.items():
                each.written(of)
            done(error)

        self._worker.put(lambda: files.write_direct(writes), written)

    def take_back(self, staged: Sequence[Staged]) -> None:
        """Take data out of its files again, because no entry will name it."""
        files = self._files
        lengths = [
            (each.number, each.entry[2] - self._head(each).start)
            for each in staged
            if each.sums is not None
        ]
        if lengths:
            self._worker.put(lambda: files.take_back(lengths), lambda _, __: None)

    def _head(self, staged: Staged) -> Head:
        create = staged.commit.delta.create
        return self._table.entities[staged.commit.path].head if create is None else create

    def _appended_to(self, staged: Staged) -> Stored | None:
        """The entity that a commit goes on with, None if it creates one."""
        commit = staged.commit
        return None if commit.delta.create is not None else self._table.entities[commit.path]


def _write_of(staged: Staged, entity: Stored | None) -> DirectWrite:
    data, create = staged.commit.delta.data, staged.commit.delta.create
    if entity is None:
        assert create is not None
        return DirectWrite(staged.number, create.tail - create.start, b"", data, NO_SUMS)
    unsaved = entity.unsaved
    earlier = b"" if unsaved is None else unsaved.leaving
    assert earlier is not None
    return DirectWrite(staged.number, entity.saved - entity.head.start, earlier, data, entity.sums)
