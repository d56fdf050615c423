"""The way of commits into the journal: gather, write, make visible, one batch at a time.

While a batch is with the writer thread the next one gathers in the queue. The loop is woken once a
batch. Whatever becomes visible was durable before.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from durable_streams_core.entities import Change, Commit, Outcome, Refused, Unknown
from durable_streams_core.store import Watchers
from durable_streams_server.stores.file.batches import Batch, Submission
from durable_streams_server.stores.file.data_file_reader import FileReader
from durable_streams_server.stores.file.data_files import FileWriter
from durable_streams_server.stores.file.errors import (
    DISK_FULL,
    WriteFailedError,
    is_full,
    is_passing,
    refusal_of,
    stopped_by,
)
from durable_streams_server.stores.file.journal import Journal
from durable_streams_server.stores.file.worker import Worker
from durable_streams_server.stores.file.write_behind import Contents, Stored
from durable_streams_server.stores.table import Recent, Table

_log: Final = logging.getLogger(__name__)

HOLD_AT: Final = 8
"""At so many times the unsaved bytes that are wanted in memory, commits wait for the files."""

CLOSED: Final = "The store is closed."


class Pipeline:
    """Takes commits in and makes them durable, then visible.

    ``written`` is called after each batch. ``make_room`` is asked when the disk is full: it calls
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
        self._written = written
        self._make_room = make_room
        self.contents = Contents(files_worker, files, self._saved)
        self.watchers = Watchers()
        self._numbers = numbers
        self.numbers = numbers
        """What the next entity's number would be after the last batch that the table holds."""
        self.sequence = journal.sequence - 1
        """The last batch that the table holds."""
        self.failure: str | None = None
        self._queue: deque[Submission] = deque()
        self._busy = False
        self._held_back = False
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()

    def submit(self, batch: Sequence[Commit], done: Callable[[Sequence[Outcome]], None]) -> None:
        if self.failure is not None or self._closing:
            done([Refused("unavailable", self.failure or CLOSED)] * len(batch))
            return
        self._queue.append(Submission(batch, done))
        if not self._busy:
            # What else comes in this turn of the loop shares the batch.
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
            submission = self._queue.popleft()
            _tell(submission, [refused] * len(submission.commits))

    def _begin(self) -> None:
        if (
            self.contents.held >= HOLD_AT * self._save_bytes
            and self._queue
            and self.failure is None
        ):
            # Written on when the files have caught up.
            self._held_back = True
            if not self.contents.busy:
                self.contents.save()
            return
        self._begin_batch()

    def _begin_batch(self, refused: Refused | None = None) -> None:
        """Write what is queued; if ``refused`` is given, only what frees room."""
        if self.failure is not None:
            self.fail(self.failure)
        while self._queue:
            batch = Batch(self._table, self._recent, self._numbers)
            batch.gather(self._queue)
            self._numbers = batch.numbers
            if batch.staged and (refused is None or batch.keep_freeing(refused)):
                self._write(batch)
                return
            batch.settle_repeated()
            self._finish(batch)
        self._busy = False
        self._idle.set()

    def _write(self, batch: Batch) -> None:
        if self.failure is not None:
            batch.fail(Refused("unavailable", self.failure))
            self._finish(batch)
            self._begin()
            return
        now = self._now()
        journal, entries, large, urgent = self._journal, batch.entries, batch.large, batch.urgent

        def done(sequence: int | None, error: BaseException | None) -> None:
            if sequence is not None:
                self._apply(batch, sequence)
            else:
                assert error is not None
                self._refuse(batch, error)

        self._journal_worker.put(lambda: journal.append(now, entries, large, urgent=urgent), done)

    def _apply(self, batch: Batch, sequence: int) -> None:
        table, contents, recent = self._table, self.contents, self._recent
        entities = table.entities
        watched = bool(self.watchers)
        changes: list[Change] = []
        removed: list[int] = []
        self.sequence = sequence
        self.numbers = batch.numbers
        for outcomes, index, commit, number in batch.staged:
            path, delta = commit.path, commit.delta
            entity = entities.get(path)
            before = None if entity is None else entity.head
            if delta.remove and entity is not None:
                contents.drop(entity)
                removed.append(entity.number)
            applied = table.apply(path, delta)
            if delta.create is not None:
                entity = entities[path]
                entity.number = number
            data = delta.data
            if data:
                assert entity is not None
                contents.add(entity, applied.tail - len(data), data)
            if watched:
                changes.extend(table.changes(path, delta, before))
            recent.add(commit.id, applied)
            outcomes[index] = applied
        batch.settle_repeated()
        if removed:
            self._remove_files(removed)
        if contents.held >= self._save_bytes and not contents.busy:
            contents.save()
        # The next batch is on its way while the answers go out.
        self._begin()
        if changes:
            self.watchers.tell(changes)
        self._finish(batch)
        self._written()

    def _refuse(self, batch: Batch, error: BaseException) -> None:
        if isinstance(error, WriteFailedError):
            reason = stopped_by(error)
            batch.fail(Unknown(reason) if error.unsure else Refused("unavailable", reason))
            self.fail(reason)
        else:
            if is_full(error):
                if not batch.waited and self._make_room(lambda: self._write(batch)):
                    batch.waited = True
                    return
                if not batch.urgent and batch.keep_freeing(DISK_FULL):
                    self._write(batch)
                    return
            refused = refusal_of(error)
            _log.warning("%s", refused.message, exc_info=None if is_passing(error) else error)
            batch.fail(refused)
        self._finish(batch)
        self._begin()

    def _finish(self, batch: Batch) -> None:
        for submission in batch.submissions:
            _tell(submission, submission.outcomes)

    def _remove_files(self, numbers: list[int]) -> None:
        for number in numbers:
            self._reader.forget(number)

        def done(_: None, error: BaseException | None) -> None:
            if error is not None:
                _log.warning("a data file stays until the next start: %s", error)

        self._files_worker.put(lambda: self._files.remove(numbers), done)

    def _saved(self, error: BaseException | None) -> None:
        refused = None
        if error is not None:
            refused = refusal_of(error)
            if not is_passing(error):
                self.fail(stopped_by(error))
        if self._held_back:
            self._held_back = False
            self._begin_batch(refused)


def _tell(submission: Submission, outcomes: Sequence[Outcome]) -> None:
    try:
        submission.done(outcomes)
    except Exception:
        _log.exception("a completion failed")
