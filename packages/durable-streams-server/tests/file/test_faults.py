"""The store while its disk, or its machine, misbehaves."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokens import position

from durable_streams_core.entities import (
    Applied,
    Commit,
    Conflicted,
    Delta,
    Guard,
    Head,
    Refused,
    Unknown,
)
from durable_streams_core.errors import Unavailable
from durable_streams_core.store import StoreError
from durable_streams_server.engine.engine import Engine
from durable_streams_server.stores.file import FileStore
from durable_streams_server.stores.file.disk import Buffer, LocalDisk
from durable_streams_server.stores.file.journal import RESERVE


class FailingDisk(LocalDisk):
    """Has room for ``room`` more bytes at the ends of files, and syncs while ``syncs``, except the
    files whose names begin with ``unsyncable``.
    """

    room: int | None = None
    syncs = True
    unsyncable: str | None = None
    truncates = True

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.names_of: dict[int, str] = {}

    def write(self, fd: Any, pieces: Any, position: Any) -> None:
        if self.room is not None:
            grows = max(0, position + sum(map(len, pieces)) - self.size(fd))
            if grows > self.room:
                some = b"".join(map(bytes, pieces))[: len(b"".join(map(bytes, pieces))) // 2]
                super().write(fd, [some], position)
                raise OSError(errno.ENOSPC, "No space left on device")
            self.room -= grows
        super().write(fd, pieces, position)

    def open(self, name: str, *, create: bool = False, write: bool = False) -> int:
        fd = super().open(name, create=create, write=write)
        self.names_of[fd] = name
        return fd

    def sync(self, fd: Any) -> None:
        unsyncable = self.unsyncable is not None and self.names_of[fd].startswith(self.unsyncable)
        if not self.syncs or unsyncable:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(fd)

    def truncate(self, fd: Any, length: Any) -> None:
        if not self.truncates:
            raise OSError(errno.EIO, "Input/output error")
        super().truncate(fd, length)


@pytest.fixture
def disk(tmp_path: Path) -> Any:
    return FailingDisk(tmp_path)


def create(path: str, data: bytes = b"") -> Commit:
    return Commit(
        f"create-{path}", path, Guard(None), Delta(create=Head(f"i{path}", b""), data=data)
    )


def append(path: str, data: bytes, name: str) -> Commit:
    return Commit(name, path, Guard(f"i{path}", open=True), Delta(data=data))


def remove(path: str) -> Commit:
    return Commit(f"remove-{path}", path, Guard(f"i{path}"), Delta(remove=True))


def data_of(store: FileStore, path: str) -> bytes:
    found = store.slice(path, f"i{path}", 0, 1 << 30)
    assert found is not None
    return found.data


async def test_a_full_disk_refuses_appends_and_goes_on(disk: Any, tmp_path: Path) -> None:
    store = FileStore(tmp_path, disk=disk)
    await store.open()
    await store.commit([create("a", b"here"), create("b", b"there")])
    disk.room = 0
    big = b"x" * 3 * RESERVE
    (refused,) = await store.commit([append("a", big, "big")])
    assert refused == Refused("storage-full", refused.message)
    assert "The disk is full and nothing was stored" in refused.message
    # Reading goes on, deleting too, in the same group as what is refused.
    assert data_of(store, "a") == b"here"
    outcomes = await store.commit([append("a", big, "bigger"), remove("b"), create("c", big)])
    assert [type(outcome) for outcome in outcomes] == [Refused, Applied, Refused]
    assert store.peek("b") is None
    assert store.peek("c") is None
    # And appending, once there is room.
    disk.room = None
    assert await store.commit([append("a", big, "big")]) == [Applied(4 + len(big))]
    await store.close()
    store = FileStore(tmp_path)
    await store.open()
    assert data_of(store, "a") == b"here" + big
    assert store.peek("b") is None
    await store.close()


async def test_the_reserve_lets_many_deletes_through(disk: Any, tmp_path: Path) -> None:
    store = FileStore(tmp_path, disk=disk)
    await store.open()
    await store.commit([create(f"{number}", b"x" * 10) for number in range(300)])
    disk.room = 0
    number = 0
    while True:
        (outcome,) = await store.commit([append("0", b"y" * 5000, f"fill{number}")])
        number += 1
        if type(outcome) is Refused:
            break
    for number in range(300):
        assert await store.commit([remove(f"{number}")]) == [Applied(0)]
    await store.close()


async def test_the_bytes_of_a_refused_group_do_not_come_back(disk: Any, tmp_path: Path) -> None:
    store = FileStore(tmp_path, disk=disk)
    await store.open()
    await store.commit([create("a")])
    disk.room = 100_000
    (refused,) = await store.commit([append("a", b"x" * 1_000_000, "big")])
    assert type(refused) is Refused
    disk.room = None
    await store.commit([append("a", b"small", "small")])
    # As after a kill: nothing is closed.
    found = FileStore(tmp_path / "copy")
    copy(tmp_path, tmp_path / "copy")
    await found.open()
    assert data_of(found, "a") == b"small"
    await found.close()
    await store.close()


def copy(source: Any, target: Any) -> None:
    import shutil

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("copy"))


async def test_an_engine_answers_507(disk: Any, tmp_path: Path) -> None:
    async with Engine(FileStore(tmp_path, disk=disk)) as engine:
        await engine.create("s", content_type="text/plain")
        await engine.append("s", "before")
        disk.room = 0
        with pytest.raises(Unavailable) as caught:
            await engine.append("s", "x" * 1_000_000)
        assert (caught.value.status, caught.value.code) == (507, "storage-full")
        disk.room = None
        await engine.append("s", "after")
        assert position((await engine.head("s")).offset) == 11


async def test_a_failed_sync_stops_writing_until_opened_again(
    disk: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FileStore(tmp_path, disk=disk)
    await store.open()
    await store.commit([create("a", b"here")])
    disk.syncs = False
    (unknown,) = await store.commit([append("a", b"lost?", "one")])
    assert type(unknown) is Unknown
    assert "nothing more is written until the server is started again" in unknown.message
    disk.syncs = True
    # The disk works again, but nobody can tell what it forgot.
    (refused,) = await store.commit([append("a", b"no", "two")])
    assert type(refused) is Refused
    assert refused.code == "unavailable"
    assert data_of(store, "a") == b"here"
    await store.close()
    assert "Check the disk" in caplog.text

    store = FileStore(tmp_path)
    await store.open()
    # The outcome is known now, and a resend says so without doing it twice.
    assert await store.commit([append("a", b"lost?", "one")]) == [Applied(9)]
    assert data_of(store, "a") == b"herelost?"
    await store.close()


class FullSyncs:
    """``fcntl.fcntl`` as macOS has it, with a drive's cache that only ``F_FULLFSYNC`` empties."""

    F_FULLFSYNC = 51

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: int | None = None
        self.full = 0
        self.plain = 0
        plainly = os.fsync
        monkeypatch.setattr("fcntl.F_FULLFSYNC", self.F_FULLFSYNC, raising=False)
        monkeypatch.setattr("fcntl.fcntl", self.fcntl)
        monkeypatch.delattr("os.fdatasync", raising=False)

        def fsync(fd: int) -> None:
            self.plain += 1
            plainly(fd)

        monkeypatch.setattr("os.fsync", fsync)

    def fcntl(self, fd: int, command: int) -> int:
        assert command == self.F_FULLFSYNC
        os.fstat(fd)
        self.full += 1
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        return 0


