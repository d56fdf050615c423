"""Gathering commits into a group: each is let in if its guard holds after those before it.

The table holds what is durable. A second commit to a path within one group is checked against a
copy of the entity with the first one made; that is rare, as the engine sends one at a time.
"""

from collections import deque
from typing import Final

import msgspec

from durable_streams_core.entities import (
    DELETED,
    Applied,
    Commit,
    Conflicted,
    Delta,
    Outcome,
    Refused,
)
from durable_streams_core.offsets import later_timeline
from durable_streams_server.stores.file.data_files import DirectSums
from durable_streams_server.stores.file.pending import (
    OPEN,
    AnyPending,
    PendingAppend,
    PendingCommits,
)
from durable_streams_server.stores.file.records import Entry, InFile, entry_of
from durable_streams_server.stores.file.sums import Sums
from durable_streams_server.stores.file.write_behind import Stored
from durable_streams_server.stores.table import Recent, Table

GROUP_COMMITS: Final = 1024
GROUP_BYTES: Final = 16 * 1024 * 1024
DIRECT: Final = 256 * 1024
"""Data of so many bytes is written once, to its data file, where that is possible."""


class Staged(msgspec.Struct, eq=False, gc=False):
    """A commit that was let in: where its outcome goes, and the number of its entity after it.

    ``entry`` is what the journal will hold of it. ``sums`` are those of the data file with its
    data, once that was written directly.
    """

    outcomes: list[Outcome]
    place: int
    commit: Commit
    number: int
    entry: Entry
    sums: Sums | None = None

    def written(self, sums: DirectSums) -> None:
        """Its data is in the file, where the entry names it."""
        self.sums = after = sums.after
        completed = after.full[len(sums.before.full) :]
        data = InFile(len(self.commit.delta.data), completed, after.rest)
        self.entry = (*self.entry[:3], data, *self.entry[4:])


class Overlay:
    """A path's entity as it will be after the commits of a group that were let in so far."""

    __slots__ = ("staged", "table")

    def __init__(self, table: Table[Stored]) -> None:
        self.table = table
        self.staged: dict[str, Staged] = {}
        """Those commits, by their ids."""

    def add(self, staged: Staged) -> None:
        commit = staged.commit
        self.staged[commit.id] = staged
        self.table.apply(commit.path, commit.delta)
        entity = self.table.entities.get(commit.path)
        if entity is not None:
            entity.number = staged.number


