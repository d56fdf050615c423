"""Any number of server processes on one store behave as one server."""

import asyncio
import random
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
from linearizability import Event, is_linearizable
from processes import STREAMS, Client, serving, serving_together
from servers import RedisServer, eventually

from durable_streams_redis import RedisStore
from durable_streams_server import Engine

TEXT = {"Content_Type": "text/plain"}


@pytest.fixture(scope="module")
def four(valkey: RedisServer) -> Iterator[list[str]]:
    with serving_together(4, f"{valkey.url}?prefix=four", "--long-poll-timeout", "2") as urls:
        yield urls


@pytest.fixture(scope="module")
def four_on_a_cluster(nodes: list[RedisServer]) -> Iterator[list[str]]:
    source = f"redis+cluster://127.0.0.1:{nodes[0].port}?prefix=four"
    with serving_together(4, source, "--long-poll-timeout", "2") as urls:
        yield urls


@pytest.fixture(params=["four", "four_on_a_cluster"], ids=["server", "cluster"])
def urls(request: pytest.FixtureRequest) -> list[str]:
    return request.getfixturevalue(request.param)


async def follow(client: Client, path: str) -> bytes:
    """Everything until the stream is closed, by long-polls to any process."""
    found, offset = [], "-1"
    while True:
        status, headers, body = await client(
            "GET", path, params={"offset": offset, "live": "long-poll"}
        )
        assert status in (200, 204), (status, body)
        found.append(body)
        offset = headers["Stream-Next-Offset"]
        if headers.get("Stream-Closed") == "true":
            return b"".join(found)


async def test_eight_writers_through_four_processes(urls: list[str], prefix: str) -> None:
    path = f"{prefix}/contended"
    async with Client(urls) as client:
        assert (await client("PUT", path, **TEXT))[0] == 201
        readers = [asyncio.ensure_future(follow(client, path)) for _ in range(4)]
        offsets = {}

        async def write(writer: asyncio.StreamWriter) -> None:
            for n in range(250):
                item = f"{writer}:{n};"
                status, headers, body = await client("POST", path, item, **TEXT)
                assert status == 204, body
                offsets[item] = headers["Stream-Next-Offset"]

        await asyncio.gather(*map(write, range(8)))
        assert (await client("POST", path, Stream_Closed="true"))[0] == 204
        assert len(offsets) == len(set(offsets.values())) == 2000
        wanted = "".join(sorted(offsets, key=offsets.get)).encode()
        for writer in range(8):
            mine = [offsets[f"{writer}:{n};"] for n in range(250)]
            assert mine == sorted(mine)
        for reader in readers:
            assert await reader == wanted
        position = 0
        for item in sorted(offsets, key=offsets.get):
            position += len(item)
            assert int(offsets[item][17:]) == position


async def test_a_producer_is_fenced_whichever_process_it_meets(
    urls: list[str], prefix: str
) -> None:
    path = f"{prefix}/fenced"

    def claim(epoch: int, seq: int) -> dict[str, str]:
        return {"Producer_Id": "me", "Producer_Epoch": str(epoch), "Producer_Seq": str(seq)} | TEXT

    async with Client(urls) as client:
        await client("PUT", path, **TEXT)
        for turn in range(10):
            epoch = turn * 2
            for seq in range(4):
                at = (turn + seq) % 4
                status, *_ = await client(
                    "POST", path, f"{epoch}.{seq};", at=at, **claim(epoch, seq)
                )
                assert status == 200
                # The same again, somewhere else.
                status, *_ = await client(
                    "POST", path, f"{epoch}.{seq};", at=(at + 1) % 4, **claim(epoch, seq)
                )
                assert status == 204
            status, headers, _ = await client("POST", path, "gap;", **claim(epoch, 9))
            assert (status, headers["Producer-Expected-Seq"]) == (409, "4")
            if epoch:
                status, headers, _ = await client("POST", path, "old;", **claim(epoch - 1, 0))
                assert (status, headers["Producer-Epoch"]) == (403, str(epoch))
        wanted = "".join(f"{turn * 2}.{seq};" for turn in range(10) for seq in range(4))
        assert (await client("GET", path))[2].decode() == wanted


