"""Where damaged files go when the user asks to go on without them: nothing is ever thrown away."""

from durable_streams_server.stores.file.directory import SET_ASIDE, read_whole
from durable_streams_server.stores.file.disk import Disk


class Aside:
    """A new directory under ``set-aside/``, made when it is needed."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.place = ""

    def move(self, name: str) -> None:
        """Take a file out of the store."""
        self._disk.rename(name, self._target(name))
        self._disk.sync_directory(self.place)
        self._disk.sync_directory(name.rpartition("/")[0])

    def cut(self, name: str, length: int) -> None:
        """Keep a copy of a file, and cut the file itself."""
        fd = self._disk.open(self._target(name), create=True, write=True)
        try:
            self._disk.write(fd, [read_whole(self._disk, name) or b""], 0)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        self._disk.sync_directory(self.place)
        fd = self._disk.open(name, write=True)
        try:
            self._disk.truncate(fd, length)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)

    def _target(self, name: str) -> str:
        disk = self._disk
        if not self.place:
            disk.make_directory(SET_ASIDE)
            self.place = f"{SET_ASIDE}/{len(disk.names(SET_ASIDE)) + 1:04d}"
            disk.make_directory(self.place)
            disk.sync_directory("")
            disk.sync_directory(SET_ASIDE)
        return f"{self.place}/{name.replace('/', '-')}"
