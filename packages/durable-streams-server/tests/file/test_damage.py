"""Starts on a directory that is not as it was left: told with its place, never skipped.

Each test fills a store, closes it, harms it, and looks.
"""

import asyncio
import io
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_core.entities import Commit, Delta, Guard, Head
from durable_streams_core.errors import ProtocolError, StoreError
from durable_streams_server.stores.archive import export_store
from durable_streams_server.stores.file import FileStore
from durable_streams_server.stores.file.check import check
from durable_streams_server.stores.file.journal import GROUP_HEADER, SEGMENT_HEADER
from durable_streams_server.stores.file.snapshot import SnapshotEntity, keep
from durable_streams_server.stores.file.sums import (
    BLOCK,
    NO_SUMS,
    Sums,
    all_blocks,
    blocks,
    extend,
)
from durable_streams_server.stores.file.write_behind import Stored


@pytest.fixture
def directory(tmp_path: Path) -> Any:
    return tmp_path / "data"


def commit(name: str, guard: str | None, **delta: Any) -> Commit:
    return Commit(name, delta.pop("path", "s"), Guard(guard), Delta(**delta))


async def fill(
    directory: Any, *, checkpoint: bool = False, appends: int = 3, **options: Any
) -> None:
    """A stream `s` of `appends` groups of ten bytes; those before the last are in a snapshot."""
    store = FileStore(directory, **options)
    await store.open()
    await store.commit([commit("c0", None, create=Head("i", b"birth"))])
    await store.commit([commit("d0", None, create=Head("j", b"birth"), data=b"other", path="t")])
    for number in range(appends):
        if checkpoint and number == appends - 1:
            await store.checkpoint()
        await store.commit([commit(f"a{number}", "i", data=b"%010d" % number)])
    await store.close()


async def content(directory: Any, path: str = "s", **options: Any) -> bytes | None:
    store = FileStore(directory, **options)
    await store.open()
    try:
        facts = store.peek(path)
        if facts is None:
            return None
        found = store.slice(path, facts.head.incarnation, 0, 1000)
        assert found is not None
        return found.data
    finally:
        await store.close()


def whole(appends: int = 3) -> bytes:
    return b"".join(b"%010d" % number for number in range(appends))


def segment(directory: Any, number: int = 0) -> Any:
    return sorted((directory / "journal").iterdir())[number]


def groups(data: bytes) -> list[tuple[int, int]]:
    """Begin and end of each group of a segment."""
    found = []
    position = SEGMENT_HEADER.size
    while position + GROUP_HEADER.size <= len(data):
        length = GROUP_HEADER.unpack_from(data, position)[3]
        if GROUP_HEADER.unpack_from(data, position)[1] == 0:
            break
        end = position + GROUP_HEADER.size + length
        found.append((position, end))
        position = end
    return found