async def test_two_claims_of_an_epoch_at_once_store_one_batch(urls: list[str], prefix: str) -> None:
    path = f"{prefix}/claimed"
    headers = {"Producer_Id": "me", "Producer_Epoch": "1", "Producer_Seq": "0"} | TEXT
    async with Client(urls) as client:
        await client("PUT", path, **TEXT)
        answers = await asyncio.gather(
            *(client("POST", path, "once;", at=n % 4, **headers) for n in range(40))
        )
        assert sorted(status for status, *_ in answers) == [200] + [204] * 39
        assert (await client("GET", path))[2] == b"once;"


@pytest.mark.parametrize("seed", range(12))
async def test_random_histories_are_linearizable(urls: list[str], prefix: str, seed: int) -> None:
    path = f"{prefix}/history"
    choice = random.Random(seed)
    history = []

    async def one(client: Client, name: str, item: str) -> tuple[object, ...]:
        if name == "create":
            return (await client("PUT", path, **TEXT))[:1]
        if name == "append":
            return (await client("POST", path, item + ";", **TEXT))[:1]
        if name == "close":
            return (await client("POST", path, Stream_Closed="true"))[:1]
        if name == "delete":
            return (await client("DELETE", path))[:1]
        status, headers, body = await client("GET", path)
        if status != 200:
            return (status,)
        items = tuple(body.decode().split(";")[:-1])
        return 200, items, headers.get("Stream-Closed") == "true"

    async def act(client: Client, actor: int) -> None:
        for n in range(25):
            (name,) = choice.choices(
                ["create", "append", "close", "read", "delete"], [3, 8, 1, 6, 2]
            )
            item = f"{actor}.{n}"
            began = time.monotonic()
            answer = await one(client, name, item)
            history.append(Event(name, item, tuple(answer), began, time.monotonic()))

    async with Client(urls, seed) as client:
        await asyncio.gather(*(act(client, actor) for actor in range(5)))
    assert is_linearizable(history)


def test_the_checker_finds_what_is_wrong() -> None:
    def history(*events: tuple[Any, ...]) -> list[Event]:
        return [Event(*event) for event in events]

    created = ("create", "", (201,), 0, 1)
    assert is_linearizable(history(created, ("append", "a", (204,), 2, 3)))
    # Lost, seen before it was there, doubled, and appended after an acknowledged close.
    lost = ("read", "", (200, (), False), 4, 5)
    assert not is_linearizable(history(created, ("append", "a", (204,), 2, 3), lost))
    early = ("read", "", (200, ("a",), False), 1.5, 1.7)
    assert not is_linearizable(history(created, ("append", "a", (204,), 2, 3), early))
    double = ("read", "", (200, ("a", "a"), False), 4, 5)
    assert not is_linearizable(history(created, ("append", "a", (204,), 2, 3), double))
    closed = ("close", "", (204,), 2, 3)
    assert not is_linearizable(history(created, closed, ("append", "a", (204,), 4, 5)))
    # Two reads that disagree, and one that shows what a read before it did not.
    both = (("append", "a", (204,), 2, 9), ("append", "b", (204,), 2, 9))
    one_way = ("read", "", (200, ("a", "b"), False), 3, 8)
    other_way = ("read", "", (200, ("b", "a"), False), 3, 8)
    assert is_linearizable(history(created, *both, one_way))
    assert not is_linearizable(history(created, *both, one_way, other_way))
    later = ("read", "", (200, (), False), 8.5, 8.8)
    assert not is_linearizable(history(created, *both, one_way, later))
    # While they overlap, either order will do.
    assert is_linearizable(history(created, closed, ("append", "a", (204,), 2.5, 5)))


async def test_ten_thousand_idle_readers(prefix: str) -> None:
    """Half long-polls and half SSE, over HTTP, in one process: Redis has a handful of connections,
    and an append through another process wakes them all.
    """
    readers = 10_000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # However long it takes to connect them all, none of them ends before the append.
    patient = ("--long-poll-timeout", "600", "--sse-rotation", "600")
    with (
        RedisServer() as server,
        serving_together(2, f"{server.url}?prefix={prefix}", *patient) as urls,
        closing_all() as sockets,
    ):
        async with Client(urls) as client:
            await client("PUT", "watched", at=0, **TEXT)
            host, _, port = urls[0].removeprefix("http://").partition(":")
            await asyncio.to_thread(connect_readers, sockets, host, int(port), readers)
            # Long-polls were asked for before these were answered.
            for _ in range(3):
                await client("HEAD", "watched", at=0)
            clients = server.do("CLIENT", "LIST", "TYPE", "NORMAL").decode().splitlines()
            assert len([line for line in clients if "cmd=xread" in line]) == 2
            assert len(clients) < 2 * (32 + 1)
            calls = commands(server)
            await asyncio.sleep(2)  # what is measured: calls in two idle seconds
            idle = {name: count - calls.get(name, 0) for name, count in commands(server).items()}
            # Two processes, each looking at each feed and sweeping about once a second.
            assert sum(idle.values()) < 2 * 2 * 200, idle
            await client("POST", "watched", "wake up", at=1, **TEXT)
            await asyncio.to_thread(await_data, sockets, b"wake up")


