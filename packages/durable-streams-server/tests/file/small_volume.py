"""A simulated disk with little room, which it shares with other programs."""

import errno
import random
from collections.abc import Iterator, Sequence

from faulty_disk import Directory, FaultyDisk, File

from durable_streams_server.stores.file.disk import Buffer

BLOCK = 4096


class SmallVolume(FaultyDisk):
    """Has room for ``capacity`` bytes, in blocks; a file takes one at least."""

    def __init__(self, rng: random.Random, capacity: int) -> None:
        super().__init__(rng)
        self.capacity = capacity
        self.foreign = 0
        """Bytes that other programs have taken."""

    @property
    def used(self) -> int:
        """Bytes that the store's files take up."""
        return _used(self.root)

    def sizes(self) -> dict[str, int]:
        """The length of every file."""
        return dict(_sizes(self.root, ""))

    @property
    def free(self) -> int:
        return self.capacity - self.foreign - self.used

    def free_bytes(self) -> int:
        return max(0, self.free)

    def write(self, fd: int, pieces: Sequence[Buffer], position: int) -> None:
        data = b"".join(bytes(piece) for piece in pieces)
        held = _blocks(self.size(fd))
        room = held + max(0, self.free // BLOCK) * BLOCK - position
        if len(data) > room:
            if room > 0:
                super().write(fd, [data[:room]], position)
            raise OSError(errno.ENOSPC, "no space left on device")
        super().write(fd, [data], position)

    def open(self, name: str, *, create: bool = False, write: bool = False) -> int:
        if create and self.file_size(name) is None and self.free < BLOCK:
            raise OSError(errno.ENOSPC, "no space left on device", name)
        return super().open(name, create=create, write=write)


def _blocks(length: int) -> int:
    return max(1, -(-length // BLOCK)) * BLOCK


def _used(directory: Directory) -> int:
    return sum(_blocks(length) for _, length in _sizes(directory, ""))


def _sizes(directory: Directory, above: str) -> Iterator[tuple[str, int]]:
    for name, entry in directory.entries.items():
        if isinstance(entry, File):
            yield above + name, len(entry.content)
        else:
            yield from _sizes(entry, f"{above}{name}/")
