"""The file layer: every touch of the disk that the file store makes goes through a :class:`Disk`.

It is small so that a test can put a disk in its place that forgets, tears and reorders whatever was
not synced. Names are relative to the store's directory. Errors are ``OSError``, as the system gives
them.
"""

import ctypes
import errno
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from durable_streams_server.stores.file.descriptors import SpareDescriptors

Buffer = bytes | bytearray | memoryview

_MAX_PIECES: Final = 1024  # IOV_MAX of Linux and macOS


class Disk(ABC):
    """The operations on a directory that the store needs."""

    @abstractmethod
    def open(self, name: str, *, create: bool = False, write: bool = False) -> int:
        """A descriptor of a file. ``create`` makes it if it is not there."""

    @abstractmethod
    def close(self, fd: int) -> None: ...

    @abstractmethod
    def size(self, fd: int) -> int: ...

    @abstractmethod
    def read(self, fd: int, position: int, limit: int) -> bytes:
        """At most ``limit`` bytes, fewer only at the end of the file."""

    @abstractmethod
    def write(self, fd: int, pieces: Sequence[Buffer], position: int) -> None:
        """Write all the pieces one after another; an error may leave any part of them."""

    @abstractmethod
    def truncate(self, fd: int, length: int) -> None: ...

    @abstractmethod
    def sync(self, fd: int) -> None:
        """Make a file's bytes and length survive a loss of power. Never call again after an error:
        the system forgets what it could not write, and a second success means nothing.
        """

    @abstractmethod
    def sync_directory(self, name: str) -> None:
        """Make the names in a directory survive a loss of power."""

    @abstractmethod
    def sync_everything(self) -> bool:
        """Sync all files and names at once; False where the system has no such call."""

    @abstractmethod
    def rename(self, old: str, new: str) -> None:
        """Put a file in the place of another, at once."""

    @abstractmethod
    def unlink(self, name: str) -> None: ...

    @abstractmethod
    def make_directory(self, name: str) -> None:
        """Make a directory, unless it is there."""

    @abstractmethod
    def names(self, directory: str) -> list[str]:
        """The names in a directory, in any order; nothing if there is no such directory."""

    @abstractmethod
    def file_size(self, name: str) -> int | None:
        """The length of a file, None where there is none."""

    @abstractmethod
    def free_bytes(self) -> int:
        """How many bytes this user may still write; raises ``OSError`` where nothing may be."""

    @abstractmethod
    def lock(self, name: str, *, write: bool = True) -> Callable[[], None] | None:
        """Lock a file against other processes and return what unlocks it, None if it is locked.

        To read only, against those that write.
        """

    @abstractmethod
    def spare_descriptors(self, count: int) -> None:
        """Hold so many descriptors from now on, for when no others are free; 0 lets them go."""


class LocalDisk(Disk):
    """A directory of this machine. Needs a POSIX system."""

    def __init__(self, root: str | Path) -> None:
        self.root = os.fspath(root)
        # macOS has no fdatasync, and its fsync syncs the data too.
        self._fdatasync = _to_the_platter(getattr(os, "fdatasync", os.fsync))
        self._fsync = _to_the_platter(os.fsync)
        self._syncfs = _syncfs()
        self._spare = SpareDescriptors(self.root)

    def _path(self, name: str) -> str:
        return os.path.join(self.root, name) if name else self.root  # noqa: PTH118 - called often

    def open(self, name: str, *, create: bool = False, write: bool = False) -> int:
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT
        return self._open(self._path(name), flags)

    def _open(self, path: str, flags: int) -> int:
        return self._spare.use(lambda: os.open(path, flags, 0o640))

    def close(self, fd: int) -> None:
        self._spare.close(fd)

    def spare_descriptors(self, count: int) -> None:
        self._spare.hold(count)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def read(self, fd: int, position: int, limit: int) -> bytes:
        data = os.pread(fd, limit, position)
        if len(data) == limit or not data:
            return data
        parts = [data]
        done = len(data)
        while done < limit and data:
            data = os.pread(fd, limit - done, position + done)
            parts.append(data)
            done += len(data)
        return b"".join(parts)

    def write(self, fd: int, pieces: Sequence[Buffer], position: int) -> None:
        for begin in range(0, len(pieces), _MAX_PIECES):
            some = pieces[begin : begin + _MAX_PIECES]
            total = sum(map(len, some))
            written = os.pwritev(fd, some, position)
            if written < total:
                rest = memoryview(b"".join(some))
                while written < total:
                    written += os.pwrite(fd, rest[written:], position + written)
            position += total

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def sync(self, fd: int) -> None:
        self._fdatasync(fd)

    def sync_directory(self, name: str) -> None:
        fd = self._open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._fsync(fd)
        finally:
            self.close(fd)

    def sync_everything(self) -> bool:
        if self._syncfs is None:
            return False
        fd = self._open(self.root, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self._syncfs(fd) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), self.root)
        finally:
            self.close(fd)
        return True

    def rename(self, old: str, new: str) -> None:
        os.replace(self._path(old), self._path(new))  # noqa: PTH105

    def unlink(self, name: str) -> None:
        os.unlink(self._path(name))  # noqa: PTH108

    def make_directory(self, name: str) -> None:
        os.makedirs(self._path(name), 0o750, exist_ok=True)  # noqa: PTH103

    def names(self, directory: str) -> list[str]:
        try:
            return self._spare.use(lambda: os.listdir(self._path(directory)))  # noqa: PTH208
        except FileNotFoundError:
            return []
        finally:
            self._spare.replenish()

    def file_size(self, name: str) -> int | None:
        try:
            return os.stat(self._path(name)).st_size  # noqa: PTH116
        except FileNotFoundError:
            return None

    def free_bytes(self) -> int:
        found = os.statvfs(self.root)
        if found.f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), self.root)
        # Some file systems do not know how large they are.
        return found.f_bavail * found.f_frsize if found.f_blocks else sys.maxsize

    def lock(self, name: str, *, write: bool = True) -> Callable[[], None] | None:
        import fcntl

        flags = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
        fd = os.open(self._path(name), flags | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError:
            os.close(fd)
            raise
        return lambda: os.close(fd)


_NOT_OFFERED: Final = frozenset((errno.ENOTSUP, errno.EINVAL, errno.ENOTTY))
"""How a file system says that it has no ``F_FULLFSYNC``, as those of networks do."""


def _to_the_platter(sync: Callable[[int], None]) -> Callable[[int], None]:
    """A sync that a loss of power does not undo.

    On macOS ``fsync`` ends in the drive's cache, which ``F_FULLFSYNC`` empties as well. Where the
    file system refuses to do so, nothing has been synced yet and ``sync`` is what there is. Every
    other error is a failed sync, and never followed by a second one.
    """
    try:
        import fcntl

        command: int = fcntl.F_FULLFSYNC  # type: ignore[attr-defined,unused-ignore]
    except (ImportError, AttributeError):
        return sync

    def sync_fully(fd: int) -> None:
        try:
            fcntl.fcntl(fd, command)
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise
            sync(fd)

    return sync_fully


def _syncfs() -> Callable[[int], int] | None:
    """The system's ``syncfs``, which reports failed writes since Linux 5.8."""
    try:
        function: Callable[[int], int] = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError, TypeError):
        return None
    return function
