"""Keeps damaged files in a directory of their own; nothing is ever thrown away."""

from typing import Final

from durable_streams_server.stores.file.directory import SET_ASIDE
from durable_streams_server.stores.file.disk import Disk

_PIECE: Final = 1024 * 1024


class Quarantine:
    """A new directory under ``set-aside/``, made when the first file goes there."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.directory = ""

    def move(self, name: str) -> None:
        """Take a file out of the store."""
        self._disk.rename(name, self._target(name))
        self._disk.sync_directory(self.directory)
        self._disk.sync_directory(name.rpartition("/")[0])

    def cut(self, name: str, length: int) -> None:
        """Keep a copy of a file, and cut the file itself."""
        self.copy(name)
        fd = self._disk.open(name, write=True)
        try:
            self._disk.truncate(fd, length)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)

    def copy(self, name: str) -> None:
        """Keep a copy of a file."""
        disk = self._disk
        copy = disk.open(self._target(name), create=True, write=True)
        try:
            original = disk.open(name)
            try:
                for begin in range(0, disk.size(original), _PIECE):
                    disk.write(copy, [disk.read(original, begin, _PIECE)], begin)
            finally:
                disk.close(original)
            disk.sync(copy)
        finally:
            disk.close(copy)
        disk.sync_directory(self.directory)

    def _target(self, name: str) -> str:
        """A name in the directory that nothing has."""
        disk = self._disk
        if not self.directory:
            disk.make_directory(SET_ASIDE)
            numbers = [int(each) for each in disk.names(SET_ASIDE) if each.isdecimal()]
            self.directory = f"{SET_ASIDE}/{max(numbers, default=0) + 1:04d}"
            disk.make_directory(self.directory)
            disk.sync_directory("")
            disk.sync_directory(SET_ASIDE)
        target = plain = f"{self.directory}/{name.replace('/', '-')}"
        taken = 1
        while disk.file_size(target) is not None:
            taken += 1
            target = f"{plain}.{taken}"
        return target
