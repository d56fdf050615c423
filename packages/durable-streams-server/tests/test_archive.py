"""Everything of one store, moved to another: offsets, forks and producers as they were."""

import asyncio
import io
from pathlib import Path

import pytest
from click.testing import CliRunner
from tokens import at

from durable_streams_core.errors import StoreError
from durable_streams_core.operations import ProducerClaim
from durable_streams_core.registry import create_store
from durable_streams_core.store import Store
from durable_streams_server.cli.command import main
from durable_streams_server.engine.engine import Engine
from durable_streams_server.stores.archive import PIECE, export_store, import_store
from durable_streams_server.stores.file import FileStore
from durable_streams_server.stores.memory import MemoryStore


def ignore(_done: int, _all: int) -> None:
    pass


async def filled(store: Store) -> None:
    """A stream of several pieces, forks of it, a soft-deleted source, a closed one, a producer."""
    async with Engine(store) as engine:
        await engine.create("big", content_type="text/plain")
        for letter in "abc":
            await engine.append("big", letter * (PIECE // 2))
        await engine.fork("fork", "big", offset=at((await engine.head("big")).offset, 10))
        await engine.append("fork", "its own")
        await engine.create("source", content_type="application/json", ttl=3600)
        await engine.append("source", b'[1,2,{"three":3}]')
        await engine.fork("heir", "source")
        await engine.delete("source")
        await engine.create("done", content_type="text/plain")
        await engine.append("done", "all", producer=ProducerClaim("p", 1, 0))
        await engine.close_stream("done", "!")


async def contents(store: Store) -> dict:
    """Everything, as the interface shows it."""
    await store.open()
    found = {}
    for path, head in await store.list("", "", 100):
        facts = await store.load(path)
        assert facts is not None
        fields = []
        for kind in facts.counts:
            fields += await store.scan(path, head.incarnation, kind, "", 100)
        read = await store.read(path, head.incarnation, head.start, 1 << 30)
        assert read is not None
        found[path] = head, fields, read.data
    await store.close()
    return found


async def moved(source: Store, target: Store) -> list[tuple[int, int]]:
    heard: list[tuple[int, int]] = []
    archive = io.BytesIO()
    await source.open()
    count = await export_store(source, archive, ignore)
    await source.close()
    archive.seek(0)
    await target.open()
    assert await import_store(target, archive, lambda *so_far: heard.append(so_far)) == count
    await target.close()
    return heard


async def test_every_store_gets_what_the_other_had(tmp_path: Path) -> None:
    memory = MemoryStore()
    await filled(memory)
    expected = await contents(memory)
    assert set(expected) == {"big", "fork", "source", "heir", "done"}
    heard = await moved(memory, FileStore(tmp_path / "one"))
    assert await contents(FileStore(tmp_path / "one")) == expected
    total = sum(len(data) for _, _, data in expected.values())
    assert heard[-1] == (total, total)
    again = MemoryStore()
    await moved(FileStore(tmp_path / "one"), again)
    assert await contents(again) == expected
    async with Engine(again) as engine:
        assert (await engine.read("fork")).data == b"a" * 10 + b"its own"


async def test_an_import_stops_at_a_path_that_is_taken() -> None:
    memory = MemoryStore()
    await filled(memory)
    with pytest.raises(StoreError, match="'big' is there already, so the import stops"):
        await moved(memory, memory)


async def test_an_import_that_was_broken_off_can_be_repeated() -> None:
    memory, target = MemoryStore(), MemoryStore()
    await filled(memory)
    archive = io.BytesIO()
    await export_store(memory, archive, ignore)
    whole = archive.getvalue()
    with pytest.raises(StoreError, match="cut off or damaged"):
        await import_store(target, io.BytesIO(whole[: PIECE + 1000]), ignore)
    async with Engine(target) as engine:
        with pytest.raises(Exception, match="stream was deleted"):
            await engine.head("big")
    assert await import_store(target, io.BytesIO(whole), ignore) == 5
    assert await contents(target) == await contents(memory)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 100])
async def test_what_is_no_archive_is_told(content: bytes) -> None:
    with pytest.raises(StoreError, match="no archive that this command has written"):
        await import_store(MemoryStore(), io.BytesIO(content), ignore)


async def test_a_flipped_bit_is_found() -> None:
    memory = MemoryStore()
    async with Engine(memory) as engine:
        await engine.create("s", content_type="text/plain")
        await engine.append("s", "data")
    archive = io.BytesIO()
    await export_store(memory, archive, ignore)
    whole = archive.getvalue()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 4
        with pytest.raises(StoreError):
            await import_store(MemoryStore(), io.BytesIO(bytes(damaged)), ignore)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.stdout + (result.stderr if result.exit_code else "")


def test_the_commands(tmp_path: Path) -> None:
    url, archive = f"file:{tmp_path}/data", str(tmp_path / "archive")
    asyncio.run(filled(create_store(url)))
    assert run("export", url, archive) == (0, f"5 streams and subscriptions are in {archive}.\n")
    status, said = run("import", archive, f"file:{tmp_path}/other")
    assert (status, said) == (0, f"5 streams and subscriptions are in file:{tmp_path}/other.\n")
    status, said = run("check", f"{tmp_path}/other")
    assert (status, said.splitlines()[-1]) == (0, "Everything is as it was stored.")
    status, said = run("import", archive, f"file:{tmp_path}/other")
    assert status == 1
    assert "is there already" in said
    segment = min((tmp_path / "other/journal").iterdir())
    damaged = bytearray(segment.read_bytes())
    damaged[100] ^= 1
    segment.write_bytes(damaged)
    status, said = run("check", f"{tmp_path}/other")
    assert status == 1
    assert "journal/00000001.log, byte 56: group 1 was stored there and is not whole" in said
    assert run("check", str(tmp_path))[0] == 1
    assert run("export", url, f"{tmp_path}/no/archive")[0] == 1
