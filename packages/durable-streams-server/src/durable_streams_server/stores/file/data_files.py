"""The files of the streams' bytes, one an incarnation: written and synced.

A file is named by its entity's number, which is never given again, and begins with the byte at the
entity's ``start``. Few files are open at once.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

from durable_streams_server.stores.file.directory import STREAMS, UNSYNCED
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.errors import (
    NO_DESCRIPTOR,
    WriteFailedError,
)
from durable_streams_server.stores.file.sums import Sums, extend

Result = TypeVar("Result")

_PER_DIRECTORY: Final = 4096
ONE_BY_ONE: Final = 64
"""Up to so many files are synced one by one."""


def file_name(number: int) -> str:
    return f"{STREAMS}/{number // _PER_DIRECTORY:x}/{number:x}"


def file_numbers(disk: Disk) -> Iterable[int]:
    """The numbers of all entities that have a file."""
    for directory in disk.names(STREAMS):
        for name in disk.names(f"{STREAMS}/{directory}"):
            try:
                number = int(name, 16)
            except ValueError:
                continue
            if file_name(number) == f"{STREAMS}/{directory}/{name}":
                yield number


class Write(NamedTuple):
    """Bytes to be put into a file; ``sums`` are those of the file before them."""

    number: int
    offset: int
    data: bytearray
    sums: Sums


class Written(NamedTuple):
    """The new sums of the files whose writes were made, and what stopped the rest."""

    sums: list[Sums]
    error: OSError | MemoryError | None


class FileWriter:
    """Writes and syncs stream files. Not for two threads at once."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._directories: set[str] = set()
        # Not a set: the garbage collector looks through a set of millions in each of its rounds,
        # and skips a dictionary of numbers.
        self._changed: dict[int, None] = {}
        self.distrusted = disk.file_size(UNSYNCED) is not None
        """A sync failed, and what the files seem to hold may not be on the disk."""

    def write(self, writes: Sequence[Write]) -> Written:
        """Make some writes, in order, up to one that fails."""
        sums: list[Sums] = []
        for each in writes:
            try:
                self._put(each)
            except (OSError, MemoryError) as error:
                return Written(sums, error)
            sums.append(extend(each.sums, each.offset, each.data))
        return Written(sums, None)

    def changed(self, numbers: Iterable[int]) -> None:
        """Count files as not synced."""
        self._changed.update(dict.fromkeys(numbers))

    def remove(self, numbers: Sequence[int]) -> None:
        """Unlink the files that there are of these entities."""
        for number in numbers:
            self._changed.pop(number, None)
            with suppress(FileNotFoundError):
                self._disk.unlink(file_name(number))

    def cut(self, number: int, length: int) -> None:
        """Shorten a file to what is proven."""
        fd = self._disk.open(file_name(number), write=True)
        try:
            self._disk.truncate(fd, length)
        finally:
            self._disk.close(fd)
        self._changed[number] = None

    def sync(self) -> None:
        """Make everything written so far durable.

        Raises ``OSError`` if a file could not be opened for it, which may be repeated, and
        :class:`WriteFailedError` if the sync failed, which may not: from then on the system shows
        as written what is not on the disk. A mark says so to the next start, which then trusts the
        journal and not what it reads.
        """
        try:
            self._sync()
        except WriteFailedError:
            with suppress(OSError):
                self._disk.close(self._disk.open(UNSYNCED, create=True, write=True))
            raise
        if self.distrusted:
            self._disk.unlink(UNSYNCED)
            self.distrusted = False

    def _sync(self) -> None:
        changed = self._changed
        if not changed:
            return
        if len(changed) <= ONE_BY_ONE or not _sure(self._disk.sync_everything):
            for number in changed:
                self._sync_file(number)
            for directory in [*sorted({_directory(number) for number in changed}), STREAMS]:
                _sure(lambda directory=directory: self._disk.sync_directory(directory))  # type: ignore[misc]
        changed.clear()

    def _sync_file(self, number: int) -> None:
        fd = self._disk.open(file_name(number))
        try:
            self._disk.sync(fd)
        except OSError as error:
            raise WriteFailedError(unsure=False) from error
        finally:
            self._disk.close(fd)

    def _put(self, write: Write) -> None:
        disk = self._disk
        directory = _directory(write.number)
        if directory not in self._directories:
            disk.make_directory(directory)
            self._directories.add(directory)
        self._changed[write.number] = None
        fd = disk.open(file_name(write.number), create=True, write=True)
        try:
            disk.write(fd, [write.data], write.offset)
        finally:
            disk.close(fd)


def _sure(sync: Callable[[], Result]) -> Result:
    """Sync what has to be opened for it first; an error of that is not one of the sync."""
    try:
        return sync()
    except OSError as error:
        if error.errno in NO_DESCRIPTOR:
            raise
        raise WriteFailedError(unsure=False) from error


def _directory(number: int) -> str:
    return f"{STREAMS}/{number // _PER_DIRECTORY:x}"