def flip(path: Any, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


async def test_a_torn_tail_is_cut_and_the_rest_is_there(directory: Any) -> None:
    await fill(directory)
    path = segment(directory)
    data = path.read_bytes()
    # The last group vouches for the one before it; without both, the tail is torn.
    begin, end = groups(data)[-2]
    for length in range(begin, end):
        path.write_bytes(data[:length])
        assert check(str(directory)).problems == []
        assert await content(directory) == whole(2)
        for other in sorted((directory / "journal").iterdir())[1:]:
            other.unlink()


async def test_what_follows_a_torn_tail_is_kept(directory: Any) -> None:
    await fill(directory)
    path = segment(directory)
    data = path.read_bytes()
    path.write_bytes(data[: groups(data)[-2][1] - 3])
    store = FileStore(directory)
    await store.open()
    assert store.recovered is not None
    assert store.recovered.torn_bytes > 0
    assert "bytes of a torn tail cut" in str(store.recovered)
    await store.commit([commit("new", "i", data=b"after")])
    await store.close()
    assert await content(directory) == whole(2) + b"after"


async def test_a_flipped_bit_in_the_middle_is_refused_with_its_place(directory: Any) -> None:
    await fill(directory)
    path = segment(directory)
    pristine = path.read_bytes()
    begin, end = groups(pristine)[1]
    for position in range(begin, end):
        flip(path, position)
        with pytest.raises(StoreError, match=rf"journal/00000001.log is damaged at byte {begin}"):
            await content(directory)
        assert len(check(str(directory)).problems) == 1
        path.write_bytes(pristine)
    assert await content(directory) == whole()


async def test_what_was_acknowledged_before_a_clean_end_is_vouched_for(directory: Any) -> None:
    await fill(directory)
    path = segment(directory)
    begin, _ = groups(path.read_bytes())[-2]
    flip(path, begin + GROUP_HEADER.size + 5)
    with pytest.raises(StoreError, match=f"damaged at byte {begin}"):
        await content(directory)


async def test_damage_can_be_set_aside(directory: Any) -> None:
    await fill(directory)
    path = segment(directory)
    begin, _ = groups(path.read_bytes())[3]
    flip(path, begin)
    damaged = path.read_bytes()
    store = FileStore(directory, corruption="set-aside")
    await store.open()
    assert store.recovered is not None
    assert f"from byte {begin} of journal/00000001.log on" in str(store.recovered)
    await store.close()
    assert (directory / "set-aside/0001/journal-00000001.log").read_bytes() == damaged
    # And that was all: it opens as usual from now on.
    assert await content(directory) == whole(1)
    assert check(str(directory)).problems == []


async def test_what_was_set_aside_before_is_never_overwritten(directory: Path) -> None:
    await fill(directory, checkpoint=True)
    flip(directory / "streams/0/1", 2)
    assert await content(directory, corruption="set-aside") is None
    kept = directory / "set-aside/0007"
    (directory / "set-aside/0001").rename(kept)
    flip(directory / "streams/0/2", 2)
    assert await content(directory, "t", corruption="set-aside") is None
    assert [path.name for path in kept.iterdir()] == ["streams-0-1"]
    assert [path.name for path in (directory / "set-aside/0008").iterdir()] == ["streams-0-2"]


@pytest.mark.parametrize("checkpoint", [False, True])
async def test_a_damaged_segment_header_is_refused(directory: Any, checkpoint: bool) -> None:
    await fill(directory, checkpoint=checkpoint)
    flip(segment(directory), 12)
    with pytest.raises(StoreError, match="its header is not as it was written"):
        await content(directory)
    expected = whole(2) if checkpoint else None
    assert await content(directory, corruption="set-aside") == expected


async def test_a_missing_data_file_is_refused(directory: Any) -> None:
    await fill(directory, checkpoint=True)
    (directory / "streams/0/1").unlink()
    with pytest.raises(StoreError, match="streams/0/1 is damaged at byte 0: it is missing"):
        await content(directory)
    problems = check(str(directory)).problems
    assert problems == ["streams/0/1, byte 0: it is missing; it holds the stream 's'"]


async def test_a_stream_without_its_data_file_is_set_aside_alone(directory: Any) -> None:
    await fill(directory, checkpoint=True)
    (directory / "streams/0/1").write_bytes(b"short")
    with pytest.raises(StoreError, match="it has 5 of 20 bytes"):
        await content(directory)
    assert await content(directory, "t", corruption="set-aside") == b"other"
    assert await content(directory) is None
    assert (directory / "set-aside/0001/streams-0-1").read_bytes() == b"short"


async def test_a_data_file_that_the_journal_holds_is_completed(directory: Any) -> None:
    await fill(directory)
    assert await content(directory) == whole()
    (directory / "streams/0/1").unlink()
    store = FileStore(directory)
    await store.open()
    assert store.recovered is not None
    assert store.recovered.rewritten_files == 1
    await store.close()
    (directory / "streams/0/1").write_bytes(whole()[:-1] + b"?")
    assert await content(directory) == whole()
    (directory / "streams/0/1").write_bytes(whole() + b"what was never acknowledged")
    assert await content(directory) == whole()
    assert (directory / "streams/0/1").read_bytes() == whole()


async def test_a_changed_data_file_is_found_by_a_check(directory: Any) -> None:
    await fill(directory, checkpoint=True)
    flip(directory / "streams/0/2", 2)
    assert check(str(directory)).problems == [
        "streams/0/2: its bytes are not those that were stored; it holds the stream 't'"
    ]


@pytest.mark.parametrize("position", range(20))
async def test_a_flipped_bit_in_a_data_file_is_refused_when_it_is_read(
    directory: Path, position: int, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(directory, checkpoint=True)
    flip(directory / "streams/0/1", position)
    for _ in range(2):
        with pytest.raises(ProtocolError, match="bytes 0 to 30 are not those that") as caught:
            await content(directory)
        assert (caught.value.status, caught.value.code) == (500, "stream-damaged")
        assert "start the server once with ?corruption=set-aside" in caught.value.message
    assert "The data file streams/0/1 of this stream is damaged" in caplog.text
    # The others are served, and writing goes on.
    assert await content(directory, "t") == b"other"


async def test_a_changed_data_file_can_be_set_aside(directory: Path) -> None:
    await fill(directory, checkpoint=True)
    for number in 1, 2:
        flip(directory / f"streams/0/{number}", 2)
    store = FileStore(directory, corruption="set-aside")
    await store.open()
    assert store.recovered is not None
    assert len(store.recovered.set_aside) == 2
    assert "its bytes are not those that were stored" in str(store.recovered)
    await store.close()
    assert await content(directory) is None
    assert await content(directory, "t") is None
    names = {path.name for path in (directory / "set-aside/0001").iterdir()}
    assert names == {"streams-0-1", "streams-0-2"}
    assert check(str(directory)).problems == []


async def test_of_a_long_data_file_only_what_is_read_is_verified(directory: Path) -> None:
    store = FileStore(directory)
    await store.open()
    await store.commit([commit("c", None, create=Head("i", b""))])
    long = bytes(range(256)) * 4 * 1024
    await store.commit([commit("a", "i", data=long)])
    await store.checkpoint()
    await store.commit([commit("b", "i", data=b"more")])
    await store.close()
    flip(directory / "streams/0/1", BLOCK + 5)
    store = FileStore(directory)
    await store.open()
    for _ in range(2):
        for start, length in (0, BLOCK), (2 * BLOCK, BLOCK), (3 * BLOCK + 1, BLOCK + 3):
            for read in (
                store.slice("s", "i", start, length),
                await store.read("s", "i", start, length),
            ):
                assert read is not None
                assert read.data == (long + b"more")[start : start + length]
        for start in 5, BLOCK, 2 * BLOCK - 1:
            with pytest.raises(ProtocolError, match=f"bytes {BLOCK} to {2 * BLOCK} are not"):
                store.slice("s", "i", start, BLOCK)
            with pytest.raises(ProtocolError, match=f"bytes {BLOCK} to {2 * BLOCK} are not"):
                await store.read("s", "i", start, BLOCK)
    await store.close()


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_snapshot_with_one_checksum_for_a_whole_data_file_is_understood(
    directory: Path, damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = b"0123456789abcdef" * (BLOCK // 8)

    def keep_as_before(path: str, entity: Stored, proven: int, sums: Sums) -> SnapshotEntity:
        kept = keep(path, entity, proven, sums)
        return msgspec.structs.replace(kept, crc=zlib.crc32(long), blocks=b"")

    with monkeypatch.context() as before:
        before.setattr("durable_streams_server.stores.file.checkpoint.keep", keep_as_before)
        before.setattr("durable_streams_server.stores.file.snapshot._MAGIC", b"DSSNAPSH")
        store = FileStore(directory)
        await store.open()
        await store.commit([commit("c", None, create=Head("i", b""), data=long)])
        await store.checkpoint()
        await store.commit([commit("a", "i", data=b"more")])
        await store.close()
    if damaged:
        flip(directory / "streams/0/1", BLOCK + 5)
    store = FileStore(directory)
    await store.open()
    await store.checkpoint()
    await store.close()
    store = FileStore(directory)
    await store.open()
    if damaged:
        with pytest.raises(ProtocolError, match="is damaged"):
            store.slice("s", "i", 0, len(long))
    else:
        found = store.slice("s", "i", 0, 2 * len(long))
        assert found is not None
        assert found.data == long + b"more"
    await store.close()


async def test_an_export_refuses_a_changed_data_file(directory: Path, tmp_path: Path) -> None:
    await fill(directory, checkpoint=True)
    flip(directory / "streams/0/2", 2)
    store = FileStore(directory)
    await store.open()
    with pytest.raises(ProtocolError, match="is damaged"):
        await export_store(store, io.BytesIO(), lambda _done, _all: None)
    await store.close()


@given(st.lists(st.integers(0, 3 * BLOCK), max_size=6))
def test_the_sums_of_a_file_do_not_depend_on_how_it_was_written(lengths: list[int]) -> None:
    whole = b"".join(bytes([number]) * length for number, length in enumerate(lengths))
    sums, written = NO_SUMS, 0
    for length in lengths:
        sums = extend(sums, written, whole[written : written + length])
        written += length
    assert sums == extend(NO_SUMS, 0, whole)
    for block in blocks(0, len(whole), all_blocks(len(whole))):
        assert sums.of_block(block) == zlib.crc32(whole[block * BLOCK : (block + 1) * BLOCK])


async def test_files_that_nothing_holds_are_removed(directory: Any) -> None:
    await fill(directory)
    (directory / "streams/0").mkdir(exist_ok=True)
    (directory / "streams/0/ff").write_bytes(b"?")
    assert await content(directory) == whole()
    assert not (directory / "streams/0/ff").exists()


async def test_a_half_written_snapshot_is_no_snapshot(directory: Any) -> None:
    await fill(directory, checkpoint=True)
    (directory / "snapshot-00000000000000ff.new").write_bytes(b"half")
    assert await content(directory) == whole()
    assert not (directory / "snapshot-00000000000000ff.new").exists()


async def test_a_missing_snapshot_is_refused(directory: Any) -> None:
    await fill(directory, checkpoint=True, segment_bytes=100)
    for path in directory.glob("snapshot-*"):
        path.unlink()
    with pytest.raises(StoreError, match="a snapshot or a segment is missing"):
        await content(directory)
    assert await content(directory, corruption="set-aside") is None
    assert list((directory / "set-aside/0001").iterdir())


async def test_a_damaged_snapshot_is_refused_at_every_byte(directory: Any) -> None:
    await fill(directory, checkpoint=True)
    (path,) = directory.glob("snapshot-*")
    pristine = path.read_bytes()
    for position in range(len(pristine)):
        flip(path, position)
        assert len(check(str(directory)).problems) == 1
        path.write_bytes(pristine[:position])
        assert len(check(str(directory)).problems) == 1
        path.write_bytes(pristine)
    flip(path, 40)
    with pytest.raises(StoreError, match="it is cut off or was changed"):
        await content(directory)
    assert await content(directory, corruption="set-aside") is None


async def test_a_missing_segment_is_refused(directory: Any) -> None:
    await fill(directory, segment_bytes=100, appends=6)
    assert len(list((directory / "journal").iterdir())) > 3
    segment(directory, 2).unlink()
    with pytest.raises(StoreError, match=r"was stored there and is not whole|should be there"):
        await content(directory)


async def test_a_journal_that_is_gone_is_missed(directory: Any) -> None:
    await fill(directory, checkpoint=True)
    for path in (directory / "journal").iterdir():
        path.unlink()
    with pytest.raises(StoreError, match="are missing"):
        await content(directory)
    assert await content(directory, corruption="set-aside") == whole(2)


async def test_a_check_changes_nothing(directory: Any) -> None:
    await fill(directory, checkpoint=True)
    path = segment(directory)
    path.write_bytes(path.read_bytes()[:-3])
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    heard = []
    checked = check(str(directory), lambda done, all_: heard.append((done, all_)))
    assert checked.problems == []
    assert checked.report.streams == 2
    assert heard[-1] == (checked.bytes, checked.bytes) == (5, 5)
    assert {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()} == before


def test_a_check_needs_a_store_that_nobody_uses(directory: Any) -> None:
    with pytest.raises(StoreError, match="holds no store"):
        check(str(directory))

    async def while_open() -> None:
        store = FileStore(directory)
        await store.open()
        with pytest.raises(StoreError, match="is in use; stop its server first"):
            check(str(directory))
        await store.close()

    asyncio.run(while_open())
