"""Opens the directory of a store: locks it, recovers what is in it, begins a journal segment."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from durable_streams_core.errors import StoreError
from durable_streams_server.stores.file.descriptors import SPARE
from durable_streams_server.stores.file.directory import identify, take
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.errors import WriteFailedError, is_full
from durable_streams_server.stores.file.journal import Journal, shorten
from durable_streams_server.stores.file.meter import FileMeter
from durable_streams_server.stores.file.recovery import Recovery
from durable_streams_server.stores.file.reserve import Reserve
from durable_streams_server.stores.file.worker import Worker

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of a file store."""

    path: str
    sync: bool
    set_aside: bool
    segment_bytes: int
    checkpoint_bytes: int
    save_bytes: int
    worker: Callable[[str], Worker]
    wall: Callable[[], int]
    monotonic: Callable[[], float]
    draw: Callable[[int], bytes]


class DirectoryLock:
    """The directory of a store as long as this process has it, with its spare descriptors."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._unlock: Callable[[], None] | None = None

    def take(self) -> None:
        """Raises :class:`StoreError` if the directory is another's, or in use."""
        self._unlock = take(self._disk, self._path)
        self._disk.spare_descriptors(SPARE)

    def unlock(self) -> None:
        """Release the lock; once or more."""
        if self._unlock is not None:
            self._unlock()
            self._unlock = None

    def release(self) -> None:
        """Close and release everything; once or more."""
        self._disk.spare_descriptors(0)
        self.unlock()


class Recovered(NamedTuple):
    """The content of a directory, and the journal to go on with."""

    store: str
    recovery: Recovery
    journal: Journal


def recover(disk: Disk, lock: DirectoryLock, settings: Settings, meter: FileMeter) -> Recovered:
    """Take the directory and recover it. Raises :class:`StoreError` saying what to do."""
    path = settings.path
    try:
        lock.take()
        store = identify(disk, path, lambda: settings.draw(16).hex())
        recovery = Recovery(disk, store, set_aside=settings.set_aside)
        if recovery.damaged:
            raise recovery.damaged[0]
        recovery.settle()
        journal = Journal(
            disk,
            bytes.fromhex(store),
            sync=settings.sync,
            segment_bytes=settings.segment_bytes,
            draw=settings.draw,
            ordinal=recovery.journal.next_ordinal,
            sequence=recovery.sequence,
            earlier=recovery.journal.segments(),
            meter=meter,
        )
        if not _begin(disk, journal, recovery.journal.unused):
            _log.warning("%s: the disk is full; streams can be read and deleted", path)
    except OSError as error:
        raise StoreError(
            f"The store in {path} cannot be opened: {error}. "
            "Make sure that the disk works, has room, and may be read and written by this user."
        ) from error
    except WriteFailedError as error:
        raise StoreError(
            f"The disk under {path} fails ({error.__cause__}); nothing can be stored there."
        ) from error
    return Recovered(store, recovery, journal)


def _begin(disk: Disk, journal: Journal, unused: Sequence[str]) -> bool:
    """Begin a segment in the place of unused ones, and take up room for a checkpoint; False if the
    disk lacks room for all of that.
    """
    reserve = Reserve(disk)
    try:
        try:
            journal.begin()
        except OSError as error:
            if not is_full(error):
                raise
            reserve.release()
            for name in unused:
                shorten(disk, name)
            journal.begin()
        for name in unused:
            disk.unlink(name)
    except OSError as error:
        # The first append begins it. Till then an unused one says how far the journal went.
        if not is_full(error):
            raise
    return reserve.take()
