"""Sentinels and Cluster nodes that give answers which are malformed or wrong: the others decide."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from servers import RedisServer, sentinels

from durable_streams_core.entities import Applied, Commit, Delta, Guard, Head
from durable_streams_redis import RedisStore

Resp = Sequence["Resp"] | bytes | int | None


def encoded(reply: Resp) -> bytes:
    """A reply as it goes over the wire."""
    match reply:
        case None:
            return b"*-1\r\n"
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case int():
            return b":%d\r\n" % reply
        case _:
            return b"*%d\r\n" % len(reply) + b"".join(map(encoded, reply))


@asynccontextmanager
async def answering(*replies: Resp) -> AsyncIterator[int]:
    """The port of a server that gives the same replies to whatever it is sent."""
    connections: set[asyncio.StreamWriter] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        while await reader.read(65536):
            writer.write(b"".join(map(encoded, replies)))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for writer in connections:
            writer.close()


async def check_usable(source: str, prefix: str) -> None:
    """A store opens, takes a commit and notices nothing."""
    store = RedisStore(source, prefix=prefix, timeout=60)
    await store.open()
    try:
        creation = Commit("create", "p", Guard(None), Delta(create=Head("one", b"birth")))
        assert await store.commit([creation]) == [Applied(0)]
    finally:
        await store.close()


NOWHERE = [b"127.0.0.1", b"1"]


@pytest.mark.parametrize(
    "replies",
    [
        ([b"127.0.0.1", b"many"], [], []),
        ([b"\xff\xfe", b"1"], [], []),
        ([b"127.0.0.1"], [], []),
        (NOWHERE, [b"config-epoch", b"many"], []),
        (NOWHERE, [], [[b"ip", b"127.0.0.1"]]),
        (NOWHERE, [], [7]),
        (7, 7, 7),
        (None, None, None),
        (NOWHERE, [b"config-epoch", b"0"], []),
    ],
    ids=[
        "port", "host", "no port", "epoch", "other Sentinel", "no list", "numbers", "nothing",
        "a server that is not there",
    ],
)  # fmt: skip
async def test_what_one_sentinel_says_is_ignored_when_it_makes_no_sense(
    valkey: RedisServer, prefix: str, replies: Sequence[Resp]
) -> None:
    with sentinels(valkey, 1) as watching:
        async with answering(*replies) as port:
            hosts = f"127.0.0.1:{port},127.0.0.1:{watching[0].port}"
            await check_usable(f"redis+sentinel://{hosts}/main", prefix)


INFO = b"cluster_current_epoch:99\r\n"


@pytest.mark.parametrize(
    "replies",
    [
        (7, INFO),
        ([[0, 16383]], INFO),
        ([[0, 16383, [b"127.0.0.1", b"many"]]], INFO),
        ([[0, 16383, [b"\xff", 1]]], INFO),
        ([], INFO),
        ([[0, 16383, [b"127.0.0.1", 1]]], b"cluster_current_epoch:many\r\n"),
        ([[0, 16383, [b"127.0.0.1", 1]]], 7),
    ],
    ids=["number", "no node", "port", "host", "no slots", "epoch", "no text"],
)
async def test_what_one_cluster_node_says_is_ignored_when_it_makes_no_sense(
    nodes: list[RedisServer], prefix: str, replies: Sequence[Resp]
) -> None:
    async with answering(*replies) as port:
        hosts = f"127.0.0.1:{port},127.0.0.1:{nodes[0].port}"
        await check_usable(f"redis+cluster://{hosts}", prefix)