def connect_readers(sockets: list[socket.socket], host: str, port: int, readers: int) -> None:
    """Live readers at the start of a stream, half of each mode; those of events have begun."""
    # Plain sockets: that many transports would cost more than the server does.
    for n in range(readers):
        live = "long-poll" if n % 2 else "sse"
        reader = socket.create_connection((host, port), 100)
        sockets.append(reader)
        reader.sendall(
            f"GET {STREAMS}watched?offset=0000000000000000_0000000000000000&live={live} "
            f"HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        )
    await_data(sockets[::2], b"event: control")


def await_data(sockets: list[socket.socket], wanted: bytes) -> None:
    """Return when each has received what is wanted."""
    for reader in sockets:
        received = b""
        while wanted not in received:
            some = reader.recv(4096)
            assert some, received
            received += some


@contextmanager
def closing_all() -> Iterator[list[socket.socket]]:
    """A list of sockets that are closed in the end."""
    sockets: list[socket.socket] = []
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()


def commands(server: RedisServer) -> dict[str, int]:
    with server.client() as client:
        stats = client.info("commandstats")
        return {name: stat["calls"] for name, stat in stats.items()}


async def test_a_plain_append_costs_the_server_four_commands(prefix: str) -> None:
    """Spread over many streams each is a call of the script, so that one more would be felt."""
    with RedisServer() as server:
        async with Engine(RedisStore(server.url, prefix=prefix)) as engine:
            await engine.create("p", content_type="text/plain")
            await engine.append("p", "the first one finds out what there is")
            before = commands(server)
            for _ in range(10):
                await engine.append("p", "data")
            after = commands(server)
        names = ("evalsha", "hmget", "xlen", "xadd", "hset", "xrevrange", "zadd", "hget")
        found = [after.get(f"cmdstat_{n}", 0) - before.get(f"cmdstat_{n}", 0) for n in names]
        assert found == [10, 10, 0, 20, 10, 0, 0, 0]


def keys(server: RedisServer, prefix: str) -> set[str]:
    """Those of entities, without what a shard keeps for all of them."""
    found = {key.decode() for key in server.do("KEYS", f"{prefix}:*")}
    fixed = ("schema", "feed", "run", "removed", "removed-before", "timeline")
    return {key for key in found if key.rpartition(":")[2] not in fixed}


async def kept_alive(client: Client, server: RedisServer, *, life: int) -> bool:
    """Keep a stream alive by reading for longer than its life.

    Returns whether the machine let that be: a pause as long as the life ends the stream.
    """
    await client("PUT", "kept", Stream_TTL=str(life), **TEXT)
    await client("POST", "kept", "data", **TEXT)
    before = commands(server).get("cmdstat_zadd", 0)
    began = read = time.monotonic()
    while time.monotonic() < began + 1.5 * life:
        last, (status, *_) = read, await client("GET", "kept")
        read = time.monotonic()
        if read - last > life / 2:
            return False
        assert status == 200
    touches = commands(server)["cmdstat_zadd"] - before
    # One per tenth of the life, and perhaps one more of each process.
    assert touches <= (time.monotonic() - began) / (life / 10) + 4
    return True


async def test_a_sliding_life_is_renewed_by_any_process_with_few_writes(prefix: str) -> None:
    with RedisServer() as server, serving_together(4, f"{server.url}?prefix={prefix}") as urls:
        async with Client(urls) as client:
            while not await kept_alive(client, server, life=2):
                pass
            assert keys(server, prefix)
            await asyncio.to_thread(eventually, lambda: not keys(server, prefix))
            assert (await client("GET", "kept"))[0] == 404


async def test_no_key_is_left_behind(server: RedisServer, prefix: str) -> None:
    store = RedisStore(server.url, prefix=prefix)
    async with Engine(store) as engine:
        for n in range(50):
            await engine.create(f"p{n}", content_type="text/plain", ttl=3600)
            for seq in range(5):
                await engine.append(f"p{n}", f"{seq}")
        assert len(keys(server, prefix)) > 100
        for n in range(50):
            await engine.delete(f"p{n}")
        assert keys(server, prefix) == set()
        for n in range(50):
            await engine.create(f"p{n}", content_type="text/plain", ttl=0, data="x")
        await asyncio.to_thread(eventually, lambda: not keys(server, prefix))
    fixed = server.do("KEYS", f"{prefix}:*")
    assert len(fixed) <= 1 + 16 * 4
    for key in fixed:
        if key.endswith((b":removed", b":removed-before")):
            assert 0 < server.do("PTTL", key) <= 600_000


async def test_soft_deleted_sources_are_cleaned_up(server: RedisServer, prefix: str) -> None:
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(Engine(RedisStore(server.url, prefix=prefix)))
            for _ in range(2)
        ]
        await one.create("source", content_type="text/plain", data="shared")
        await two.fork("fork", "source")
        await two.fork("fork of it", "fork")
        await one.delete("source")
        await two.delete("fork")
        assert (await one.read("fork of it")).data == b"shared"
        assert len(keys(server, prefix)) > 3
        await one.delete("fork of it")
        await asyncio.to_thread(eventually, lambda: not keys(server, prefix))


