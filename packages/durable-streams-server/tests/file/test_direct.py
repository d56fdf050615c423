"""Large data is written once, to its data file, and survives what smaller data survives."""

import errno
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from durable_streams_core.entities import Applied, Commit, Delta, Guard, Head, Outcome, Refused
from durable_streams_core.errors import StoreError
from durable_streams_server.stores.file import FileStore
from durable_streams_server.stores.file.check import check
from durable_streams_server.stores.file.commit_group import DIRECT
from durable_streams_server.stores.file.data_file_reader import StreamDamaged
from durable_streams_server.stores.file.disk import Buffer, LocalDisk
from durable_streams_server.stores.file.sums import BLOCK

MIB = 1024 * 1024


class WatchedDisk(LocalDisk):
    """Counts the bytes written to each folder, and fails as it is told."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.names_of: dict[int, str] = {}
        self.written: dict[str, int] = {"journal": 0, "streams": 0}
        self.fails: Callable[[str, str], int | None] = lambda _what, _folder: None
        """The error number that a write or sync in a folder ends with, or None."""

    def open(self, name: str, *, create: bool = False, write: bool = False) -> int:
        fd = super().open(name, create=create, write=write)
        self.names_of[fd] = name.partition("/")[0]
        return fd

    def _fail(self, what: str, folder: str) -> None:
        number = self.fails(what, folder)
        if number is not None:
            raise OSError(number, errno.errorcode[number])

    def write(self, fd: int, pieces: Sequence[Buffer], position: int) -> None:
        folder = self.names_of[fd]
        self._fail("write", folder)
        if folder in self.written:
            # Not the zeros with which the journal is filled ahead.
            self.written[folder] += sum(len(piece) for piece in pieces if any(piece[:100]))
        super().write(fd, pieces, position)

    def sync(self, fd: int) -> None:
        self._fail("sync", self.names_of[fd])
        super().sync(fd)


async def opened(path: Path, disk: LocalDisk | None = None, sync: str = "commit") -> FileStore:
    store = FileStore(path, disk=disk, sync="off" if sync == "off" else "commit")
    await store.open()
    return store


class Writer:
    """Appends to one stream of a store, and knows what it must hold."""

    def __init__(self, store: FileStore) -> None:
        self.store = store
        self.kept = b""
        self.turn = 0

    async def append(self, size: int) -> Outcome:
        self.turn += 1
        data = bytes([self.turn]) * size
        head = Head("i", b"") if self.turn == 1 else None
        guard = Guard(None if head else "i")
        commit = Commit(f"c{self.turn}", "s", guard, Delta(create=head, data=data))
        (outcome,) = await self.store.commit([commit])
        if isinstance(outcome, Applied):
            self.kept += data
        return outcome


async def content(store: FileStore) -> bytes | None:
    found = await store.read("s", "i", 0, 100 * MIB)
    return None if found is None else found.data


async def test_large_data_is_written_once_and_smaller_data_not_to_its_file(tmp_path: Path) -> None:
    disk = WatchedDisk(tmp_path)
    store = await opened(tmp_path, disk)
    writer = Writer(store)
    for size in (10, DIRECT - 1):
        await writer.append(size)
    assert disk.written["streams"] == 0
    disk.written["journal"] = 0
    await writer.append(MIB)
    # Earlier bytes that the file lacked are written with it.
    assert disk.written["streams"] == len(writer.kept)
    await writer.append(MIB)
    assert disk.written["streams"] == len(writer.kept)
    assert disk.written["journal"] < 1000
    assert await content(store) == writer.kept
    await store.close()


async def test_without_syncs_large_data_goes_through_the_journal(tmp_path: Path) -> None:
    disk = WatchedDisk(tmp_path)
    store = await opened(tmp_path, disk, sync="off")
    await Writer(store).append(MIB)
    assert disk.written["streams"] == 0
    assert disk.written["journal"] > MIB
    await store.close()


@pytest.mark.parametrize(
    "sizes",
    [
        [BLOCK],
        [1, BLOCK],
        [BLOCK - 1, BLOCK, 1, BLOCK + 1],
        [5 * BLOCK, 10, 3 * BLOCK - 10, 7],
        [100, BLOCK, 200, 2 * BLOCK, 300],
    ],
)
@pytest.mark.parametrize("checkpoint", [False, True])
async def test_large_and_small_data_in_any_order_is_there_after_a_kill(
    tmp_path: Path, sizes: list[int], checkpoint: bool
) -> None:
    store = await opened(tmp_path / "first")
    writer = Writer(store)
    for size in sizes:
        await writer.append(size)
        if checkpoint:
            await store.checkpoint()
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    await store.close()
    assert check(str(tmp_path / "copy")).problems == []
    again = await opened(tmp_path / "copy")
    assert await content(again) == writer.kept
    writer.store = again
    await writer.append(BLOCK)
    await writer.append(1)
    await again.close()
    assert check(str(tmp_path / "copy")).problems == []
    again = await opened(tmp_path / "copy")
    assert await content(again) == writer.kept
    await again.close()


async def test_a_file_that_lost_named_data_is_refused_and_changed_data_is_not_served(
    tmp_path: Path,
) -> None:
    store = await opened(tmp_path / "first")
    await Writer(store).append(MIB)
    shutil.copytree(tmp_path / "first", tmp_path / "changed")
    shutil.copytree(tmp_path / "first", tmp_path / "short")
    await store.close()
    with (tmp_path / "changed/streams/0/1").open("r+b") as file:
        file.seek(MIB // 2)
        file.write(b"?")
    changed = await opened(tmp_path / "changed")
    with pytest.raises(StreamDamaged):
        await content(changed)
    await changed.close()
    with (tmp_path / "short/streams/0/1").open("r+b") as file:
        file.truncate(MIB - 1)
    with pytest.raises(StoreError, match="it has 1048575 of 1048576 bytes"):
        await opened(tmp_path / "short")


@pytest.mark.parametrize("small_first", [False, True])
async def test_a_failed_sync_of_large_data_stops_writing_and_the_next_start_cuts_it(
    tmp_path: Path, small_first: bool
) -> None:
    disk = WatchedDisk(tmp_path)
    store = await opened(tmp_path, disk)
    writer = Writer(store)
    await writer.append(10 if small_first else MIB)
    disk.fails = lambda what, folder: errno.EIO if (what, folder) == ("sync", "streams") else None
    outcome = await writer.append(MIB)
    assert isinstance(outcome, Refused)
    assert outcome.code == "unavailable"
    disk.fails = lambda _what, _folder: None
    assert isinstance(await writer.append(1), Refused)
    assert (tmp_path / "unsynced").exists()
    await store.close()
    again = await opened(tmp_path)
    assert await content(again) == writer.kept
    assert (tmp_path / "streams/0/1").stat().st_size == len(writer.kept)
    await again.close()


@pytest.mark.parametrize("folder", ["streams", "journal"])
async def test_large_data_without_room_leaves_nothing_behind(tmp_path: Path, folder: str) -> None:
    disk = WatchedDisk(tmp_path)
    store = await opened(tmp_path, disk)
    writer = Writer(store)
    await writer.append(10)
    await writer.append(MIB)
    disk.fails = lambda what, where: (
        errno.ENOSPC if what == "write" and where in (folder, "reserve") else None
    )
    outcome = await writer.append(MIB)
    assert isinstance(outcome, Refused)
    assert outcome.code == "storage-full"
    disk.fails = lambda _what, _folder: None
    await store.checkpoint()
    assert (tmp_path / "streams/0/1").stat().st_size == len(writer.kept)
    for size in (5, MIB, 5):
        assert isinstance(await writer.append(size), Applied)
    assert await content(store) == writer.kept
    await store.close()


async def test_a_stream_that_began_with_refused_data_has_no_file(tmp_path: Path) -> None:
    disk = WatchedDisk(tmp_path)
    store = await opened(tmp_path, disk)
    disk.fails = lambda what, where: (
        errno.ENOSPC if what == "write" and where == "streams" else None
    )
    assert isinstance(await Writer(store).append(MIB), Refused)
    disk.fails = lambda _what, _folder: None
    await store.checkpoint()
    assert not [path for path in (tmp_path / "streams").rglob("*") if path.is_file()]
    await store.close()


async def test_large_data_whose_journal_is_set_aside_is_copied_before_it_is_cut(
    tmp_path: Path,
) -> None:
    store = await opened(tmp_path / "first")
    writer = Writer(store)
    for size in (MIB, MIB, 5):
        await writer.append(size)
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    await store.close()
    (segment,) = (tmp_path / "copy/journal").iterdir()
    journal = bytearray(segment.read_bytes())
    second = journal.index(b"c2")
    journal[second] ^= 1
    segment.write_bytes(journal)
    saved = FileStore(tmp_path / "copy", corruption="set-aside")
    await saved.open()
    assert await content(saved) == writer.kept[:MIB]
    copies = list((tmp_path / "copy/set-aside").rglob("streams-0-1"))
    assert [path.read_bytes() for path in copies] == [writer.kept[: 2 * MIB]]
    await saved.close()
