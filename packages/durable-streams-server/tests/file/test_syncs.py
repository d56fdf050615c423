"""The store has the real disk synced before it calls data durable, not only a simulated one."""

import os
from pathlib import Path

import pytest

from durable_streams_core.entities import Applied, Commit, Delta, Guard, Head
from durable_streams_server.stores.file import FileStore


class Syncs:
    """The files and directories that the system was asked to sync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._inodes: set[int] = set()
        for name in ("fdatasync", "fsync"):
            if hasattr(os, name):
                monkeypatch.setattr(os, name, self._noting(getattr(os, name)))

    def _noting(self, sync: object) -> object:
        def noting(fd: int) -> None:
            self._inodes.add(os.fstat(fd).st_ino)
            sync(fd)  # type: ignore[operator]

        return noting

    def forget(self) -> None:
        self._inodes.clear()

    def of(self, path: Path) -> bool:
        return path.stat().st_ino in self._inodes


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    return Syncs(monkeypatch)


def creation(path: str, data: bytes) -> Commit:
    return Commit(path, path, Guard(None), Delta(create=Head(path, b""), data=data))


def newest(directory: Path) -> Path:
    return max(directory.iterdir())


async def test_a_commit_is_applied_after_the_system_has_synced_the_journal(
    syncs: Syncs, tmp_path: Path
) -> None:
    store = FileStore(tmp_path)
    await store.open()
    try:
        assert await store.commit([creation("a", b"x")]) == [Applied(1)]
        # The first commit begins a segment, whose name has to last too.
        assert syncs.of(tmp_path / "journal")
        assert syncs.of(newest(tmp_path / "journal"))
        syncs.forget()
        assert await store.commit([creation("b", b"x")]) == [Applied(1)]
        assert syncs.of(newest(tmp_path / "journal"))
    finally:
        await store.close()


async def test_large_data_is_applied_after_the_system_has_synced_its_file_and_name(
    syncs: Syncs, tmp_path: Path
) -> None:
    store = FileStore(tmp_path)
    await store.open()
    try:
        data = b"x" * 1024 * 1024
        assert await store.commit([creation("a", data)]) == [Applied(len(data))]
        (file,) = (each for each in (tmp_path / "streams").rglob("*") if each.is_file())
        assert syncs.of(file)
        assert syncs.of(file.parent)
    finally:
        await store.close()
