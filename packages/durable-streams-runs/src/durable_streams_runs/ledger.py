"""The ledger: what the records of the registry add up to. It does no I/O.

Every process folds the same records in the same order, so all have the same ledger.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from durable_streams_runs.records import (
    Beat,
    Drop,
    Ended,
    Entry,
    Forget,
    Join,
    Leave,
    Member,
    Record,
    Snapshot,
    Start,
    Take,
)
from durable_streams_runs.states import End

MAX_RUNS: Final = 100_000
"""Running runs of a service."""
MAX_ARGS_BYTES: Final = 16 * 1024 * 1024
"""Arguments of all running runs that can be restarted, as JSON."""
MAX_ENDED: Final = 1_000
"""Ended runs that the ledger remembers; the streams of older ones still tell how they ended."""
MISSED_BEATS: Final = 4
"""A worker is dead when another one has seen this many of its own beats since its last record."""


class Ledger:
    """Workers, running runs and the latest ended ones, by their ids."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.entries: dict[str, Entry] = {}
        self.ended: dict[str, End] = {}
        self.started = 0
        """How many runs the service has started."""
        self.args_bytes = 0
        """Bytes of the arguments of all running runs, as JSON."""
        self._silence: dict[str, dict[str, int]] = {}
        """For each worker, how many beats of each other one came since its own last record."""

    def apply(self, record: Record) -> bool:
        """Fold the next record in; False if it changes nothing, because it is late or too late."""
        if isinstance(record, Snapshot):
            self._replace(record)
            return True
        member = self.members.get(record.w)
        if isinstance(record, Join):
            return member is None and self._join(record)
        if member is None or record.n <= member.n:
            return False
        member.n = record.n
        self._silence.pop(record.w, None)
        match record:
            case Beat():
                self._count(record.w)
                return True
            case Start():
                return self._start(record)
            case Ended():
                return self._end(record)
            case Drop():
                return self._drop(record)
            case Forget(id=run_id):
                return self.ended.pop(run_id, None) is not None
            case Leave():
                return self._leave(member)
            case Take():
                return self._take(record)
        return False

    def owned_by(self, worker: str) -> list[Entry]:
        """The runs of a worker."""
        return [entry for entry in self.entries.values() if entry.worker == worker]

    def is_running(self, run_id: str, number: int) -> bool:
        """Whether the run of this id that is running is that of this number."""
        entry = self.entries.get(run_id)
        return entry is not None and entry.number == number

    def silent(self, observer: str) -> list[str]:
        """The workers that are dead to this one."""
        return [
            worker
            for worker, beats in self._silence.items()
            if beats.get(observer, 0) >= MISSED_BEATS
        ]

    def snapshot(self) -> Snapshot:
        """The record from which a ledger can be made anew."""
        return Snapshot(
            members=list(self.members.values()),
            entries=list(self.entries.values()),
            ended=[(run_id, end.status, end.error) for run_id, end in self.ended.items()],
            started=self.started,
        )

    def _replace(self, snapshot: Snapshot) -> None:
        self.started = snapshot.started
        self.members = {member.worker: member for member in snapshot.members}
        self.entries = {entry.id: entry for entry in snapshot.entries}
        self.args_bytes = sum(size_of(entry.args) for entry in self.entries.values())
        self.ended = {run_id: End(status, error) for run_id, status, error in snapshot.ended}
        for worker in [worker for worker in self._silence if worker not in self.members]:
            del self._silence[worker]

    def _join(self, record: Join) -> bool:
        self.members[record.w] = Member(
            worker=record.w, process=record.process, n=record.n, local=record.local
        )
        return True

    def _count(self, worker: str) -> None:
        for other in self.members:
            if other != worker:
                beats = self._silence.setdefault(other, {})
                beats[worker] = beats.get(worker, 0) + 1

    def _leave(self, member: Member) -> bool:
        member.left = True
        if not self.owned_by(member.worker):
            self._remove(member.worker)
        return True

    @property
    def is_full(self) -> bool:
        """Whether no more runs can be started."""
        return len(self.entries) >= MAX_RUNS or self.args_bytes >= MAX_ARGS_BYTES

    def _start(self, record: Start) -> bool:
        if record.id in self.entries or record.id in self.ended or self.is_full:
            return False
        self.args_bytes += size_of(record.args)
        self.started += 1
        self.entries[record.id] = Entry(
            id=record.id,
            number=self.started,
            worker=record.w,
            format=record.format,
            ttl=record.ttl,
            task=record.task,
            args=record.args,
        )
        return True

    def _end(self, record: Ended) -> bool:
        if not self.is_running(record.id, record.number):
            return False
        self._remove_entry(record.id)
        self.ended[record.id] = End(record.status, record.error)
        while len(self.ended) > MAX_ENDED:
            del self.ended[next(iter(self.ended))]
        return True

    def _drop(self, record: Drop) -> bool:
        if not self.is_running(record.id, record.number):
            return False
        if self.entries[record.id].worker != record.w:
            return False
        self._remove_entry(record.id)
        return True

    def _remove_entry(self, run_id: str) -> None:
        self.args_bytes -= size_of(self.entries.pop(run_id).args)

    def _take(self, record: Take) -> bool:
        if record.worker == record.w or record.worker not in self.members:
            return False
        for entry in self.owned_by(record.worker):
            entry.worker = record.w
            entry.owners += 1
        self._remove(record.worker)
        return True

    def _remove(self, worker: str) -> None:
        del self.members[worker]
        self._silence.pop(worker, None)
        for beats in self._silence.values():
            beats.pop(worker, None)


def size_of(args: dict[str, Any] | None) -> int:
    """Bytes of arguments as JSON."""
    return len(msgspec.json.encode(args)) if args else 0


def matching(ids: Iterable[str], prefix: str, after: str) -> list[str]:
    """The ids that begin with ``prefix`` and come after ``after``, in order."""
    return sorted(run_id for run_id in ids if run_id.startswith(prefix) and run_id > after)