@pytest.fixture
def full_syncs(monkeypatch: pytest.MonkeyPatch) -> Any:
    return FullSyncs(monkeypatch)


async def test_on_macos_a_sync_goes_through_the_cache_of_the_drive(
    full_syncs: Any, tmp_path: Path
) -> None:
    store = FileStore(tmp_path)
    await store.open()
    before = full_syncs.full
    assert await store.commit([create("a", b"here")]) == [Applied(4)]
    assert full_syncs.full == before + 1
    before = full_syncs.full
    await store.checkpoint()
    assert full_syncs.full > before
    assert full_syncs.plain == 0
    await store.close()


@pytest.mark.parametrize("refusal", [errno.ENOTSUP, errno.EINVAL, errno.ENOTTY])
async def test_a_file_system_without_a_full_sync_gets_the_plain_one(
    full_syncs: Any, tmp_path: Path, refusal: Any
) -> None:
    full_syncs.error = refusal
    store = FileStore(tmp_path)
    await store.open()
    assert await store.commit([create("a", b"here")]) == [Applied(4)]
    assert full_syncs.plain == full_syncs.full > 0
    await store.close()


async def test_a_full_sync_that_fails_is_no_reason_for_a_plain_one(
    full_syncs: Any, tmp_path: Path
) -> None:
    store = FileStore(tmp_path)
    await store.open()
    await store.commit([create("a", b"here")])
    full_syncs.error = errno.EIO
    (unknown,) = await store.commit([append("a", b"lost?", "one")])
    assert type(unknown) is Unknown
    full_syncs.error = None
    before = full_syncs.full
    (refused,) = await store.commit([append("a", b"no", "two")])
    assert type(refused) is Refused
    assert (full_syncs.full, full_syncs.plain) == (before, 0)
    await store.close()


