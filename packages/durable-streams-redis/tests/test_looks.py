"""A read of what this process has read before: one native look at the head, and what was
acknowledged before it is never missed.
"""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from proxies import AFTER, BEFORE, DURING, INSIDE, Proxy
from servers import RedisServer

from durable_streams_core.entities import Head
from durable_streams_core.errors import NotFound, OffsetGone, Unavailable
from durable_streams_core.offsets import BEGINNING, Offset
from durable_streams_core.reads import parse_read_offset
from durable_streams_redis import RedisStore
from durable_streams_server import Engine
from durable_streams_server.engine.pages import Page


async def looked(engine: Engine, path: str, offset: Offset | None = BEGINNING) -> Page | Head:
    """The page that a look comes to, or the head from which it is still to be made; raises its
    error.
    """
    future: asyncio.Future[Page | Head] = asyncio.get_running_loop().create_future()

    def done(found: Page | Head | Exception) -> None:
        if isinstance(found, Exception):
            future.set_exception(found)
        else:
            future.set_result(found)

    assert engine.look_for_page(path, offset, done)
    return await future


async def read(engine: Engine, path: str) -> bytes:
    """The data of a stream, as a GET reads it."""
    found = await looked(engine, path)
    page = found if isinstance(found, Page) else await engine.page(path, BEGINNING, head=found)
    return page.data


def calls(server: RedisServer) -> dict[str, int]:
    with server.client() as client:
        stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()}


async def test_a_page_that_is_kept_costs_no_script_and_brings_no_bytes(prefix: str) -> None:
    with RedisServer() as server:
        async with Engine(RedisStore(server.url, prefix=prefix)) as engine:
            await engine.create("p", content_type="text/plain", data="data;")
            assert await read(engine, "p") == b"data;"
            before = calls(server)
            for _ in range(5):
                page = await looked(engine, "p")
                assert isinstance(page, Page)
                assert page.data == b"data;"
            after = calls(server)
            assert after["hmget"] - before["hmget"] == 5
            assert after["evalsha"] == before["evalsha"]
            assert after.get("xrange") == before.get("xrange")


async def test_a_look_at_the_tail_needs_no_page(server: RedisServer, prefix: str) -> None:
    async with Engine(RedisStore(server.url, prefix=prefix)) as engine:
        info = await engine.create("p", content_type="text/plain", data="data;")
        for offset in (None, parse_read_offset(info.offset)):
            page = await looked(engine, "p", offset)
            assert isinstance(page, Page)
            assert (page.data, page.up_to_date) == (b"", True)


async def test_what_another_process_changed_is_never_missed(
    server: RedisServer, prefix: str
) -> None:
    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(Engine(RedisStore(server.url, prefix=prefix)))
            for _ in range(2)
        ]
        with pytest.raises(NotFound):
            await read(other, "p")
        await one.create("p", content_type="text/plain")
        wanted = b""
        for n in range(30):
            await one.append("p", f"{n};")
            wanted += b"%d;" % n
            assert await asyncio.gather(read(other, "p"), read(other, "p")) == [wanted] * 2
            assert isinstance(await looked(other, "p"), Page)
        await one.close_stream("p")
        await read(other, "p")
        page = await looked(other, "p")
        assert isinstance(page, Page)
        assert page.closed
        await one.delete("p")
        with pytest.raises(NotFound):
            await read(other, "p")
        await one.create("p", content_type="text/plain", data="another;")
        assert await read(other, "p") == b"another;"


async def test_a_page_holds_an_append_that_came_after_the_look_at_the_head(
    server: RedisServer, prefix: str
) -> None:
    """A page that ended before it would not be up to date, however often a reader asked."""
    async with Engine(RedisStore(server.url, prefix=prefix)) as engine:
        await engine.create("p", content_type="text/plain", data="A;")
        head = await looked(engine, "p")
        assert isinstance(head, Head)
        await engine.append("p", "B;")
        page = await engine.page("p", BEGINNING, head=head)
        assert (page.data, page.up_to_date) == (b"A;B;", True)
        assert await read(engine, "p") == b"A;B;"


async def test_a_replica_is_not_believed(prefix: str) -> None:
    """A native read is not refused by a replica, though it holds the past."""
    with RedisServer() as server, RedisServer() as other:
        async with Engine(RedisStore(server.url, prefix=prefix)) as engine:
            await engine.create("p", content_type="text/plain", data="data;")
            assert await read(engine, "p") == b"data;"
            # It loses no connection, and keeps its data as long as it reaches no master.
            server.do("CONFIG", "SET", "masterauth", "wrong")
            server.do("REPLICAOF", "127.0.0.1", other.port)
            with pytest.raises(Unavailable):
                await looked(engine, "p")


async def test_a_page_of_a_stream_that_has_expired_is_not_served(
    server: RedisServer, prefix: str
) -> None:
    clock = Ahead()
    async with Engine(clock.store(server.url, prefix=prefix)) as engine:
        await engine.create("p", content_type="text/plain", data="data;", ttl=1000)
        assert await read(engine, "p") == b"data;"
        assert isinstance(await looked(engine, "p"), Page)
        # A tenth of its life later the read has to renew it.
        clock.ahead = 300_000
        assert isinstance(await looked(engine, "p"), Head)
        clock.ahead = 10_000_000
        with pytest.raises(NotFound):
            await looked(engine, "p")


