"""Timelines on disk: those of removed streams are remembered, and older directories still open."""

import tarfile
from pathlib import Path

import pytest
from tokens import at

from durable_streams_core.offsets import NO_TIMELINE, parse_offset
from durable_streams_server import Engine, OffsetGone
from durable_streams_server.stores.file import FileStore

BEFORE_TIMELINES = Path(__file__).with_name("before_timelines.tar.gz")
"""A directory that was written before heads had timelines: a snapshot and a journal after it."""
HOUR = 3_600_000


@pytest.fixture
def before_timelines(tmp_path: Path) -> Path:
    with tarfile.open(BEFORE_TIMELINES) as archive:
        archive.extractall(tmp_path / "data", filter="data")
    return tmp_path / "data"


async def test_streams_from_before_timelines_keep_their_offsets(before_timelines: Path) -> None:
    async with Engine(FileStore(before_timelines)) as streams:
        for path, data, tail in (
            ("text", b"hello world", 11),
            ("later", b"after the checkpoint", 20),
            ("fork", b"[[1,2],[3],[4]]", 17),
        ):
            group = await streams.read(path, f"{0:016}_{0:016}")
            assert group.data.replace(b"\n", b"") == data
            assert group.offset == f"{0:016}_{tail:016}"
            assert (await streams.read(path, group.offset)).data in (b"", b"[]")
        appended = await streams.append("text", "!", expected=f"{0:016}_{11:016}")
        assert appended.offset == f"{0:016}_{12:016}"


async def test_a_stream_from_before_timelines_that_is_created_again_is_told_from_the_old_one(
    before_timelines: Path,
) -> None:
    old = f"{0:016}_{3:016}"
    async with Engine(FileStore(before_timelines)) as streams:
        await streams.delete("gone")
        new = await streams.create("gone", content_type="text/plain", data="newer data")
        assert new.offset > old
        with pytest.raises(OffsetGone):
            await streams.read("gone", old)


async def test_a_fork_of_a_stream_from_before_timelines_continues_its_offsets(
    before_timelines: Path,
) -> None:
    async with Engine(FileStore(before_timelines)) as streams:
        source = await streams.head("text")
        fork = await streams.fork("new", "text", offset=at(source.offset, 5))
        assert fork.offset == at(source.offset, 5)
        own = await streams.append("new", "!")
        assert parse_offset(own.offset).timeline > NO_TIMELINE
        assert (await streams.read("new", at(source.offset, 4))).data == b"o!"


@pytest.mark.parametrize("checkpoint", [False, True])
async def test_a_later_timeline_after_a_restart_with_the_clock_gone_back(
    tmp_path: Path, *, checkpoint: bool
) -> None:
    """Offsets of a stream that was deleted before the restart must not be those of the next."""
    store = FileStore(tmp_path, clock=lambda: 2 * HOUR)
    async with Engine(store) as streams:
        told = []
        for _ in range(3):
            told.append((await streams.create("a", content_type="text/plain", data="x")).offset)
            await streams.delete("a")
        if checkpoint:
            await store.checkpoint()
    async with Engine(FileStore(tmp_path, clock=lambda: HOUR)) as streams:
        told.append((await streams.create("a", content_type="text/plain", data="y")).offset)
        assert told == sorted(set(told))
        for offset in told[:-1]:
            with pytest.raises(OffsetGone):
                await streams.read("a", offset)


async def test_a_forks_past_survives_a_checkpoint_and_a_restart(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    async with Engine(store) as streams:
        source = await streams.create("source", content_type="text/plain", data="shared")
        await streams.fork("fork", "source", data="own")
        before = await streams.head("fork")
        await store.checkpoint()
    async with Engine(FileStore(tmp_path)) as streams:
        assert await streams.head("fork") == before
        assert (await streams.read("fork", source.offset)).data == b"own"
        assert (await streams.read("fork", at(source.offset, 3))).data == b"redown"