class CommitGroup:
    """What goes to the journal in one write. ``numbers`` is the next new entity's.

    ``direct`` has the commits whose data goes straight to its data file: that of at least
    ``DIRECT`` bytes, with ``may_be_direct``.
    """

    def __init__(
        self, table: Table[Stored], recent: Recent, numbers: int, *, may_be_direct: bool
    ) -> None:
        self._table = table
        self._recent = recent
        self.numbers = numbers
        self.direct: list[Staged] = []
        self._may_be_direct = may_be_direct
        self.taken: list[AnyPending] = []
        self.staged: list[Staged] = []
        self.appends: dict[str, PendingAppend] = {}
        """Appends that were let in without a commit, by path."""
        self._append_entries: list[Entry] = []
        self.size = 0
        self.urgent = False
        """Only frees room, and may use the room reserved for that."""
        self.waited = False
        """It met a full disk, and waited for a checkpoint to make room."""
        self._last_timeline = table.last_timeline
        self._first: dict[str, Staged] = {}
        self._overlays: dict[str, Overlay] = {}
        self._repeated: list[tuple[list[Outcome], int, Staged]] = []
        self._resting: list[tuple[list[Outcome], int]] = []

    def gather(self, queue: deque[AnyPending]) -> None:
        """Take from the queue what fits. An append is alone in a group for its path."""
        first, appends = self._first, self.appends
        while queue and len(self.staged) + len(appends) < GROUP_COMMITS and self.size < GROUP_BYTES:
            pending = queue[0]
            if type(pending) is PendingAppend:
                if pending.path in appends or pending.path in first:
                    return
                self._add_append(pending)
                self.taken.append(queue.popleft())
                continue
            assert type(pending) is PendingCommits
            if appends and any(commit.path in appends for commit in pending.commits):
                return
            self.taken.append(queue.popleft())
            outcomes = pending.outcomes
            for commit in pending.commits:
                if commit.path in self._first:
                    outcomes.append(self._add_on_top(commit, outcomes))
                else:
                    outcomes.append(self._add(commit, outcomes, self._table))

    def _add_append(self, pending: PendingAppend) -> None:
        entity = self._table.entities.get(pending.path)
        if entity is None or not pending.holds(entity):
            facts = None if entity is None else entity.facts(tuple(pending.facts.fields))
            pending.outcome = Conflicted(facts)
            return
        self.appends[pending.path] = pending
        self._append_entries.append(pending.entry(entity.number))
        self.size += len(pending.data)

    def _add(self, commit: Commit, outcomes: list[Outcome], table: Table[Stored]) -> Outcome:
        repeated = self._recent.get(commit.id)
        if repeated is not None:
            return repeated
        conflict = table.check(commit)
        if conflict is not None:
            return conflict
        if commit.delta.create is not None:
            commit = self._with_timeline(commit)
        path, delta = commit.path, commit.delta
        entity = table.entities.get(path)
        number = position = removed = 0
        if entity is not None:
            number, position = entity.number, entity.head.tail
            if delta.remove:
                removed = number
        if delta.create is not None:
            number, position = self.numbers, delta.create.tail
            self.numbers += 1
        elif not number:
            return Applied(0)
        entry = entry_of(commit, number, position, removed)
        staged = Staged(outcomes, len(outcomes), commit, number, entry)
        first = self._first.setdefault(path, staged) is staged
        # A second commit to a path goes on behind bytes that no file can have yet.
        if first and self._may_be_direct and len(delta.data) >= DIRECT:
            self.direct.append(staged)
        self.staged.append(staged)
        self.size += len(delta.data)
        return OPEN

    def _with_timeline(self, commit: Commit) -> Commit:
        """A commit that creates, with the timeline of its entity written down in it."""
        delta = commit.delta
        head = delta.create
        assert head is not None
        if delta.timeline is not None:
            timeline = later_timeline(delta.timeline, self._last_timeline)
            head = msgspec.structs.replace(head, timeline=timeline)
            delta = msgspec.structs.replace(delta, create=head, timeline=None)
            commit = msgspec.structs.replace(commit, delta=delta)
        self._last_timeline = max(self._last_timeline, head.timeline)
        return commit

    def _add_on_top(self, commit: Commit, outcomes: list[Outcome]) -> Outcome:
        path = commit.path
        overlay = self._overlays.get(path)
        if overlay is None:
            overlay = self._overlays[path] = Overlay(Table(Stored))
            entity = self._table.entities.get(path)
            if entity is not None:
                overlay.table.entities[path] = entity.copy()
            overlay.add(self._first[path])
        earlier = overlay.staged.get(commit.id)
        if earlier is not None:
            self._repeated.append((outcomes, len(outcomes), earlier))
            return OPEN
        before = len(self.staged)
        outcome = self._add(commit, outcomes, overlay.table)
        if len(self.staged) > before:
            overlay.add(self.staged[-1])
        else:
            # It rests on commits that may yet fail.
            self._resting.append((outcomes, len(outcomes)))
        return outcome

    @property
    def holds_any(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.staged or self.appends)

    @property
    def entries(self) -> list[Entry]:
        """The journal's entries, one a change."""
        return [*[staged.entry for staged in self.staged], *self._append_entries]

    @property
    def large(self) -> list[bytes]:
        """The data that stands behind the entries, in their order."""
        return [staged.commit.delta.data for staged in self.staged if type(staged.entry[3]) is int]

    def settle_repeated(self) -> None:
        """Give resends within the group what the first try came to."""
        for outcomes, index, staged in self._repeated:
            outcomes[index] = staged.outcomes[staged.place]

    def fail(self, outcome: Outcome) -> None:
        """Give this outcome to every change of the group."""
        for pending in self.appends.values():
            pending.outcome = outcome
        self.appends, self._append_entries = {}, []
        for staged in self.staged:
            staged.outcomes[staged.place] = outcome
        for outcomes, index in self._resting:
            outcomes[index] = outcome
        self.settle_repeated()
        self.staged = []

    def keep_freeing(self, refused: Refused) -> bool:
        """Refuse the commits that free no room; returns whether any are left, which may use the
        reserve.
        """
        kept = [
            staged
            for staged in self.staged
            if _frees(staged.commit.delta) and staged.commit.path not in self._overlays
        ]
        self.fail(refused)
        self.staged = kept
        self.direct = []
        self.urgent = True
        return bool(kept)


def _frees(delta: Delta) -> bool:
    if delta.data or delta.create is not None:
        return False
    dropped = bool(delta.fields) and not any(delta.fields.values())
    return delta.remove or delta.state == DELETED or dropped
