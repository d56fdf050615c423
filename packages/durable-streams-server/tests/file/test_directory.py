"""The owner of a directory, and the lock on it: every problem is one sentence that says what to
do."""

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable_streams_core.entities import Commit, Delta, Guard, Head
from durable_streams_core.errors import StoreError
from durable_streams_core.registry import create_store
from durable_streams_server.stores.file import FileStore, open_store
from durable_streams_server.stores.file.directory import make_root
from durable_streams_server.stores.file.disk import LocalDisk


async def opening(path: Any, **options: Any) -> str:
    """What opening the store there is answered with."""
    store = FileStore(path, **options)
    with pytest.raises(StoreError) as caught:
        await store.open()
    await store.close()
    return str(caught.value)


async def made(path: Any) -> None:
    store = FileStore(path)
    await store.open()
    await store.close()


async def test_it_makes_its_directory_with_all_above_it(tmp_path: Path) -> None:
    await made(tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c/FORMAT").exists()


async def test_there_is_one_process_at_a_time(tmp_path: Path) -> None:
    first = FileStore(tmp_path / "data")
    await first.open()
    said = await opening(tmp_path / "data")
    assert "is in use by another process; a file store has one at a time" in said
    await first.close()
    await made(tmp_path / "data")


async def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    said = await opening(tmp_path)
    assert "is not empty and has no file FORMAT" in said
    assert "letter.txt" in said
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"format": 1}', b'{"format":"x","version":1,"store":"zz"}']
)
async def test_an_unreadable_format_is_told(tmp_path: Path, content: bytes) -> None:
    await made(tmp_path / "data")
    (tmp_path / "data/FORMAT").write_bytes(content)
    assert "does not say what the directory is" in await opening(tmp_path / "data")


async def test_another_programs_format_is_told(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_text('{"format":"x","version":1,"store":"%s"}' % ("0" * 32))
    assert "holds 'x', which is no store of this server" in await opening(tmp_path)


async def test_a_newer_version_is_told(tmp_path: Path) -> None:
    await made(tmp_path / "data")
    path = tmp_path / "data/FORMAT"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    said = await opening(tmp_path / "data")
    assert "has format version 2 and this server knows up to 1" in said
    assert "Install that version, or a newer" in said


async def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    class Forbidding(LocalDisk):
        """As a directory of another user; root, whom tests may run as, may write everywhere."""

        def lock(self, name: Any, *, write: Any = True) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    said = await opening(tmp_path, disk=Forbidding(tmp_path))
    assert "cannot be written: permission denied. Give this user the right" in said


async def test_a_directory_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    class Forbidding(LocalDisk):
        def open(self, name: Any, *, create: Any = False, write: Any = False) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    await made(tmp_path)
    said = await opening(tmp_path, disk=Forbidding(tmp_path))
    assert "cannot be read: permission denied. Give this user the right" in said


async def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be made: " in await opening(tmp_path / "file/data")


async def test_a_file_in_the_place_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert "cannot be made: " in await opening(tmp_path / "data")


async def test_files_of_another_store_are_not_taken_for_its_own(tmp_path: Path) -> None:
    for name in "one", "two":
        store = FileStore(tmp_path / name)
        await store.open()
        await store.commit([Commit(name, "s", Guard(None), Delta(create=Head("i", b"")))])
        await store.close()
    (tmp_path / "one/journal/00000001.log").replace(tmp_path / "two/journal/00000001.log")
    assert "it belongs to another store" in await opening(tmp_path / "two")


def test_it_is_found_by_its_url(tmp_path: Path) -> None:
    store = create_store(f"file:{tmp_path}?sync=off&corruption=set-aside")
    assert isinstance(store, FileStore)
    assert (store.path, store.sync) == (str(tmp_path), "off")


@pytest.mark.parametrize(
    "url, path",
    [
        ("file:data", "data"),
        ("file:./data", "./data"),
        ("file:/var/data", "/var/data"),
        ("file:///var/data", "/var/data"),
        ("file://localhost/var/data", "/var/data"),
        ("FILE:a%20b", "a b"),
    ],
)
def test_the_path_of_a_url(url: str, path: str) -> None:
    assert open_store(url).path == path


@pytest.mark.parametrize(
    "url, sentence",
    [
        ("file:", "names no directory"),
        ("file:?sync=off", "names no directory"),
        ("file:data?sync=maybe", "sync is commit or off, not 'maybe'"),
        ("file:data?sink=off", "no option 'sink'; it has sync, corruption, checkpoint-mib"),
        ("file:data?checkpoint-mib=0", "a number of MiB from 1 to 1000000, not '0'"),
        ("file:data?sync=off&sync=off", "says sync twice"),
        ("file://host/data", "names the host 'host'"),
    ],
)
def test_a_url_that_is_wrong_is_told_so(url: str, sentence: str) -> None:
    with pytest.raises(StoreError, match=sentence.replace("?", r"\?")):
        open_store(url)


async def test_an_opening_that_is_cancelled_leaves_the_directory_to_the_next(
    tmp_path: Path,
) -> None:
    loop = asyncio.get_running_loop()

    class Cancelling(LocalDisk):
        def lock(self, name: str, *, write: bool = True) -> Callable[[], None] | None:
            loop.call_soon_threadsafe(opening.cancel)
            return super().lock(name, write=write)

    store = FileStore(tmp_path / "data", disk=Cancelling(make_root(str(tmp_path / "data")).root))
    opening = asyncio.ensure_future(store.open())
    with pytest.raises(asyncio.CancelledError):
        await opening
    await made(tmp_path / "data")