async def test_notified_of_what_was_before_ends_no_reader(valkey: RedisServer, prefix: str) -> None:
    """The feed tells of a commit some time after its answer: a reader that came in between is
    notified of the creation, the data and the close while it is still looking.
    """
    with serving(f"{valkey.url}?prefix={prefix}") as url:
        async with Client([url]) as client:
            for n in range(150):
                if n % 2:
                    await client("PUT", f"p{n}", "old", **TEXT)
                    await client("DELETE", f"p{n}")
                await client("PUT", f"p{n}", **TEXT)
                await client("POST", f"p{n}", "all of it", Stream_Closed="true", **TEXT)
                _, _, body = await client("GET", f"p{n}", params={"offset": "-1", "live": "sse"})
                assert b"all of it" in body
                assert b'"streamClosed":true' in body


async def test_a_path_created_again_elsewhere_shows_nothing_old(
    urls: list[str], prefix: str
) -> None:
    async with Client(urls) as client:
        for turn in range(20):
            path = f"{prefix}/again"
            assert (await client("PUT", path, f"turn {turn}", at=turn % 4, **TEXT))[0] == 201
            for at in range(4):
                status, headers, body = await client("GET", path, at=at)
                assert (status, body) == (200, f"turn {turn}".encode())
                tag = headers["ETag"]
            assert (await client("GET", path, at=0, If_None_Match=tag))[0] == 304
            assert (await client("DELETE", path, at=(turn + 1) % 4))[0] == 204
            assert (await client("GET", path, at=turn % 4, If_None_Match=tag))[0] == 404


async def test_redis_restarted_under_http(prefix: str) -> None:
    with (
        RedisServer("--appendonly", "yes", "--appendfsync", "always") as server,
        serving(f"{server.url}?prefix={prefix}&durability=always&timeout=60") as url,
    ):
        async with Client([url]) as client:
            await client("PUT", "p", **TEXT)
            reader = asyncio.ensure_future(
                client("GET", "p", params={"offset": "now", "live": "long-poll"})
            )
            for _ in range(3):
                await client("HEAD", "p")
            server.kill()
            seen = set()
            for _ in range(5):
                status, headers, _ = await client("GET", "p")
                seen.add(status)
                assert headers["Retry-After"]
            status, headers, _ = await client("POST", "p", "not stored", **TEXT)
            seen.add(status)
            assert headers["Retry-After"]
            assert seen == {503}
            await asyncio.to_thread(server.start)
            while (await client("POST", "p", "stored", **TEXT))[0] != 204:
                await asyncio.sleep(0.01)
            status, _, body = await reader
            assert (status, body) == (200, b"stored")
            assert (await client("GET", "p"))[2] == b"stored"
