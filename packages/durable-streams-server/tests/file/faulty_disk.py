"""A disk in memory that behaves as badly as a real one may.

Data that was not synced may be lost in any part when the power goes: any subset of the sectors of a
write, torn at any byte, any length of a file between the old and the new, and any subset of the
names made, changed or removed in a directory. It can also fail: be full in the middle of a write,
or fail to sync, after which the system believes the bytes to be on the disk and they are not.
"""

import errno
import random
from collections.abc import Callable, Sequence

from durable_streams_server.stores.file.disk import Buffer, Disk

SECTOR = 512


class PowerLoss(BaseException):
    """The machine stops here."""


class File:
    """``content`` is what programs see, ``durable`` what is surely on the disk."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.durable = bytearray()
        self.pending: list[tuple[int, bytes] | int] = []
        """Writes (position, data) and truncations (length) since the last sync."""

    def sync(self) -> None:
        # Only what the system knows to be unwritten: see `forget`.
        for change in self.pending:
            if isinstance(change, int):
                _resize(self.durable, change)
            else:
                _put(self.durable, *change)
        self.pending = []

    def forget(self) -> None:
        """The effect of a failed sync: the system takes for written what is not."""
        self.pending = []

    def survive(self, rng: random.Random) -> None:
        content = bytearray(self.durable)
        mood = rng.choice(["nothing", "everything", "some", "some", "some"])
        for change in self.pending:
            if isinstance(change, int):
                if mood == "everything" or (mood == "some" and rng.random() < 0.5):
                    _resize(content, change)
            elif mood == "everything":
                _put(content, *change)
            elif mood == "some":
                for position, piece in _sectors(*change):
                    luck = rng.random()
                    if luck < 0.45:
                        _put(content, position, piece)
                    elif luck < 0.5:
                        _put(content, position, piece[: rng.randrange(len(piece) + 1)])
        self.content = content
        self.durable = content[:]
        self.pending = []


class Directory:
    def __init__(self) -> None:
        self.entries: dict[str, File | Directory] = {}
        self.durable: dict[str, File | Directory] = {}
        self.pending: list[Callable[[dict[str, File | Directory]], object]] = []

    def change(self, change: Callable[[dict[str, "File | Directory"]], object]) -> None:
        change(self.entries)
        self.pending.append(change)

    def sync(self) -> None:
        self.durable = dict(self.entries)
        self.pending = []

    def survive(self, rng: random.Random) -> None:
        keep = rng.choice([0.0, 0.5, 0.5, 1.0])
        for change in self.pending:
            if rng.random() < keep:
                change(self.durable)
        self.pending = []
        self.entries = dict(self.durable)
        for entry in self.entries.values():
            entry.survive(rng)

    def sync_all(self) -> None:
        self.sync()
        for entry in self.entries.values():
            if isinstance(entry, Directory):
                entry.sync_all()
            else:
                entry.sync()

    def forget_all(self) -> None:
        for entry in self.entries.values():
            if isinstance(entry, Directory):
                entry.forget_all()
            else:
                entry.forget()


class FaultyDisk(Disk):
    """``crash_in`` is the number of changes until the power goes, ``full_in`` until one write is
    stopped by a full disk, ``failing_in`` until one sync fails, ``short_in`` the number of steps
    until one finds no descriptor or no memory free, before anything is done; None for never.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.root = Directory()
        self._open: dict[int, File] = {}
        self._next = 3
        self.dead = False
        self.on_death: Callable[[], None] = lambda: None
        self.crash_in: int | None = None
        self.full_in: int | None = None
        self.failing_in: int | None = None
        self.short_in: int | None = None
        self.locked = False

    def power_off(self) -> None:
        """Lose what luck does not keep."""
        self.root.survive(self._rng)
        self.restart()

    def restart(self) -> None:
        """A process ended; the system lives on."""
        self._open = {}
        self.dead = self.locked = False
        self.crash_in = self.full_in = self.failing_in = self.short_in = None

    # Faults.

    def _alive(self) -> None:
        if self.dead:
            raise PowerLoss

    def _step(self) -> bool:
        """Count a change; True if it is the one within which the power goes."""
        self._alive()
        if self.crash_in is None:
            return False
        self.crash_in -= 1
        return self.crash_in < 0

    def _short_of(self, number: int) -> None:
        """Count a step that needs a descriptor or memory, and fail it if its turn has come."""
        self._alive()
        if self.short_in is not None:
            self.short_in -= 1
            if self.short_in < 0:
                self.short_in = None
                raise OSError(number, errno.errorcode[number])

    def _die(self) -> None:
        self.dead = True
        self.on_death()
        raise PowerLoss

    # Files.

    def _directory(self, name: str) -> Directory:
        node: File | Directory = self.root
        for part in name.split("/") if name else ():
            assert isinstance(node, Directory)
            if part not in node.entries:
                raise FileNotFoundError(errno.ENOENT, "no such directory", name)
            node = node.entries[part]
        assert isinstance(node, Directory)
        return node

    def _split(self, name: str) -> tuple[Directory, str]:
        directory, _, own = name.rpartition("/")
        return self._directory(directory), own

    def _file(self, name: str) -> File:
        directory, own = self._split(name)
        file = directory.entries.get(own)
        if not isinstance(file, File):
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        return file

    def open(self, name: str, *, create: bool = False, write: bool = False) -> int:
        self._short_of(errno.EMFILE)
        directory, own = self._split(name)
        if create and own not in directory.entries:
            last = self._step()
            file = File()
            directory.change(lambda entries: entries.__setitem__(own, file))
            if last:
                self._die()
        self._next += 1
        self._open[self._next] = self._file(name)
        return self._next

    def close(self, fd: int) -> None:
        if not self.dead:
            del self._open[fd]

    def size(self, fd: int) -> int:
        self._alive()
        return len(self._open[fd].content)

    def read(self, fd: int, position: int, limit: int) -> bytes:
        self._alive()
        return bytes(self._open[fd].content[position : position + limit])

    def write(self, fd: int, pieces: Sequence[Buffer], position: int) -> None:
        self._short_of(errno.ENOMEM)
        last = self._step()
        data = b"".join(bytes(piece) for piece in pieces)
        full = False
        if self.full_in is not None:
            self.full_in -= 1
            if self.full_in < 0:
                self.full_in = None
                full = True
        if last or full:
            data = data[: self._rng.randrange(len(data) + 1)]
        file = self._open[fd]
        if data:
            _put(file.content, position, data)
            file.pending.append((position, data))
        if last:
            self._die()
        if full:
            raise OSError(errno.ENOSPC, "no space left on device")

    def truncate(self, fd: int, length: int) -> None:
        last = self._step()
        file = self._open[fd]
        _resize(file.content, length)
        file.pending.append(length)
        if last:
            self._die()

    def sync(self, fd: int) -> None:
        file = self._open[fd]
        if self._step():
            if self._rng.random() < 0.5:
                file.sync()
            self._die()
        if self.failing_in is not None:
            self.failing_in -= 1
            if self.failing_in < 0:
                self.failing_in = None
                file.forget()
                raise OSError(errno.EIO, "input/output error")
        file.sync()

    def sync_directory(self, name: str) -> None:
        self._short_of(errno.ENFILE)
        directory = self._directory(name)
        if self._step():
            if self._rng.random() < 0.5:
                directory.sync()
            self._die()
        directory.sync()

    def sync_everything(self) -> bool:
        self._short_of(errno.EMFILE)
        if self._step():
            self._die()
        if self.failing_in is not None:
            self.failing_in -= 1
            if self.failing_in < 0:
                self.failing_in = None
                self.root.forget_all()
                raise OSError(errno.EIO, "input/output error")
        self.root.sync_all()
        return True

    def rename(self, old: str, new: str) -> None:
        last = self._step()
        file = self._file(old)
        old_directory, old_own = self._split(old)
        new_directory, new_own = self._split(new)

        def change(entries: dict[str, File | Directory]) -> None:
            entries.pop(old_own, None)
            entries[new_own] = file

        if old_directory is new_directory:
            old_directory.change(change)
        else:
            new_directory.change(lambda entries: entries.__setitem__(new_own, file))
            old_directory.change(lambda entries: entries.pop(old_own, None))
        if last:
            self._die()

    def unlink(self, name: str) -> None:
        last = self._step()
        self._file(name)
        directory, own = self._split(name)
        directory.change(lambda entries: entries.pop(own, None))
        if last:
            self._die()

    def make_directory(self, name: str) -> None:
        parent, own = self._split(name)
        if own in parent.entries:
            return
        last = self._step()
        made = Directory()
        parent.change(lambda entries: entries.__setitem__(own, made))
        if last:
            self._die()

    def names(self, directory: str) -> list[str]:
        self._short_of(errno.EMFILE)
        try:
            names = list(self._directory(directory).entries)
        except FileNotFoundError:
            return []
        self._rng.shuffle(names)
        return names

    def file_size(self, name: str) -> int | None:
        self._alive()
        try:
            return len(self._file(name).content)
        except FileNotFoundError:
            return None

    def free_bytes(self) -> int:
        return 1 << 40

    def lock(self, name: str, *, write: bool = True) -> Callable[[], None] | None:
        if self.locked:
            return None
        self.locked = True

        def unlock() -> None:
            self.locked = False

        return unlock

    def spare_descriptors(self, count: int) -> None:
        pass


def _put(content: bytearray, position: int, data: bytes) -> None:
    if len(content) < position:
        content.extend(bytes(position - len(content)))
    content[position : position + len(data)] = data


def _resize(content: bytearray, length: int) -> None:
    if length < len(content):
        del content[length:]
    else:
        content.extend(bytes(length - len(content)))


def _sectors(position: int, data: bytes) -> list[tuple[int, bytes]]:
    """A write, cut where sectors of the file begin."""
    pieces = []
    begin = 0
    while begin < len(data):
        end = min(len(data), begin + SECTOR - (position + begin) % SECTOR)
        pieces.append((position + begin, data[begin:end]))
        begin = end
    return pieces