async def test_an_engine_answers_504_once_and_503_from_then_on(disk: Any, tmp_path: Path) -> None:
    async with Engine(FileStore(tmp_path, disk=disk)) as engine:
        await engine.create("s", content_type="text/plain")
        disk.syncs = False
        with pytest.raises(Unavailable) as caught:
            await engine.append("s", "x")
        assert (caught.value.status, caught.value.code) == (504, "outcome-unknown")
        with pytest.raises(Unavailable) as caught:
            await engine.append("s", "x")
        assert (caught.value.status, caught.value.code) == (503, "unavailable")


async def test_a_failed_cut_stops_writing_too(disk: Any, tmp_path: Path) -> None:
    store = FileStore(tmp_path, disk=disk)
    await store.open()
    await store.commit([create("a", b"here")])
    disk.room, disk.truncates = 0, False
    # The first ones find room in what the journal has filled ahead.
    for number in range(10):
        (refused,) = await store.commit([append("a", b"x" * 200_000, str(number))])
        if isinstance(refused, Refused):
            break
    assert refused.code == "unavailable"
    disk.room, disk.truncates = None, True
    (refused,) = await store.commit([append("a", b"x", "two")])
    assert refused.code == "unavailable"
    await store.close()


async def test_a_failed_sync_in_a_checkpoint_stops_writing(disk: Any, tmp_path: Path) -> None:
    store = FileStore(tmp_path, disk=disk)
    await store.open()
    await store.commit([create("a", b"here")])
    disk.unsyncable = "streams/"
    await store.checkpoint()
    (refused,) = await store.commit([append("a", b"x", "one")])
    assert refused.code == "unavailable"
    await store.close()
    assert (tmp_path / "unsynced").exists()
    store = FileStore(tmp_path)
    await store.open()
    # The apparent content of the file is not trusted: it is written again, and synced.
    assert store.recovered is not None
    assert store.recovered.rewritten_files == 1
    await store.checkpoint()
    await store.close()
    assert not (tmp_path / "unsynced").exists()


async def test_a_checkpoint_without_room_is_tried_again_later(disk: Any, tmp_path: Path) -> None:
    store = FileStore(tmp_path, disk=disk)
    await store.open()
    await store.commit([create("a", b"here")])
    disk.room = 0
    await store.checkpoint()
    assert not list(tmp_path.glob("snapshot-*"))
    disk.room = None
    await store.checkpoint()
    assert len(list(tmp_path.glob("snapshot-*"))) == 1
    assert await store.commit([append("a", b"x", "one")]) == [Applied(5)]
    await store.close()


async def test_bytes_that_cannot_go_to_the_files_hold_back_appends(
    disk: Any, tmp_path: Path
) -> None:
    store = FileStore(tmp_path, disk=disk, save_bytes=1000)
    await store.open()
    await store.commit([create("a"), create("b")])
    # The journal has room in what it filled ahead, the data files have none.
    disk.room = 0
    outcomes = [
        (await store.commit([append("a", b"x" * 5000, f"a{number}")]))[0] for number in range(4)
    ]
    assert [type(outcome) for outcome in outcomes] == [Applied, Applied, Refused, Refused]
    assert await store.commit([remove("b")]) == [Applied(0)]
    assert data_of(store, "a") == b"x" * 10_000
    # The writes to data files that are under way still meet the full disk.
    await store.checkpoint()
    disk.room = None
    assert await store.commit([append("a", b"y", "more")]) == [Applied(10_001)]
    await store.close()


