"""Room on the disk that only a checkpoint may use, so that a full disk can always be emptied.

A checkpoint gives the journal's room back, but first writes a snapshot and a new segment. On a full
disk the file ``reserve`` is removed to make room for them, and written again afterwards.
"""

from contextlib import suppress
from typing import Final

from durable_streams_server.stores.file.directory import RESERVE
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.snapshot import snapshot_bytes

LEAST: Final = 2 * 1024 * 1024
"""Bytes for a segment, the latest commits and some thousand streams beside the last snapshot's."""
_ZEROS: Final = memoryview(bytes(64 * 1024))


class Reserve:
    """The file that takes the room up. Not for two threads at once."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def take(self) -> bool:
        """Take up room for a snapshot about as large as the last one; False if the disk lacks some
        of it. What there is, is taken.
        """
        disk = self._disk
        try:
            size = LEAST + snapshot_bytes(disk)
            there = disk.file_size(RESERVE) or 0
            if size <= there <= 2 * size:
                return True
            fd = disk.open(RESERVE, create=True, write=True)
            try:
                disk.truncate(fd, min(there, size))
                for begin in range(there, size, len(_ZEROS)):
                    disk.write(fd, [_ZEROS[: size - begin]], begin)
            finally:
                disk.close(fd)
        except OSError:
            return False
        return True

    @property
    def size(self) -> int:
        """How many bytes it holds now."""
        return self._disk.file_size(RESERVE) or 0

    def release(self) -> None:
        """Give the room back."""
        with suppress(FileNotFoundError):
            self._disk.unlink(RESERVE)
