"""A server that comes back with older data: offsets of what was lost are refused, never read as
positions in other data.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from processes import Client, serving
from servers import BINARIES, RedisServer, eventually

from durable_streams_core.entities import Applied, Change, Commit, Delta, Guard
from durable_streams_core.errors import OffsetGone, Unavailable
from durable_streams_core.offsets import format_offset
from durable_streams_core.protocol import START
from durable_streams_redis import RedisStore
from durable_streams_server import Engine

TIMELINES = 32
"""How many earlier timelines a stream remembers."""

TEXT = {"Content_Type": "text/plain"}


def dump(server: RedisServer) -> None:
    """Keep what the server holds now, for :func:`back_to_the_dump`."""
    server.do("SAVE")
    shutil.copy(Path(server.directory) / "dump.rdb", Path(server.directory) / "kept.rdb")


def back_to_the_dump(server: RedisServer) -> None:
    """End the server, and start it with what it held at the dump."""
    server.kill()
    shutil.copy(Path(server.directory) / "kept.rdb", Path(server.directory) / "dump.rdb")
    server.start()


async def appended(engine: Engine, path: str, data: str) -> str:
    """The offset after an append that is tried until the server is there."""
    while True:
        try:
            return (await engine.append(path, data)).offset
        except Unavailable as error:
            assert error.status == 503
            await asyncio.sleep(0.01)


async def heard(engine: Engine, wanted: Callable[[Sequence[Change] | None], bool]) -> None:
    """Return once the store has told of such changes; None says that some may have been missed."""
    told = asyncio.Event()
    stop = engine.store.watch(lambda changes: told.set() if wanted(changes) else None)
    try:
        await told.wait()
    finally:
        stop()


def both(changes: Sequence[Change] | None) -> bool:
    """Whether a stream has `A;` and `B;` now."""
    return any(change.tail == len("A;B;") for change in changes or ())


@asynccontextmanager
async def two_processes(server: RedisServer, prefix: str) -> AsyncIterator[tuple[Engine, Engine]]:
    async with (
        Engine(RedisStore(server.url, prefix=prefix)) as one,
        Engine(RedisStore(server.url, prefix=prefix)) as other,
    ):
        yield one, other


@pytest.mark.parametrize("kind", list(BINARIES))
async def test_an_offset_of_what_was_lost_is_refused_before_and_after_it_is_overwritten(
    kind: str, prefix: str
) -> None:
    with RedisServer(binary=BINARIES[kind]) as server:
        async with two_processes(server, prefix) as (one, other):
            await one.create("p", content_type="text/plain")
            survived = await appended(one, "p", "A;")
            dump(server)
            lost = await appended(one, "p", "B;")
            await asyncio.to_thread(back_to_the_dump, server)
            with pytest.raises(OffsetGone):
                await read_on(other, "p", lost)
            assert (await read_on(one, "p", survived)) == b""
            for data in ("C;", "D;", "E;"):
                end = await appended(one, "p", data)
                for engine in (one, other):
                    with pytest.raises(OffsetGone):
                        await read_on(engine, "p", lost)
            assert await read_on(other, "p", survived) == b"C;D;E;"
            assert await read_on(other, "p", START) == b"A;C;D;E;"
            assert survived < lost < end


async def read_on(engine: Engine, path: str, offset: str) -> bytes:
    """The response to a reader at an offset, repeated until the server is there."""
    while True:
        try:
            return (await engine.read(path, offset)).data
        except Unavailable:
            await asyncio.sleep(0.01)


async def test_offsets_stay_valid_over_many_restarts_that_lose_nothing(prefix: str) -> None:
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        async with Engine(RedisStore(server.url, prefix=prefix)) as engine:
            await engine.create("p", content_type="text/plain")
            offsets = [await appended(engine, "p", "0;")]
            for turn in range(1, 5):
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                offsets.append(await appended(engine, "p", f"{turn};"))
            assert offsets == sorted(set(offsets))
            for turn, offset in enumerate(offsets):
                wanted = "".join(f"{n};" for n in range(turn + 1, 5)).encode()
                assert await read_on(engine, "p", offset) == wanted


async def test_followers_that_saw_what_was_lost_are_ended_and_others_go_on(prefix: str) -> None:
    """In whatever process they are, and whether they have seen all of it or a part."""
    with RedisServer() as server:
        async with two_processes(server, prefix) as (one, other):
            for path in ("seen", "kept"):
                await one.create(path, content_type="text/plain", data="A;")
            dump(server)
            told = [asyncio.ensure_future(heard(engine, both)) for engine in (one, other)]
            await asyncio.sleep(0)
            await appended(one, "seen", "B;")
            # Nothing later sends the followers to the store while it is away.
            await asyncio.gather(*told)
            followers = {
                (path, n): aiter(engine.follow(path))
                for n, engine in enumerate((one, other))
                for path in ("seen", "kept")
            }
            for (path, _), follower in followers.items():
                data = b""
                while data != (b"A;B;" if path == "seen" else b"A;"):
                    data += (await anext(follower)).data
            waiting = {key: asyncio.ensure_future(anext(f)) for key, f in followers.items()}
            await asyncio.to_thread(back_to_the_dump, server)
            # The same length as what was lost: at equal positions, and after them.
            for data in ("C;", "D;"):
                for path in ("seen", "kept"):
                    await appended(one, path, data)
            for (path, _), answer in waiting.items():
                if path == "kept":
                    assert (await answer).data[:2] == b"C;"
                    continue
                with pytest.raises(OffsetGone):
                    await answer


async def test_over_http_it_is_410_for_catching_up_long_polls_and_events(prefix: str) -> None:
    with (
        RedisServer() as server,
        serving(f"{server.url}?prefix={prefix}", "--long-poll-timeout", "20") as url,
    ):
        async with Client([url]) as client:
            await client("PUT", "p", **TEXT)
            await client("POST", "p", "A;", **TEXT)
            dump(server)
            _, headers, _ = await client("POST", "p", "B;", **TEXT)
            lost = headers["Stream-Next-Offset"]
            waiting = asyncio.ensure_future(
                client("GET", "p", params={"offset": lost, "live": "long-poll"})
            )
            for _ in range(3):
                await client("HEAD", "p")
            await asyncio.to_thread(back_to_the_dump, server)
            status, _, body = await waiting
            assert (status, b"offset-gone" in body) == (410, True)
            for live in ({}, {"live": "long-poll"}, {"live": "sse"}):
                while True:
                    status, _, body = await client("GET", "p", params={"offset": lost} | live)
                    if status != 503:
                        break
                assert (status, b"offset-gone" in body) == (410, True)


async def test_a_producer_s_resend_after_a_loss_stores_each_message_once(prefix: str) -> None:
    """It goes on from what the server remembers, as after any lost answer."""
    claim = {"Producer_Id": "me", "Producer_Epoch": "0"} | TEXT
    with RedisServer() as server, serving(f"{server.url}?prefix={prefix}") as url:
        async with Client([url]) as client:
            await client("PUT", "p", **TEXT)
            await client("POST", "p", "0;", **claim, Producer_Seq="0")
            dump(server)
            await client("POST", "p", "1;", **claim, Producer_Seq="1")
            await asyncio.to_thread(back_to_the_dump, server)
            status, headers = 503, {}
            while status == 503:
                status, headers, _ = await client("POST", "p", "2;", **claim, Producer_Seq="2")
            assert (status, headers["Producer-Expected-Seq"]) == (409, "1")
            for seq in ("1", "2", "2"):
                await client("POST", "p", f"{seq};", **claim, Producer_Seq=seq)
            assert (await client("GET", "p"))[2] == b"0;1;2;"


async def test_data_that_goes_back_within_one_server_process_is_a_loss_too(prefix: str) -> None:
    """Nothing but the feed tells of it: the process and its connections are what they were."""
    with RedisServer() as server:
        async with two_processes(server, prefix) as (one, other):
            await one.create("p", content_type="text/plain")
            await appended(one, "p", "A;")
            dump(server)
            lost = await appended(one, "p", "B;")
            # Both have to have seen it, or there is nothing that they could miss.
            for engine in (one, other):
                assert (await engine.read("p")).data == b"A;B;"
            resyncs = [
                asyncio.ensure_future(heard(engine, lambda changes: changes is None))
                for engine in (one, other)
            ]
            await asyncio.sleep(0)
            server.do("DEBUG", "RELOAD", "NOSAVE")
            await asyncio.gather(*resyncs)
            await appended(one, "p", "C;")
            for engine in (one, other):
                with pytest.raises(OffsetGone):
                    await read_on(engine, "p", lost)


async def test_a_master_that_followed_another_one_meanwhile_may_have_lost_data(
    prefix: str,
) -> None:
    """It is the same process as before, and the last one that the shard was written on."""
    fast = ("--repl-diskless-sync-delay", "0", "--repl-diskless-load", "swapdb")
    with RedisServer(*fast) as server, RedisServer(*fast) as older:
        async with Engine(RedisStore(server.url, prefix=prefix)) as engine:
            await engine.create("p", content_type="text/plain")
            survived = await appended(engine, "p", "A;")
            await asyncio.to_thread(follow, older, server)
            older.do("REPLICAOF", "NO", "ONE")
            lost = await appended(engine, "p", "B;")
            await asyncio.to_thread(follow, server, older)
            server.do("REPLICAOF", "NO", "ONE")
            await appended(engine, "p", "C;")
            assert await read_on(engine, "p", survived) == b"C;"
            with pytest.raises(OffsetGone):
                await read_on(engine, "p", lost)


def follow(replica: RedisServer, master: RedisServer) -> None:
    """Make a server a replica that holds what its master holds."""
    replica.do("REPLICAOF", "127.0.0.1", master.port)

    def in_sync() -> bool:
        with replica.client() as client:
            return client.info("replication")["master_link_status"] == "up"

    eventually(in_sync)


async def test_bytes_that_another_program_removed_are_reported_and_not_skipped(
    server: RedisServer, prefix: str
) -> None:
    async with Engine(RedisStore(server.url, prefix=prefix)) as engine:
        await engine.create("p", content_type="text/plain", data="A;")
        (key,) = server.do("KEYS", f"{prefix}:*:b:*:p")
        server.do("DEL", key)
        with pytest.raises(Unavailable) as caught:
            await engine.read("p")
        assert (caught.value.status, caught.value.code) == (500, "stream-damaged")


async def test_an_offset_from_more_timelines_ago_than_a_stream_remembers_is_refused(
    valkey: RedisServer, prefix: str
) -> None:
    """For all that is known, what it counted may have been lost."""
    source = f"{valkey.url}?prefix={prefix}&shards=1"
    async with Engine(source) as engine:
        await engine.create("p", content_type="text/plain")
        offsets = [(await engine.append("p", "0")).offset]
        found = await engine.store.load("p")
        assert found is not None
    for turn in range(1, TIMELINES + 2):
        # As if another server process had written last.
        valkey.do("SET", f"{prefix}:{{0}}:run", "another")
        store = RedisStore(valkey.url, prefix=prefix)
        await store.open()
        guard = Guard(found.head.incarnation, open=True)
        (outcome,) = await store.commit([Commit(f"{turn}", "p", guard, Delta(data=b"x"), turn)])
        await store.close()
        assert isinstance(outcome, Applied)
        offsets.append(format_offset(outcome.timeline, outcome.tail))
    async with Engine(source) as engine:
        with pytest.raises(OffsetGone):
            await engine.read("p", offsets[0])
        assert len((await engine.read("p", offsets[1])).data) == TIMELINES
