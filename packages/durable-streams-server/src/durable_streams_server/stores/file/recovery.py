"""Opens a directory after a crash or a clean stop.

Recovery has three steps, each in a module of its own: `replay` rebuilds the entities from snapshot
and journal, `proof` compares the data files with them, and `settling` makes the directory hold what
was found. The first two only read. Damage is refused with its position, unless it is to be set
aside: then it goes to quarantine, and recovery begins again without it.
"""

import ctypes
import time
from contextlib import suppress

from durable_streams_server.stores.file.data_files import FileWriter, file_name, file_numbers
from durable_streams_server.stores.file.directory import JOURNAL
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.journal_reader import CorruptionError
from durable_streams_server.stores.file.proof import Proof
from durable_streams_server.stores.file.quarantine import Quarantine
from durable_streams_server.stores.file.replay import Replay
from durable_streams_server.stores.file.report import Report
from durable_streams_server.stores.file.settling import Unsaved, settle
from durable_streams_server.stores.file.snapshot import snapshot_names
from durable_streams_server.stores.file.write_behind import Stored
from durable_streams_server.stores.table import Table


class Recovery:
    """The content of a directory, read and proven; :meth:`settle` completes what a crash left."""

    def __init__(self, disk: Disk, store: str, *, set_aside: bool = False) -> None:
        """Work out what there is.

        Raises :class:`CorruptionError`, having changed nothing, for damage of the snapshot or the
        journal; damaged data files are only listed in ``damaged``. With ``set_aside`` damage goes
        to quarantine instead, and ``report`` says what that was.
        """
        started = time.monotonic()
        self._disk = disk
        self._store = store
        self._set_aside = set_aside
        self._quarantine = Quarantine(disk)
        self.report = Report()
        self.files = FileWriter(disk)
        self.unsaved: list[Unsaved] = []
        """What data files lack of the journal's bytes because the disk is full, and from where."""
        self._replay, self._proof = self._read()
        self.damaged = self._proof.damaged
        """Data files that do not hold what is proven."""
        replay = self._replay
        self.journal = replay.journal
        self.recent = replay.recent
        self.numbers = replay.numbers
        self.floor = replay.floor
        """The time last recorded."""
        self.sequence = max(replay.through, replay.journal.last) + 1
        """The number of the next group."""
        self.table: Table[Stored] = Table(Stored)
        self.table.last_timeline = replay.last_timeline
        for path, entity in replay.paths.items():
            self.table.put(path, entity)
        report = self.report
        report.set_aside.extend(replay.problems)
        report.groups, report.commits = replay.groups, replay.commits
        report.streams = len(replay.paths)
        report.torn_bytes = replay.journal.tail.torn if replay.journal.tail else 0
        report.seconds = time.monotonic() - started

    def lacks(self, number: int) -> bool:
        """Whether the entity's file has yet to be completed from the journal."""
        return number in self._proof.incomplete

    def settle(self) -> None:
        """Make the directory hold what was loaded, and no more."""
        proof, report = self._proof, self.report
        # Where something was set aside, files of no entity may hold what was lost.
        quarantine = self._quarantine if report.set_aside else None
        self.unsaved = settle(self._disk, self._replay, proof, self.files, quarantine)
        report.rewritten_files = len(proof.incomplete)
        report.cut_files = len(proof.too_long)
        report.removed_files = len(proof.unowned)
        self._replay.release()
        give_back_memory()

    def _read(self) -> tuple[Replay, Proof]:
        """Replay and prove, again after each damage that was set aside."""
        dropped: set[int] = set()
        sound: dict[int, int] = {}
        while True:
            try:
                replay = Replay(self._disk, self._store, dropped=dropped, forgiving=self._set_aside)
            except CorruptionError as error:
                if not self._set_aside:
                    raise
                self._quarantine_damage(error)
                continue
            proof = Proof(
                self._disk,
                replay,
                distrusted=self.files.distrusted,
                thorough=self._set_aside,
                sound=sound,
            )
            if not self._set_aside or not proof.damaged:
                return replay, proof
            for damage in proof.damaged:
                dropped.add(damage.number)
                path, _ = replay.by_number[damage.number]
                self._quarantine_file(damage, path)

    def _quarantine_file(self, damage: CorruptionError, path: str) -> None:
        """Take a stream's damaged file out of the way."""
        if self._disk.file_size(damage.name) is not None:
            self._quarantine.move(damage.name)
        self._report_damage(f"the stream {path!r}", damage)

    def _quarantine_damage(self, damage: CorruptionError) -> None:
        """Take damage of snapshot or journal, and what cannot be understood without it, away."""
        quarantine = self._quarantine
        if damage.baseless:
            for name in snapshot_names(self._disk):
                quarantine.move(name)
            for name in self._disk.names(JOURNAL):
                quarantine.move(f"{JOURNAL}/{name}")
            for number in list(file_numbers(self._disk)):
                quarantine.move(file_name(number))
            self._report_damage("everything", damage)
            return
        short = damage.name.rpartition("/")[2]
        for name in self._disk.names(JOURNAL):
            if name > short or (name == short and not damage.position):
                quarantine.move(f"{JOURNAL}/{name}")
        if damage.position:
            quarantine.cut(damage.name, damage.position)
        self._report_damage(f"the journal from byte {damage.position} of {damage.name} on", damage)

    def _report_damage(self, what: str, damage: CorruptionError) -> None:
        directory = self._quarantine.directory
        self.report.set_aside.append(f"{what}, because {damage.problem}; see {directory}")


def give_back_memory() -> None:
    """Return to the system what was needed for a while only, where the C library is asked to."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
