"""A probe of the file store says whether an append would be stored now."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from durable_streams_core.entities import Applied, Commit, Delta, Guard, Head, Refused, Unknown
from durable_streams_server.stores.file import FileStore
from durable_streams_server.stores.file.disk import Buffer, LocalDisk


class MovedDisk(LocalDisk):
    """Fails as the test says: ``free`` where it is asked for room, ``sync`` and ``write``."""

    free: int | None = None
    syncs = True
    writes: int | None = None

    def free_bytes(self) -> int:
        if self.free is not None:
            raise OSError(self.free, os.strerror(self.free))
        return super().free_bytes()

    def sync(self, fd: int) -> None:
        if not self.syncs:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(fd)

    def write(self, fd: int, pieces: Sequence[Buffer], position: int) -> None:
        if self.writes is not None:
            raise OSError(self.writes, os.strerror(self.writes))
        super().write(fd, pieces, position)


def creation(path: str) -> Commit:
    return Commit(f"create-{path}", path, Guard(None), Delta(create=Head(f"i{path}", b"")))


async def opened(tmp_path: Path) -> tuple[FileStore, MovedDisk]:
    disk = MovedDisk(tmp_path)
    store = FileStore(tmp_path, disk=disk)
    await store.open()
    return store, disk


async def test_a_disk_that_failed_in_a_commit_is_not_ready_until_the_next_start(
    tmp_path: Path,
) -> None:
    store, disk = await opened(tmp_path)
    disk.syncs = False
    (outcome,) = await store.commit([creation("a")])
    assert isinstance(outcome, Unknown)
    disk.syncs = True
    refused = await store.probe()
    assert refused is not None
    assert refused.code == "store-failed"
    assert "The disk failed" in refused.message
    await store.close()
    store, _ = await opened(tmp_path)
    assert await store.probe() is None
    await store.close()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ENOENT])
async def test_a_disk_that_became_unusable_is_noticed_and_comes_back(
    number: int, tmp_path: Path
) -> None:
    store, disk = await opened(tmp_path)
    disk.free = number
    refused = await store.probe()
    assert refused is not None
    assert refused.code == "store-failed"
    assert os.strerror(number) in refused.message
    disk.free = None
    assert await store.probe() is None
    assert isinstance((await store.commit([creation("a")]))[0], Applied)
    await store.close()


@pytest.mark.parametrize(
    "number, code", [(errno.ENOSPC, "storage-full"), (errno.EDQUOT, "storage-full")]
)
async def test_a_quota_is_noticed_that_the_file_system_does_not_tell(
    number: int, code: str, tmp_path: Path
) -> None:
    """The journal takes up what an append needs, and is refused as the append would be."""
    store, disk = await opened(tmp_path)
    disk.writes = number
    refused = await store.probe()
    assert refused is not None
    assert refused.code == code
    (outcome,) = await store.commit([creation("a")])
    assert isinstance(outcome, Refused)
    disk.writes = None
    assert await store.probe() is None
    await store.close()


async def test_no_memory_is_a_passing_fault(tmp_path: Path) -> None:
    store, disk = await opened(tmp_path)
    disk.writes = errno.ENOMEM
    refused = await store.probe()
    assert refused is not None
    assert refused.code == "unavailable"
    disk.writes = None
    assert await store.probe() is None
    await store.close()


async def test_a_store_that_is_not_open_takes_nothing(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    refused = await store.probe()
    assert refused is not None
    assert refused.code == "unavailable"


async def test_probes_of_a_store_at_rest_write_nothing(tmp_path: Path) -> None:
    store, disk = await opened(tmp_path)
    assert await store.probe() is None
    disk.writes = errno.EIO
    for _ in range(3):
        assert await store.probe() is None
    disk.writes = None
    await store.close()
