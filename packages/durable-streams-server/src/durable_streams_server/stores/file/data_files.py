"""The files of the streams' bytes, one an incarnation: written and synced.

A file is named by its entity's number, which is never given again, and begins with the byte at the
entity's ``start``. Few files are open at once.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, TypeVar

from durable_streams_server.stores.file.directory import STREAMS, UNSYNCED
from durable_streams_server.stores.file.disk import Buffer, Disk
from durable_streams_server.stores.file.errors import (
    NO_DESCRIPTOR,
    WriteFailedError,
)
from durable_streams_server.stores.file.sums import Sums, extend

Result = TypeVar("Result")

_PER_DIRECTORY: Final = 4096
ONE_BY_ONE: Final = 64
"""Up to so many files are synced one by one."""
_NAMED: Final = 10_000
"""So many files are remembered to have durable names."""


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


class DirectWrite(NamedTuple):
    """Direct data, to be put into a file behind what of the stream's bytes is not there yet."""

    number: int
    offset: int
    unsaved: bytes | bytearray
    data: bytes
    sums: Sums


class DirectSums(NamedTuple):
    """The sums of a file before and after its direct data."""

    before: Sums
    after: Sums


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
        self._named: dict[int, None] = {}
        """Some of the files whose names are known to be durable."""
        self._failed: OSError | None = None
        """A sync failed: no later one means anything."""
        self.distrusted = disk.file_size(UNSYNCED) is not None
        """A sync failed, and what the files seem to hold may not be on the disk."""

    def write(self, writes: Sequence[Write]) -> Written:
        """Make some writes, in order, up to one that fails."""
        sums: list[Sums] = []
        for each in writes:
            try:
                self._put(each.number, [each.data], each.offset)
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
            self._named.pop(number, None)
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

    def write_direct(self, writes: Sequence[DirectWrite]) -> list[DirectSums]:
        """Put direct data into its files, durably. Raises as :meth:`sync` does.

        After an ``OSError`` or ``MemoryError`` the files are as before. A file is synced as a
        whole, so all of its bytes before the direct data are durable too.
        """
        self._require_no_failure()
        try:
            for each in writes:
                self._put(each.number, [each.unsaved, each.data], each.offset, sync=True)
            new = [each.number for each in writes if each.number not in self._named]
            if new:
                self._sync_names(new)
                if len(self._named) > _NAMED:
                    self._named.clear()
                self._named.update(dict.fromkeys(new))
        except (OSError, MemoryError):
            self.take_back([(each.number, each.offset) for each in writes])
            raise
        sums = []
        for each in writes:
            before = extend(each.sums, each.offset, each.unsaved)
            after = extend(before, each.offset + len(each.unsaved), each.data)
            sums.append(DirectSums(before, after))
        return sums

    def take_back(self, lengths: Iterable[tuple[int, int]]) -> None:
        """Cut files, or remove those without a byte left. What stays is cut at the next start."""
        for number, length in lengths:
            with suppress(OSError):
                if length:
                    self.cut(number, length)
                else:
                    self.remove([number])

    def sync(self) -> None:
        """Make everything written so far durable.

        Raises ``OSError`` if a file could not be opened for it, which may be repeated, and
        :class:`WriteFailedError` if the sync failed, which may not: from then on the system shows
        as written what is not on the disk. A mark says so to the next start, which then trusts the
        journal and not what it reads.
        """
        self._require_no_failure()
        changed = self._changed
        if changed:
            if len(changed) <= ONE_BY_ONE or not self._sure(self._disk.sync_everything):
                for number in changed:
                    self._sync_file(number)
                self._sync_names(changed)
            changed.clear()
        if self.distrusted:
            self._disk.unlink(UNSYNCED)
            self.distrusted = False

    def _sync_names(self, numbers: Iterable[int]) -> None:
        for directory in [*sorted({_directory(number) for number in numbers}), STREAMS]:
            self._sure(lambda directory=directory: self._disk.sync_directory(directory))  # type: ignore[misc]

    def _sync_file(self, number: int) -> None:
        fd = self._disk.open(file_name(number))
        try:
            self._sync_open(fd)
        finally:
            self._disk.close(fd)

    def _sync_open(self, fd: int) -> None:
        try:
            self._disk.sync(fd)
        except OSError as error:
            raise self._failure(error) from error

    def _sure(self, sync: Callable[[], Result]) -> Result:
        """Sync what has to be opened for it first; an error of that is not one of the sync."""
        try:
            return sync()
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                raise
            raise self._failure(error) from error

    def _require_no_failure(self) -> None:
        if self._failed is not None:
            raise WriteFailedError(unsure=False) from self._failed

    def _failure(self, error: OSError) -> WriteFailedError:
        """Leave the mark of a failed sync."""
        self._failed = error
        with suppress(OSError):
            self._disk.close(self._disk.open(UNSYNCED, create=True, write=True))
        return WriteFailedError(unsure=False)

    def _put(
        self, number: int, pieces: Sequence[Buffer], offset: int, *, sync: bool = False
    ) -> None:
        disk = self._disk
        directory = _directory(number)
        if directory not in self._directories:
            disk.make_directory(directory)
            self._directories.add(directory)
        if not sync:
            self._changed[number] = None
        fd = disk.open(file_name(number), create=True, write=True)
        try:
            disk.write(fd, pieces, offset)
            if sync:
                self._sync_open(fd)
        finally:
            disk.close(fd)


def _directory(number: int) -> str:
    return f"{STREAMS}/{number // _PER_DIRECTORY:x}"