async def test_a_closed_store_refuses(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    await store.open()
    await store.close()
    await store.close()
    (refused,) = await store.commit([create("a")])
    assert refused == Refused("unavailable", "The store is closed.")


async def test_closing_finishes_what_was_begun(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    await store.open()
    heard = []
    store.submit([create("a")], heard.extend)
    await store.close()
    assert heard == [Applied(0)]


async def test_a_group_is_checked_against_what_it_does_itself(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    await store.open()
    twice = append("a", b"x", "same")
    outcomes = await store.commit(
        [create("a"), twice, twice, remove("a"), append("a", b"y", "gone"), create("b")]
    )
    assert outcomes == [
        Applied(0), Applied(1), Applied(1), Applied(0), Conflicted(None), Applied(0),
    ]  # fmt: skip
    await store.close()


async def test_without_sync_it_says_so_and_survives_the_end_of_the_process(
    disk: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FileStore(tmp_path, sync="off", disk=disk)
    await store.open()
    assert "may be lost with the machine" in caplog.text
    disk.syncs = False  # nothing is synced before an answer
    assert await store.commit([create("a", b"here")]) == [Applied(4)]
    copy(tmp_path, tmp_path / "copy")
    found = FileStore(tmp_path / "copy")
    await found.open()
    assert data_of(found, "a") == b"here"
    await found.close()
    disk.syncs = True
    await store.close()


async def test_a_disk_that_fails_at_the_start_is_told(disk: Any, tmp_path: Path) -> None:
    disk.syncs = False
    with pytest.raises(StoreError, match=r"cannot be opened|cannot be read"):
        await FileStore(tmp_path, disk=disk).open()


class CountingDisk(LocalDisk):
    """Counts what it is asked to write and to sync."""

    writes = 0
    syncs = 0

    def write(self, fd: int, pieces: Sequence[Buffer], position: int) -> None:
        self.writes += 1
        super().write(fd, pieces, position)

    def sync(self, fd: int) -> None:
        self.syncs += 1
        super().sync(fd)


@pytest.mark.parametrize("appends", [100, 1000])
async def test_without_sync_a_start_costs_no_write_or_sync_for_each_append(
    tmp_path: Path, appends: int
) -> None:
    store = FileStore(tmp_path, sync="off")
    await store.open()
    await store.commit([create("a")])
    for number in range(appends):
        await store.commit([append("a", b"x", f"{number}")])
    copy(tmp_path, tmp_path / "copy")  # as after a kill
    await store.close()
    disk = CountingDisk(tmp_path / "copy")
    store = FileStore(tmp_path / "copy", sync="off", disk=disk)
    await store.open()
    assert data_of(store, "a") == b"x" * appends
    assert max(disk.writes, disk.syncs) < 10
    await store.close()


async def test_many_commits_to_one_path_in_one_group(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    await store.open()
    group = [create("a"), *(append("a", b"x", f"{number % 2500}") for number in range(5000))]
    outcomes = await store.commit(group)
    tails = [outcome.tail for outcome in outcomes if isinstance(outcome, Applied)]
    assert tails == [0, *range(1, 2501), *range(1, 2501)]
    assert data_of(store, "a") == b"x" * 2500
    await store.close()


async def test_a_resend_to_a_stream_deleted_since_is_answered_after_a_restart_as_before(
    tmp_path: Path,
) -> None:
    store = FileStore(tmp_path)
    await store.open()
    head = Head("ia", b"")
    created = Delta(create=head, timeline=b"0001700000000000")
    await store.commit([Commit("create", "a", Guard(None), created)])
    first = await store.commit([append("a", b"here", "one")])
    await store.commit([remove("a")])
    await store.close()
    store = FileStore(tmp_path)
    await store.open()
    assert await store.commit([append("a", b"here", "one")]) == first
    assert first == [Applied(4, b"0001700000000000")]
    await store.close()


class OrderedDisk(LocalDisk):
    """Notes in which order files are written, synced and removed."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.names_of: dict[int, str] = {}
        self.events: list[tuple[str, str]] = []

    def open(self, name: str, *, create: bool = False, write: bool = False) -> int:
        fd = super().open(name, create=create, write=write)
        self.names_of[fd] = name.partition("/")[0]
        return fd

    def write(self, fd: int, pieces: Sequence[Buffer], position: int) -> None:
        super().write(fd, pieces, position)
        self.events.append(("write", self.names_of[fd]))

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.events.append(("sync", self.names_of[fd]))

    def unlink(self, name: str) -> None:
        super().unlink(name)
        self.events.append(("unlink", name.partition("/")[0]))


@pytest.mark.parametrize("sync", ["commit", "off"])
async def test_a_file_is_removed_when_the_delete_of_its_stream_is_durable(
    tmp_path: Path, sync: Any
) -> None:
    disk = OrderedDisk(tmp_path)
    store = FileStore(tmp_path, disk=disk, sync=sync)
    await store.open()
    await store.commit([create("a", b"here")])
    await store.checkpoint()
    disk.events.clear()
    (applied,) = await store.commit([Commit("gone", "a", Guard("ia"), Delta(remove=True))])
    assert isinstance(applied, Applied)
    await store.close()
    until_removed = disk.events[: disk.events.index(("unlink", "streams"))]
    assert ("sync", "journal") in until_removed[until_removed.index(("write", "journal")) :]
