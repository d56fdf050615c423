"""A connection that is cut before, inside, during and after the script of a commit: the outcome is
found out by sending the commit again, and never guessed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
import redis.asyncio
from proxies import AFTER, BEFORE, DURING, INSIDE, Proxy
from servers import RedisServer

from durable_streams_core.entities import (
    Applied,
    Commit,
    Delta,
    Guard,
    Head,
    Outcome,
    Refused,
    Unknown,
)
from durable_streams_redis import RedisStore
from durable_streams_server import Engine

CUTS = pytest.mark.parametrize("cut", [BEFORE, INSIDE, DURING, AFTER])


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    async with Proxy(server.port) as started:
        yield started


@asynccontextmanager
async def opened(source: object, prefix: str, **options: Any) -> AsyncIterator[RedisStore]:
    store = RedisStore(source, prefix=prefix, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def creation(path: str = "p", incarnation: str = "one") -> Commit:
    head = Head(incarnation, b"birth")
    return Commit(f"create {path} {incarnation}", path, Guard(None), Delta(create=head))


def append(data: bytes, commit_id: str = "append", base: int = 0, **delta: Any) -> Commit:
    guard = Guard("one", open=True)
    return Commit(commit_id, "p", guard, Delta(data=data, **delta), base)


async def find_out(store: RedisStore, commit: Commit) -> Outcome:
    outcome = Unknown("not sent")
    while isinstance(outcome, Unknown):
        (outcome,) = await store.commit([commit])
    return outcome


async def content(store: RedisStore) -> bytes:
    return (await store.read("p", "one", 0, 1 << 20)).data


@CUTS
async def test_an_append_is_neither_doubled_nor_lost(proxy: Proxy, prefix: str, cut: str) -> None:
    async with opened(proxy.url, prefix) as store:
        await store.commit([creation()])
        proxy.cut = cut
        (outcome,) = await store.commit([append(b"once")])
        assert isinstance(outcome, Unknown)
        assert proxy.cuts == 1
        assert await find_out(store, append(b"once")) == Applied(4)
        assert await content(store) == b"once"


@CUTS
async def test_others_may_append_before_the_outcome_is_known(
    proxy: Proxy, prefix: str, server: RedisServer, cut: str
) -> None:
    async with opened(proxy.url, prefix) as store, opened(server.url, prefix) as other:
        await store.commit([creation()])
        proxy.cut = cut
        assert isinstance((await store.commit([append(b"mine")]))[0], Unknown)
        for n in range(100):
            await other.commit([append(b"theirs", f"other {n}")])
        tail = (await find_out(store, append(b"mine"))).tail
        found = await content(store)
        assert len(found) == 4 + 100 * 6
        assert found.count(b"mine") == 1
        assert found[tail - 4 : tail] == b"mine"


@CUTS
@pytest.mark.parametrize(
    "change",
    [
        Delta(close=True),
        Delta(deadline=7),
        Delta(fields={"pme": b"1"}),
        Delta(state="deleted"),
        Delta(remove=True),
        Delta(remove=True, create=Head("two", b"", 5, 5)),
    ],
    ids=["close", "deadline", "field", "state", "remove", "replace"],
)
async def test_a_change_without_data_is_done_once(
    proxy: Proxy, prefix: str, cut: str, change: Delta
) -> None:
    async with opened(proxy.url, prefix) as store:
        await store.commit([creation(), append(b"data")])
        commit = Commit("the change", "p", Guard("one"), change, 4)
        proxy.cut = cut
        assert isinstance((await store.commit([commit]))[0], Unknown)
        tail = 4 if not change.remove else 0 if change.create is None else 5
        assert await find_out(store, commit) == Applied(tail)
        assert (await store.commit([commit]))[0] == Applied(tail)


@CUTS
async def test_a_creation_is_done_once_though_it_is_deleted_meanwhile(
    proxy: Proxy, prefix: str, server: RedisServer, cut: str
) -> None:
    async with opened(proxy.url, prefix) as store, opened(server.url, prefix) as other:
        proxy.cut = cut
        assert isinstance((await store.commit([creation()]))[0], Unknown)
        applied = await other.load("p") is not None
        if applied:
            await other.commit(
                [append(b"x"), Commit("gone", "p", Guard("one"), Delta(remove=True))]
            )
        assert await find_out(store, creation()) == Applied(0)
        # Recognised, it was not done again.
        assert (await store.load("p") is None) == applied


@pytest.mark.parametrize("cut", [DURING, AFTER])
async def test_an_append_is_known_though_the_stream_is_deleted_meanwhile(
    proxy: Proxy, prefix: str, server: RedisServer, cut: str
) -> None:
    async with opened(proxy.url, prefix) as store, opened(server.url, prefix) as other:
        await store.commit([creation()])
        proxy.cut = cut
        assert isinstance((await store.commit([append(b"seen")]))[0], Unknown)
        while (await other.load("p")).head.tail == 0:
            await asyncio.sleep(0)
        await other.commit([Commit("gone", "p", Guard("one"), Delta(remove=True))])
        await other.commit([creation(incarnation="two")])
        assert await find_out(store, append(b"seen")) == Applied(4)


async def test_what_was_answered_before_the_cut_is_known(proxy: Proxy, prefix: str) -> None:
    async with opened(proxy.url, prefix) as store:
        batch = [creation(f"p{n}") for n in range(50)]
        proxy.cut = INSIDE
        outcomes = await store.commit(batch)
        assert all(isinstance(outcome, Unknown | Applied) for outcome in outcomes)
        again = await store.commit(batch)
        assert again == [Applied(0)] * 50
        assert len(await store.list("", "", 100)) == 50


async def test_where_nothing_was_sent_it_says_so(proxy: Proxy, prefix: str) -> None:
    async with opened(proxy.url, prefix) as store:
        await store.commit([creation()])
        proxy.refusing = True
        proxy.drop()
        outcomes = [(await store.commit([append(b"x", f"{n}")]))[0] for n in range(3)]
        # The pool may not have seen the end of its one connection yet.
        assert all(isinstance(outcome, Refused | Unknown) for outcome in outcomes)
        assert isinstance(outcomes[-1], Refused)
        assert outcomes[-1].code == "unavailable"


async def test_a_commit_in_doubt_is_never_called_refused(proxy: Proxy, prefix: str) -> None:
    async with opened(proxy.url, prefix) as store:
        await store.commit([creation()])
        proxy.cut = AFTER
        assert isinstance((await store.commit([append(b"x")]))[0], Unknown)
        proxy.refusing = True
        proxy.drop()
        for _ in range(3):
            assert isinstance((await store.commit([append(b"x")]))[0], Unknown)
        proxy.refusing = False
        assert await find_out(store, append(b"x")) == Applied(1)


@pytest.mark.parametrize("kind", [redis.Redis, redis.asyncio.Redis], ids=["sync", "async"])
async def test_a_client_that_retries_is_not_let_to(
    proxy: Proxy, prefix: str, kind: type[redis.Redis | redis.asyncio.Redis]
) -> None:
    retries = redis.retry.Retry(redis.backoff.NoBackoff(), 5)
    client = kind(port=proxy.port, retry=retries, decode_responses=True, protocol=3)
    async with opened(client, prefix) as store:
        await store.commit([creation()])
        sent = len(proxy.requests)
        proxy.cut = AFTER
        assert isinstance((await store.commit([append(b"x")]))[0], Unknown)
        assert len(proxy.requests) == sent + 1
    # And it is as it was.
    kwargs = client.connection_pool.connection_kwargs
    assert kwargs["retry"].get_retries() == 5
    assert kwargs["decode_responses"]
    if kind is redis.Redis:
        client.close()
    else:
        await client.aclose()


@CUTS
async def test_the_engine_finds_out_and_its_caller_never_knows(
    proxy: Proxy, prefix: str, cut: str
) -> None:
    store = RedisStore(proxy.url, prefix=prefix)
    async with Engine(store) as engine:
        await engine.create("p", content_type="text/plain")
        for n in range(5):
            proxy.cut = cut
            await engine.append("p", f"{n};")
        assert (await engine.read("p")).data == b"0;1;2;3;4;"
        assert proxy.cuts == 5


async def test_a_cancelled_commit_does_not_poison_a_connection(proxy: Proxy, prefix: str) -> None:
    async with opened(proxy.url, prefix, connections=1) as store:
        await store.commit([creation()])
        for n in range(20):
            task = asyncio.ensure_future(store.commit([append(b"%d" % (n % 10), f"{n}")]))
            for _ in range(n % 5):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            facts = await store.load("p")
            assert facts.head.incarnation == "one"
        for n in range(20):
            assert isinstance(await find_out(store, append(b"%d" % (n % 10), f"{n}")), Applied)
        assert len(await content(store)) == 20