class Ahead:
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0

    def store(self, url: str, *, prefix: str) -> RedisStore:
        clock = self

        class AheadStore(RedisStore):
            def now(self) -> int:
                return super().now() + clock.ahead

        return AheadStore(url, prefix=prefix)


async def test_a_fork_reads_what_it_has_from_its_source_anew(
    server: RedisServer, prefix: str
) -> None:
    async with Engine(RedisStore(server.url, prefix=prefix)) as engine:
        await engine.create("source", content_type="text/plain", data="shared;")
        await engine.fork("fork", "source", data="own;")
        for _ in range(3):
            assert await read(engine, "fork") == b"shared;own;"
            assert isinstance(await looked(engine, "fork"), Head)


async def test_what_was_lost_is_not_served_from_memory(prefix: str) -> None:
    with RedisServer() as server:
        async with Engine(RedisStore(server.url, prefix=prefix)) as engine:
            await engine.create("p", content_type="text/plain", data="A;")
            server.do("SAVE")
            appended = await engine.append("p", "B;")
            assert await read(engine, "p") == b"A;B;"
            # Without a save.
            server.kill()
            server.start()
            assert await read_when_back(engine, "p") == b"A;"
            await engine.append("p", "C;")
            assert await read(engine, "p") == b"A;C;"
            with pytest.raises(OffsetGone):
                await looked(engine, "p", parse_read_offset(appended.offset))


async def read_when_back(engine: Engine, path: str) -> bytes:
    while True:
        try:
            return await read(engine, path)
        except Unavailable:
            await asyncio.sleep(0)


@pytest.mark.parametrize("cut", [BEFORE, INSIDE, DURING, AFTER])
async def test_a_look_that_is_cut_is_asked_again(
    server: RedisServer, prefix: str, cut: str
) -> None:
    async with (
        Proxy(server.port, lambda data: b"HMGET" in data) as proxy,
        Engine(RedisStore(proxy.url, prefix=prefix)) as engine,
    ):
        await engine.create("p", content_type="text/plain", data="data;")
        assert await read(engine, "p") == b"data;"
        proxy.cut = cut
        assert await asyncio.gather(*(read(engine, "p") for _ in range(5))) == [b"data;"] * 5
        assert proxy.cuts == 1


async def test_looks_at_many_streams_of_a_cluster_go_to_their_nodes(
    nodes: list[RedisServer], prefix: str
) -> None:
    url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
    async with Engine(RedisStore(url, prefix=prefix)) as engine:
        paths = [f"p{n}" for n in range(300)]
        await asyncio.gather(
            *(engine.create(path, content_type="text/plain", data=path) for path in paths)
        )
        wanted = [path.encode() for path in paths]
        for _ in range(2):
            assert await asyncio.gather(*(read(engine, path) for path in paths)) == wanted


async def test_a_node_is_not_to_blame_for_the_time_in_which_our_own_loop_did_not_run(
    nodes: list[RedisServer], prefix: str
) -> None:
    """A node that owes replies and sends none for half a second is asked nothing more. That it has
    sent none is known only of the time in which this process could have read them.
    """
    store = RedisStore(f"redis+cluster://127.0.0.1:{nodes[0].port}", prefix=prefix)
    async with Engine(store) as engine:
        paths = [f"p{n}" for n in range(24)]
        for path in paths:
            await engine.create(path, content_type="text/plain")
        for node in nodes:
            node.pause()
        owed = [asyncio.ensure_future(store.load(path)) for path in paths]
        await turns()
        # The loop does something else for longer than that.
        time.sleep(0.7)  # noqa: ASYNC251
        for node in nodes:
            node.resume()
        assert all(await asyncio.gather(*(store.load(path) for path in paths), *owed))


async def turns() -> None:
    """Let everything be done that can be done without waiting for a server."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_foreign_value_is_reported(server: RedisServer, prefix: str) -> None:
    async with Engine(RedisStore(server.url, prefix=prefix)) as engine:
        await engine.create("p", content_type="text/plain", data="data;")
        assert await read(engine, "p") == b"data;"
        (key,) = server.do("KEYS", f"{prefix}:*:e:p")
        server.do("SET", key, "foreign")
        with pytest.raises(Unavailable) as caught:
            await looked(engine, "p")
        assert caught.value.code == "foreign-value"


async def test_a_look_after_the_store_was_closed_says_so(server: RedisServer, prefix: str) -> None:
    engine = Engine(RedisStore(server.url, prefix=prefix))
    async with engine:
        await engine.create("p", content_type="text/plain", data="data;")
    with pytest.raises(Unavailable):
        await looked(engine, "p")


async def test_a_head_that_cannot_be_read_is_an_error_and_not_a_wait_without_end(
    server: RedisServer, prefix: str
) -> None:
    """Written by another version, or restored by hand."""
    async with Engine(RedisStore(server.url, prefix=prefix)) as engine:
        await engine.create("p", content_type="text/plain", data="data;")
        (key,) = server.do("KEYS", f"{prefix}:*:e:p")
        (start,) = (field for field in server.do("HKEYS", key) if field == b"t")
        tail = server.do("HGET", key, start)
        server.do("HSET", key, start, "not a number")
        async with asyncio.timeout(60):
            with pytest.raises(ValueError, match="invalid literal"):
                await looked(engine, "p")
        server.do("HSET", key, start, tail)
        assert await read(engine, "p") == b"data;"
