"""A process that runs out of file descriptors or memory for a while loses nothing by it."""

import asyncio
import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faulty_disk import FaultyDisk
from inline_worker import InlineWorker

from durable_streams_core.entities import Applied, Commit, Delta, Guard, Head, Outcome, Refused
from durable_streams_core.errors import Unavailable
from durable_streams_server.stores.file import FileStore
from durable_streams_server.stores.file.disk import LocalDisk


def create(path: str) -> Commit:
    return Commit(f"create-{path}", path, Guard(None), Delta(create=Head(f"i{path}", b"")))


def append(path: str, data: bytes, name: str) -> Commit:
    return Commit(name, path, Guard(f"i{path}", open=True), Delta(data=data))


def data_of(store: FileStore, path: str) -> bytes:
    found = store.slice(path, f"i{path}", 0, 1 << 30)
    assert found is not None
    return found.data


def open_descriptors() -> int:
    return len(LocalDisk("/dev/fd").names(""))


@contextmanager
def no_descriptor_free() -> Iterator[None]:
    """Use up every descriptor that this process may still open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in taken:
            os.close(fd)


async def test_segments_data_files_and_checkpoints_are_written_when_no_descriptor_is_free(
    tmp_path: Path,
) -> None:
    store = FileStore(tmp_path, segment_bytes=20_000, save_bytes=5_000)
    await store.open()
    await store.commit([create("a"), create("b")])
    with no_descriptor_free():
        for number in range(20):
            for path in "a", "b":
                (outcome,) = await store.commit([append(path, b"x" * 3000, f"{path}{number}")])
                assert outcome == Applied(3000 * (number + 1))
        await store.checkpoint()
        assert data_of(store, "a") == b"x" * 60_000
        assert await store.commit([append("a", b"y", "last")]) == [Applied(60_001)]
    names = LocalDisk(tmp_path).names("")
    assert sum(name.startswith("snapshot-") for name in names) == 1
    assert len(LocalDisk(tmp_path).names("journal")) == 1
    await store.close()
    store = FileStore(tmp_path)
    await store.open()
    assert data_of(store, "a") == b"x" * 60_000 + b"y"
    assert data_of(store, "b") == b"x" * 60_000
    await store.close()


async def test_the_spare_descriptors_come_back(tmp_path: Path) -> None:
    store = FileStore(tmp_path, segment_bytes=1_000)
    await store.open()
    await store.commit([create("a")])
    before = open_descriptors()
    for number in range(5):
        with no_descriptor_free():
            await store.commit([append("a", b"x" * 2000, f"{number}")])
            await store.checkpoint()
    assert open_descriptors() <= before + 1  # the data file, open for reading
    await store.close()


def test_a_store_says_how_many_descriptors_it_may_need(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    store = FileStore(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        few = store.descriptors
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[1], 4096), limits[1]))
        assert 16 < few < 128 < store.descriptors < 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Story:
    """A short life in which one step finds no descriptor or no memory free."""

    def __init__(self, short_in: int) -> None:
        rng = random.Random(1)
        self.disk = FaultyDisk(rng)
        self.short_in = short_in
        self.rng = rng
        self.number = 0
        self.expected = b""

    def store(self) -> FileStore:
        return FileStore(
            "simulated",
            segment_bytes=2000,
            save_bytes=1000,
            disk=self.disk,
            worker=lambda _: InlineWorker(self.rng),
            draw=self.rng.randbytes,
        )

    async def append(self, store: FileStore) -> Outcome:
        self.number += 1
        data = b"%04d" % self.number * 100
        (outcome,) = await store.commit([append("a", data, f"{self.number}")])
        if isinstance(outcome, Applied):
            self.expected += data
            assert outcome == Applied(len(self.expected))
        return outcome

    async def run(self) -> bool:
        """Whether the shortage came before the end."""
        store = self.store()
        await store.open()
        await store.commit([create("a")])
        self.disk.short_in = self.short_in
        for _ in range(12):
            outcome = await self.append(store)
            if not isinstance(outcome, Applied):
                assert isinstance(outcome, Refused)
                assert outcome.code == "unavailable"
                assert "nothing was stored. Send it again" in outcome.message
            if self.number % 4 == 0:
                await store.checkpoint()
            try:
                assert data_of(store, "a") == self.expected
            except Unavailable as unavailable:
                assert "Ask again in a moment" in unavailable.message
        happened = self.disk.short_in is None
        self.disk.short_in = None
        # Whatever step it was: from now on everything works.
        assert isinstance(await self.append(store), Applied)
        await store.checkpoint()
        assert any(name.startswith("snapshot-") for name in self.disk.names(""))
        await store.close()
        store = self.store()
        await store.open()
        assert data_of(store, "a") == self.expected
        await store.close()
        return happened


def test_whichever_step_finds_no_descriptor_or_memory_free_is_tried_again() -> None:
    steps = 0
    while asyncio.run(Story(steps).run()):
        steps += 1
    assert steps > 50
