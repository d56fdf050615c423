"""The way of commits into the journal: gather, write, make visible, one group at a time.

While a group is with the writer thread the next one gathers in the queue. The loop is woken once a
group. Whatever becomes visible was durable before.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from durable_streams_core.entities import Change, Refused, Unknown
from durable_streams_core.store import Watchers
from durable_streams_server.stores.file.commit_group import CommitGroup
from durable_streams_server.stores.file.data_file_reader import FileReader
from durable_streams_server.stores.file.data_files import FileWriter
from durable_streams_server.stores.file.direct import DirectData
from durable_streams_server.stores.file.errors import (
    DISK_FULL,
    WriteFailedError,
    is_full,
    is_passing,
    refusal_of,
    stopped_by,
)
from durable_streams_server.stores.file.journal import Journal
from durable_streams_server.stores.file.meter import FileMeter
from durable_streams_server.stores.file.pending import AnyPending
from durable_streams_server.stores.file.worker import Worker
from durable_streams_server.stores.file.write_behind import Stored, WriteBehind
from durable_streams_server.stores.table import Recent, Table

_log: Final = logging.getLogger(__name__)

HOLD_AT: Final = 8
"""Commits wait while the unsaved bytes in memory exceed this many times the wanted amount."""

CLOSED: Final = "The store is closed."


class Pipeline:
    """Takes commits in and makes them durable, then visible.

    ``written`` is called after each group. ``make_room`` is asked when the disk is full: it calls
    back once it has tried, or returns False. ``failure`` says why nothing is taken any more.
    """

    def __init__(
        self,
        *,
        table: Table[Stored],
        recent: Recent,
        journal: Journal,
        journal_worker: Worker,
        files: FileWriter,
        files_worker: Worker,
        reader: FileReader,
        now: Callable[[], int],
        numbers: int,
        save_bytes: int,
        may_be_direct: bool,
        watchers: Watchers,
        meter: FileMeter,
        written: Callable[[], None],
        make_room: Callable[[Callable[[], None]], bool],
    ) -> None:
        self._table = table
        self._recent = recent
        self._journal = journal
        self._journal_worker = journal_worker
        self._files = files
        self._files_worker = files_worker
        self._reader = reader
        self._now = now
        self._save_bytes = save_bytes
        self._may_be_direct = may_be_direct
        self._meter = meter
        self._written = written
        self._make_room = make_room
        self.write_behind = WriteBehind(files_worker, files, self._saved)
        self._direct = DirectData(table, files, files_worker, self.write_behind)
        self._watchers = watchers
        self._numbers = numbers
        self.numbers = numbers
        """The number of the next entity after the last group that the table holds."""
        self.sequence = journal.sequence - 1
        """The last group that the table holds."""
        self.failure: str | None = None
        self._queue: deque[AnyPending] = deque()
        self._busy = False
        self._held_back = False
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()

    def put(self, pending: AnyPending) -> None:
        """Take a change in; it hears what came of it."""
        if self.failure is not None or self._closing:
            pending.end_as(Refused("unavailable", self.failure or CLOSED))
            pending.tell()
            return
        self._queue.append(pending)
        if not self._busy:
            # What else comes in this turn of the loop shares the group.
            self._busy = True
            self._idle.clear()
            self._loop.call_soon(self._begin)

    async def close(self) -> None:
        """Take nothing more in, and return when what was taken in is done."""
        self._closing = True
        await self._idle.wait()

    def fail(self, reason: str) -> None:
        """Take nothing any more."""
        if self.failure is None:
            self.failure = reason
            _log.error("%s", reason)
        refused = Refused("unavailable", self.failure)
        while self._queue:
            pending = self._queue.popleft()
            pending.end_as(refused)
            _tell(pending)

    def _begin(self) -> None:
        if (
            self.write_behind.held >= HOLD_AT * self._save_bytes
            and self._queue
            and self.failure is None
        ):
            # Writing goes on once the files have caught up.
            self._held_back = True
            if not self.write_behind.busy:
                self.write_behind.save()
            return
        self._begin_group()

    def _begin_group(self, refused: Refused | None = None) -> None:
        """Write what is queued; if ``refused`` is given, only what frees room."""
        if self.failure is not None:
            self.fail(self.failure)
        while self._queue:
            may_be_direct = self._may_be_direct and self._direct.ready
            group = CommitGroup(
                self._table, self._recent, self._numbers, may_be_direct=may_be_direct
            )
            group.gather(self._queue)
            self._numbers = group.numbers
            if group.holds_any and (refused is None or group.keep_freeing(refused)):
                self._write(group)
                return
            group.settle_repeated()
            # After the group whose answers go out now, on which this one's outcomes rest.
            self._loop.call_soon(self._finish, group)
        self._busy = False
        self._idle.set()

    def _write(self, group: CommitGroup) -> None:
        if self.failure is not None:
            group.fail(Refused("unavailable", self.failure))
            self._finish(group)
            self._begin()
            return
        direct = group.direct
        if direct and direct[0].sums is None and not self.write_behind.busy:
            self._direct.write(direct, lambda error: self._write_or_refuse(group, error))
            return
        now = self._now()
        journal, entries, large, urgent = self._journal, group.entries, group.large, group.urgent

        def done(sequence: int | None, error: BaseException | None) -> None:
            if sequence is not None:
                self._apply(group, sequence)
            else:
                assert error is not None
                self._refuse(group, error)

        self._journal_worker.put(lambda: journal.append(now, entries, large, urgent=urgent), done)

    def _write_or_refuse(self, group: CommitGroup, error: BaseException | None) -> None:
        if error is None:
            self._write(group)
        else:
            self._refuse(group, error)

    def _apply(self, group: CommitGroup, sequence: int) -> None:
        table, write_behind, recent = self._table, self.write_behind, self._recent
        entities = table.entities
        watched = bool(self._watchers)
        changes: list[Change] = []
        removed: list[int] = []
        self.sequence = sequence
        self.numbers = group.numbers
        self._meter.groups.observe(len(group.staged) + len(group.appends))
        for staged in group.staged:
            commit = staged.commit
            path, delta = commit.path, commit.delta
            entity = entities.get(path)
            before = None if entity is None else entity.head
            if delta.remove and entity is not None:
                write_behind.drop(entity)
                removed.append(entity.number)
            applied = table.apply(path, delta)
            if delta.create is not None:
                entity = entities[path]
                entity.number = staged.number
            data = delta.data
            if data:
                assert entity is not None
                if staged.sums is not None:
                    entity.sums = staged.sums
                else:
                    write_behind.add(entity, applied.tail - len(data), data)
            if watched:
                changes.extend(table.changes(path, delta, before))
            recent.add(commit.id, applied)
            staged.outcomes[staged.place] = applied
        for path, pending in group.appends.items():
            entity = entities[path]
            write_behind.add(entity, entity.head.tail, pending.data)
            change = pending.apply_to(entity)
            if watched:
                changes.append(change)
        group.settle_repeated()
        if removed:
            self._remove_files(removed)
        if write_behind.held >= self._save_bytes and not write_behind.busy:
            write_behind.save()
        # The next group is on its way while the answers go out.
        self._begin()
        if changes:
            self._watchers.tell(changes)
        self._finish(group)
        self._written()

    def _refuse(self, group: CommitGroup, error: BaseException) -> None:
        if isinstance(error, WriteFailedError):
            reason = stopped_by(error)
            group.fail(Unknown(reason) if error.unsure else Refused("unavailable", reason))
            self.fail(reason)
        else:
            full = is_full(error)
            if full and not group.waited and self._make_room(lambda: self._write(group)):
                group.waited = True
                return
            self._direct.take_back(group.direct)
            if full and not group.urgent and group.keep_freeing(DISK_FULL):
                self._write(group)
                return
            refused = refusal_of(error)
            _log.warning("%s", refused.message, exc_info=None if is_passing(error) else error)
            group.fail(refused)
        self._finish(group)
        self._begin()

    def _finish(self, group: CommitGroup) -> None:
        for pending in group.taken:
            _tell(pending)

    def _remove_files(self, numbers: list[int]) -> None:
        for number in numbers:
            self._reader.forget(number)

        def removed(_: None, error: BaseException | None) -> None:
            if error is not None:
                _log.warning("a data file stays until the next start: %s", error)

        def flushed(_: None, error: BaseException | None) -> None:
            if error is not None:
                self.fail(stopped_by(error))
            else:
                self._files_worker.put(lambda: self._files.remove(numbers), removed)

        if self._journal.durable < self.sequence:
            # Else a loss of power could take back the removal, and not that of the file.
            self._journal_worker.put(self._journal.flush, flushed)
        else:
            flushed(None, None)

    def _saved(self, error: BaseException | None) -> None:
        refused = None
        if error is not None:
            refused = refusal_of(error)
            if not is_passing(error):
                self.fail(stopped_by(error))
        if self._held_back:
            self._held_back = False
            self._begin_group(refused)


def _tell(pending: AnyPending) -> None:
    try:
        pending.tell()
    except Exception:
        _log.exception("a completion failed")
