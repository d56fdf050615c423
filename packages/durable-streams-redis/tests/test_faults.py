"""Servers that restart, fill up, fall behind or forget, each a real process."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from proxies import AFTER, BEFORE, Proxy
from servers import BINARIES, RedisServer, eventually, open_impatient, patiently

from durable_streams_core.entities import (
    Applied,
    Change,
    Commit,
    Conflicted,
    Delta,
    Guard,
    Head,
    Outcome,
    Refused,
    Unknown,
)
from durable_streams_core.errors import ProtocolError, StoreError, Unavailable
from durable_streams_core.operations import ProducerClaim
from durable_streams_core.protocol import START
from durable_streams_redis import RedisStore
from durable_streams_redis.schema import Schema
from durable_streams_redis.scripts import BEGIN
from durable_streams_redis.servers import Reply, Retired, Server
from durable_streams_server import Engine, Limits

KINDS = pytest.mark.parametrize("kind", list(BINARIES))
AOF = ("--appendonly", "yes", "--appendfsync", "always")


@asynccontextmanager
async def opened(source: object, prefix: str, **options: Any) -> AsyncIterator[RedisStore]:
    store = RedisStore(source, prefix=prefix, **options)
    await open_impatient(store)
    try:
        yield store
    finally:
        await store.close()


async def known(store: RedisStore, commit: Commit) -> Outcome:
    """What became of a commit, sent again while that is unknown."""
    while True:
        (outcome,) = await store.commit([commit])
        if not isinstance(outcome, Unknown):
            return outcome


def creation(path: str = "p", **delta: Any) -> Commit:
    head = Head("one", b"birth")
    return Commit(f"create {path}", path, Guard(None), Delta(create=head, **delta))


def append(data: bytes, commit_id: str, base: int = 0, path: str = "p") -> Commit:
    return Commit(commit_id, path, Guard("one", open=True), Delta(data=data), base)


def timeline_of(server: RedisServer, feed: bytes) -> int:
    """The timeline that a shard has now: the first half of the ids in its feed."""
    (entry,) = server.do("XREVRANGE", feed, "+", "-", "COUNT", 1)
    return int(entry[0].partition(b"-")[0])


class Recorder:
    """A watcher that keeps what it hears, None for a resync."""

    def __init__(self, store: RedisStore) -> None:
        self.heard = []
        self._notified = asyncio.Event()
        store.watch(self)

    def __call__(self, changes: Sequence[Change] | None) -> None:
        self.heard += [None] if changes is None else changes
        self._notified.set()

    async def until(self, enough: Callable[[list[Change | None]], object]) -> None:
        while not enough(self.heard):
            self._notified.clear()
            await self._notified.wait()


# Restarts.


@KINDS
async def test_a_restart_under_load(kind: str, prefix: str) -> None:
    """Acknowledged data is there once and in order, refused data is not there, every process goes
    on, and every waiting reader is woken.
    """
    server = RedisServer(*AOF, binary=BINARIES[kind])
    outcomes = {}
    acknowledged, back = asyncio.Event(), asyncio.Event()

    async def write(engine: Engine, writer: asyncio.StreamWriter) -> None:
        for n in range(60):
            item = f"{writer}:{n};"
            try:
                await engine.append(f"s{writer % 4}", item)
            except ProtocolError as error:
                outcomes[item] = error.status
                if error.status == 503:
                    assert error.code == "unavailable"
                    assert error.headers["Retry-After"]
                    await back.wait()
                    await asyncio.sleep(0.05)
            else:
                outcomes[item] = 200
            if len(outcomes) == 200:
                acknowledged.set()

    async def follow(engine: Engine, path: str) -> bytes:
        found, offset = b"", START
        while True:
            try:
                async for batch in engine.follow(path, offset):
                    found, offset = found + batch.data, batch.offset
                return found
            except Unavailable as error:
                # As a client would, which got a 503 or lost its connection.
                assert error.status == 503
                await asyncio.sleep(0.02)

    with server:
        store = RedisStore(server.url, prefix=prefix, durability="always", timeout=60)
        async with Engine(store) as engine:
            for n in range(4):
                await engine.create(f"s{n}", content_type="text/plain")
            readers = [asyncio.ensure_future(follow(engine, f"s{n}")) for n in range(4)]
            writers = [asyncio.ensure_future(write(engine, n)) for n in range(16)]
            await acknowledged.wait()
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.2)  # how long the server is down
            await asyncio.to_thread(server.start)
            back.set()
            await asyncio.gather(*writers)
            assert len(outcomes) == 16 * 60
            for n in range(4):
                await engine.close_stream(f"s{n}")
            found = b"".join([await reader for reader in readers]).decode().split(";")[:-1]
    assert len(found) == len(set(found))
    for item, status in outcomes.items():
        if status == 200:
            assert item[:-1] in found
        elif status == 503:
            assert item[:-1] not in found
    for writer in range(16):
        mine = [int(item.partition(":")[2]) for item in found if item.startswith(f"{writer}:")]
        assert mine == sorted(mine)
    assert sum(status == 200 for status in outcomes.values()) > 500


@KINDS
async def test_an_append_after_a_restart_wakes_who_waited_before(kind: str, prefix: str) -> None:
    server = RedisServer(*AOF, binary=BINARIES[kind])
    with server:
        async with (
            Engine(RedisStore(server.url, prefix=prefix)) as reading,
            Engine(RedisStore(server.url, prefix=prefix)) as writing,
        ):
            await writing.create("p", content_type="text/plain")
            follower = aiter(reading.follow("p"))
            waiting = asyncio.ensure_future(anext(follower))
            while not len(reading.fanout):
                await asyncio.sleep(0)
            # It has looked once these have: they were sent later.
            for _ in range(3):
                await reading.head("p")
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            while True:
                try:
                    await writing.append("p", "hello")
                    break
                except ProtocolError as error:
                    assert error.status == 503
            assert (await waiting).data == b"hello"
            await follower.aclose()


async def test_a_restart_that_loses_everything_is_a_resync(prefix: str) -> None:
    with RedisServer() as server:
        async with opened(server.url, prefix) as store:
            recorder = Recorder(store)
            await store.commit([creation()])
            await recorder.until(len)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await recorder.until(lambda heard: None in heard)
            assert await store.load("p") is None
            assert await store.commit([creation()]) == [Applied(0)]
            await recorder.until(lambda heard: heard[-1] is not None)
        # The record of the schema was written again.
        eventually(lambda: server.do("GET", f"{prefix}:schema"))


async def test_flushing_the_database_is_a_resync(server: RedisServer, prefix: str) -> None:
    with RedisServer(binary=server.binary) as own:
        async with opened(own.url, prefix) as store:
            recorder = Recorder(store)
            await store.commit([creation()])
            await recorder.until(len)
            own.do("FLUSHALL")
            await recorder.until(lambda heard: None in heard)


async def test_after_a_restart_the_first_append_sends_readers_to_the_store(prefix: str) -> None:
    """They learn the new timeline there; what follows reaches them with its data."""
    with RedisServer(*AOF) as server:
        async with opened(server.url, prefix) as store:
            recorder = Recorder(store)
            await store.commit([creation()])
            await recorder.until(len)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            commit = append(b"x", "after")
            outcome = Unknown("not sent")
            while not isinstance(outcome, Applied):
                (outcome,) = await store.commit([commit])
            assert [out.tail for out in await store.commit([append(b"y", "later")])] == [2]
            await recorder.until(lambda heard: heard[-1] is not None and heard[-1].tail == 2)
            changes = [change for change in recorder.heard if change is not None]
            assert None in recorder.heard
            assert [(change.tail, change.data) for change in changes] == [
                (0, b""),
                (1, None),
                (2, b"y"),
            ]


async def test_a_server_that_hangs_is_outcome_unknown(prefix: str) -> None:
    with RedisServer() as server:
        async with opened(server.url, prefix, timeout=0.3) as store:
            assert await known(store, creation()) == Applied(0)
            server.pause()
            assert isinstance((await store.commit([append(b"x", "a")]))[0], Unknown)
            with pytest.raises(Unavailable, match="cannot be reached"):
                await store.load("p")
            server.resume()
            assert await known(store, append(b"x", "a")) == Applied(1)


async def test_a_question_to_a_server_that_was_replaced_meanwhile_goes_to_its_successor(
    server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_soon = Server.send_soon
    replaced: list[bytes] = []

    def send_once_in_vain(self: Server, command: bytes) -> asyncio.Future[Reply]:
        if replaced:
            return send_soon(self, command)
        replaced.append(command)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        future.set_result(Retired("no longer in use"))
        return future

    async with Engine(RedisStore(server.url, prefix=prefix)) as engine:
        await engine.create("p", content_type="text/plain", data="data;")
        monkeypatch.setattr(Server, "send_soon", send_once_in_vain)
        assert (await engine.read("p")).data == b"data;"
    assert replaced


async def test_scripts_survive_being_flushed(server: RedisServer, prefix: str) -> None:
    async with opened(server.url, prefix) as store:
        await store.commit([creation()])
        for n in range(3):
            server.do("SCRIPT", "FLUSH")
            batch = [append(b"x", f"{n}")] + [creation(f"{n}/{m}") for m in range(20)]
            assert await store.commit(batch) == [Applied(n + 1)] + [Applied(0)] * 20
            server.do("SCRIPT", "FLUSH")
            assert (await store.load("p")).head.tail == n + 1


# Memory.


@KINDS
async def test_a_full_server_refuses_and_nothing_is_half_written(kind: str, prefix: str) -> None:
    with RedisServer(binary=BINARIES[kind]) as server:
        store = RedisStore(server.url, prefix=prefix)
        async with Engine(store) as engine:
            await engine.create("p", content_type="application/octet-stream")
            await engine.create("other", content_type="application/octet-stream")
            client = server.client()
            used = client.info("memory")["used_memory"]
            client.config_set("maxmemory", used + 3 * 1024 * 1024)
            stored = 0
            with pytest.raises(ProtocolError) as caught:
                while True:
                    await engine.append("p", bytes(200_000))
                    stored += 200_000
            assert caught.value.status == 507
            assert caught.value.code == "storage-full"
            head = await engine.head("p")
            assert int(head.offset[17:]) == stored
            shard = Schema(prefix, 16).shard("p")
            here = (await store.load("p")).head.incarnation
            assert len((await store.read("p", here, 0, 1 << 30)).data) == stored
            assert client.xlen(shard.bytes_of("p", here)) == stored // 200_000 * 4
            client.config_set("maxmemory", used)
            with pytest.raises(ProtocolError) as caught:
                await engine.create("more", content_type="text/plain")
            assert caught.value.status == 507
            # Reading, renewing, closing and deleting go on, and make room.
            other = await store.load("other")
            assert other is not None
            renewal = Commit(
                "renew", "other", Guard(other.head.incarnation), Delta(deadline=store.now() + 10**6)
            )
            assert isinstance((await store.commit([renewal]))[0], Applied)
            await engine.close_stream("other")
            assert (await engine.read("p")).data
            await engine.delete("p")
            assert client.exists(shard.bytes_of("p", here)) == 0
            client.config_set("maxmemory", used + 3 * 1024 * 1024)
            # The server frees it in a thread of its own.
            await asyncio.to_thread(
                eventually, lambda: client.info("memory")["used_memory"] < used + 1024 * 1024
            )
            await engine.create("p", content_type="text/plain")
            await engine.append("p", "again")
            client.close()


async def test_a_commit_in_doubt_is_looked_for_when_there_is_no_room(prefix: str) -> None:
    with RedisServer() as server:
        async with Proxy(server.port) as proxy, opened(proxy.url, prefix) as store:
            await store.commit([creation()])
            for commit_id, cut in (("done", AFTER), ("not done", BEFORE)):
                proxy.cut = cut
                (outcome,) = await store.commit([append(commit_id.encode(), commit_id)])
                assert isinstance(outcome, Unknown)
            server.do("CONFIG", "SET", "maxmemory", 1)
            outcomes = await store.commit(
                [append(b"done", "done"), append(b"not done", "not done"), append(b"new", "new")]
            )
            # The second may still be on its way in a connection that was given up.
            assert outcomes[0] == Applied(4)
            assert isinstance(outcomes[1], Unknown)
            assert isinstance(outcomes[2], Refused)
            server.do("CONFIG", "SET", "maxmemory", 0)
            assert (await store.commit([append(b"not done", "not done")]))[0] == Applied(12)


async def test_a_foreign_value_met_later_is_refused_and_nothing_is_half_written(
    server: RedisServer, prefix: str
) -> None:
    async with opened(server.url, prefix, shards=1) as store:
        await store.commit([creation()])
        shard = Schema(prefix, 1).shards[0]
        server.do("SET", shard.entity("q"), "foreign")
        with pytest.raises(Unavailable, match="another program") as caught:
            await store.load("q")
        assert (caught.value.status, caught.value.code) == (500, "foreign-value")
        (outcome,) = await store.commit([creation("q")])
        assert isinstance(outcome, Refused)
        assert "another program" in outcome.message
        server.do("HSET", shard.entity("h"), "foreign", "1")
        assert isinstance((await store.commit([creation("h")]))[0], Refused)

        server.do("DEL", shard.feed)
        server.do("SET", shard.feed, "foreign")
        (outcome,) = await store.commit([append(b"x", "x")])
        assert isinstance(outcome, Refused)
        assert server.do("EXISTS", shard.bytes_of("p", "one")) == 0
        assert (await store.load("p")).head.tail == 0
        server.do("DEL", shard.feed)
        assert [outcome.tail for outcome in await store.commit([append(b"x", "x")])] == [1]


# Feeds.


async def test_a_feed_trimmed_past_a_slow_process_is_a_resync(
    server: RedisServer, prefix: str
) -> None:
    async with (
        opened(server.url, prefix, shards=1) as slow,
        opened(server.url, prefix, feed_length=4) as fast,
    ):
        recorder = Recorder(slow)
        await fast.commit([creation()])
        await recorder.until(len)
        # It reads nothing while this holds its loop; far more than one node of a stream.
        with server.client() as client:
            feed = Schema(prefix, 1).shards[0].feed
            timeline = timeline_of(server, feed)
            with client.pipeline(transaction=False) as pipe:
                for n in range(500):
                    pipe.execute_command(
                        *("XADD", feed, "MAXLEN", "4", f"{timeline}-*"),
                        *(f"0{n:016d}{0:016d}3:onep", ""),
                    )
                pipe.execute()
        await recorder.until(lambda heard: None in heard)
        await fast.commit([append(b"x", "x")])
        await recorder.until(lambda heard: heard[-1] is not None and heard[-1].data == b"x")


async def test_a_feed_goes_on_after_an_entry_of_another_program(
    server: RedisServer, prefix: str
) -> None:
    async with opened(server.url, prefix, shards=1) as store:
        recorder = Recorder(store)
        feed = Schema(prefix, 1).shards[0].feed
        for field in (b"", b"4", b"4" * 40, b"\xff" * 60 + b":"):
            server.do("XADD", feed, f"{timeline_of(server, feed)}-*", field, b"foreign")
        await store.commit([creation()])
        await recorder.until(lambda heard: heard and heard[-1] is not None)
        assert None in recorder.heard


async def test_a_feed_is_trimmed_by_length_and_by_age(
    server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_streams_redis.feeds._UPKEEP_SECONDS", 0.01)
    shard = Schema(prefix, 1).shards[0]
    async with opened(server.url, prefix, shards=1, feed_length=200, feed_seconds=3600) as store:
        recorder = Recorder(store)
        await store.commit([creation()])
        for n in range(20):
            await store.commit([append(b"x", f"{n} {m}") for m in range(50)])
        # A stream gives up whole nodes only, of 100 entries.
        assert server.do("XLEN", shard.feed) <= 300
        await recorder.until(lambda heard: len(heard) == 1001)
    async with opened(server.url, prefix, feed_seconds=0) as store:
        recorder = Recorder(store)
        # Its keeper looks after each thing it hears.
        n = 0
        while server.do("XLEN", shard.feed) > 20:
            await store.commit([append(b"y", f"again {n}")])
            n += 1
            await recorder.until(lambda heard, n=n: len(heard) == n)
        assert server.do("XLEN", shard.feed) >= 1
        assert None not in recorder.heard


# Confirmations.


async def test_wait_does_not_confirm_without_replicas(server: RedisServer, prefix: str) -> None:
    async with opened(server.url, prefix, durability="wait:1", timeout=1.0) as store:
        assert isinstance((await store.commit([creation()]))[0], Unknown)
        # And a resend does not confirm it either.
        assert isinstance((await store.commit([creation()]))[0], Unknown)
        assert (await patiently(partial(store.load, "p"))).head.incarnation == "one"


@KINDS
async def test_a_resend_waits_for_replicas_too(kind: str, prefix: str) -> None:
    binary = BINARIES[kind]
    with (
        RedisServer("--repl-diskless-sync-delay", "0", binary=binary) as master,
        RedisServer("--replicaof", f"127.0.0.1 {master.port}", binary=binary) as replica,
    ):
        eventually(lambda: replica.client().info("replication")["master_link_status"] == "up")
        async with opened(master.url, prefix, durability="wait:1", timeout=1.0) as store:
            assert await known(store, creation()) == Applied(0)
            replica.pause()
            for _ in range(3):
                assert isinstance((await store.commit([append(b"x", "x")]))[0], Unknown)
            # A conflict needs no confirmation.
            stale = Commit("stale", "p", Guard("two"), Delta(close=True))
            assert isinstance(await known(store, stale), Conflicted)
            replica.resume()
            assert await known(store, append(b"x", "x")) == Applied(1)
            key = Schema(prefix, 16).shard("p").entity("p")
            assert replica.do("HGET", key, "t") == b"%016d" % 1


async def test_that_a_batch_is_stored_already_is_said_only_when_replicas_have_it(
    prefix: str,
) -> None:
    with (
        RedisServer("--repl-diskless-sync-delay", "0") as master,
        RedisServer("--replicaof", f"127.0.0.1 {master.port}") as replica,
    ):
        eventually(lambda: replica.client().info("replication")["master_link_status"] == "up")
        patient, impatient = (
            RedisStore(master.url, prefix=prefix, durability="wait:1", timeout=seconds)
            for seconds in (60, 1)
        )
        await open_impatient(impatient)
        async with (
            Engine(patient, limits=Limits(unknown_outcome=60)) as engine,
            Engine(impatient, limits=Limits(unknown_outcome=0.3)) as asking,
        ):

            async def batch(engine: Engine) -> bool:
                """Whether the batch was stored before."""
                claim = ProducerClaim("me", 0, 0)
                return (await engine.append("p", "x", producer=claim)).duplicate

            await engine.create("p", content_type="text/plain")
            assert not await batch(engine)
            assert await batch(engine)
            replica.pause()
            with pytest.raises(Unavailable) as caught:
                await batch(asking)
            assert caught.value.code == "outcome-unknown"
            replica.resume()
            assert await batch(engine)
            assert (await engine.read("p")).data == b"x"


async def test_waitaof_confirms_what_is_on_disk(prefix: str) -> None:
    with RedisServer("--appendonly", "yes") as server:
        async with opened(server.url, prefix, durability="waitaof:1,0") as store:
            assert await store.commit([creation(), append(b"x", "x")]) == [Applied(0), Applied(1)]
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        async with opened(server.url, prefix, durability="waitaof:0,1", timeout=1.0) as store:
            assert (await patiently(partial(store.load, "p"))).head.tail == 1
            assert isinstance((await store.commit([append(b"y", "y")]))[0], Unknown)


async def test_everysec_keeps_what_was_appended_before_the_last_sync(prefix: str) -> None:
    with RedisServer("--appendonly", "yes", "--appendfsync", "everysec") as server:
        async with opened(server.url, prefix, durability="everysec") as store:
            await store.commit([creation(), append(b"x", "x")])
            with server.client() as client:
                client.set(f"{prefix}:after", "")
                # Returns when the server has synced, which it does each second.
                assert client.execute_command("WAITAOF", 1, 0, 0)[0] == 1
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        async with opened(server.url, prefix, durability="everysec") as store:
            found = await store.load("p")
            assert found is not None
            assert found.head.tail == 1


async def test_a_master_that_is_made_a_replica_refuses(prefix: str) -> None:
    with RedisServer() as server, RedisServer() as other:
        async with opened(server.url, prefix) as store:
            await store.commit([creation()])
            server.do("REPLICAOF", "127.0.0.1", other.port)
            (outcome,) = await store.commit([append(b"x", "x")])
            assert isinstance(outcome, Refused)
            assert outcome.code == "unavailable"
            with pytest.raises(Unavailable):
                await store.load("p")


async def test_its_clock_is_the_server_s(
    server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = SimpleNamespace(time=lambda: time.time() + 1000, monotonic=time.monotonic)
    monkeypatch.setattr("durable_streams_redis.store.time", wrong)
    async with opened(server.url, prefix) as store:
        seconds, _ = server.do("TIME")
        assert abs(store.now() - seconds * 1000) < 100_000


async def test_a_flush_under_load_is_noticed_by_writers_readers_and_those_who_start(
    prefix: str,
) -> None:
    """Before anything else is accepted the record of the schema is there again, so a process that
    starts now agrees on the number of shards; readers hear that their stream is gone.
    """
    with RedisServer() as server:
        async with (
            Engine(RedisStore(server.url, prefix=prefix, shards=4)) as writing,
            Engine(RedisStore(server.url, prefix=prefix)) as reading,
        ):
            await writing.create("followed", content_type="text/plain", data="x")
            follower = aiter(reading.follow("followed"))
            assert (await anext(follower)).data == b"x"
            gone = asyncio.ensure_future(anext(follower))
            busy = True

            async def write(writer: int) -> None:
                n = 0
                while busy:
                    n += 1
                    await writing.create(f"w{writer}.{n}", content_type="text/plain", data="x")

            writers = [asyncio.ensure_future(write(n)) for n in range(4)]
            await asyncio.to_thread(server.do, "FLUSHALL")
            with pytest.raises(ProtocolError):
                await gone
            created = [f"after{n}" for n in range(20)]
            for path in created:
                await writing.create(path, content_type="text/plain", data="x")
            async with Engine(RedisStore(server.url, prefix=prefix)) as third:
                found = {info.path for info in await third.list("after")}
            busy = False
            await asyncio.gather(*writers)
        assert server.do("GET", f"{prefix}:schema").endswith(b"shards=4")
        assert found == set(created)


async def test_a_process_goes_no_further_when_a_flushed_server_was_set_up_in_another_way(
    prefix: str,
) -> None:
    """Else it would write what no other process finds."""
    with RedisServer() as server:
        async with opened(server.url, prefix, shards=4) as store:
            await store.commit([creation()])
            server.do("FLUSHALL")
            async with opened(server.url, prefix, shards=16) as other:
                (outcome,) = await store.commit([creation("q")])
                assert isinstance(outcome, Refused)
                assert "16 shards" in outcome.message
                with pytest.raises(Unavailable, match="16 shards"):
                    await store.load("p")
                with pytest.raises(Unavailable, match="16 shards"):
                    await store.list("", "", 10)
                assert await other.list("", "", 10) == []


async def test_what_a_shard_holds_from_before_a_flush_is_not_appended_to(
    server: RedisServer, prefix: str
) -> None:
    """A commit of a process that has noticed nothing yet meets the new timeline."""
    async with (
        opened(server.url, prefix, shards=1) as one,
        opened(server.url, prefix, shards=1) as two,
    ):
        feed = Schema(prefix, 1).shards[0].feed
        before = timeline_of(server, feed)
        for key in server.do("KEYS", f"{prefix}:*"):
            server.do("DEL", key)
        assert await one.commit([creation()]) == [Applied(0)]
        assert await two.commit([append(b"x", "x")]) == [Applied(1)]
        assert timeline_of(server, feed) > before


# Loops that must not end, and replies that must come.


@pytest.mark.parametrize("restart", [False, True], ids=["flush", "restart"])
async def test_no_room_for_the_record_after_a_loss_ends_no_feed_and_no_question(
    prefix: str, restart: bool
) -> None:
    """The record of the schema cannot be restored until there is room: then everything goes on."""
    with RedisServer() as server:
        async with opened(server.url, prefix, shards=1) as store:
            recorder = Recorder(store)
            await store.commit([creation()])
            await recorder.until(len)
            if restart:
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start, "--maxmemory", "1")
                with pytest.raises(Unavailable, match="no memory left"):
                    await store.load("p")
            else:
                server.do("CONFIG", "SET", "maxmemory", 1)
                server.do("FLUSHALL")
            # It needs no room, and finds out what has happened.
            (outcome,) = await store.commit([Commit("x", "p", Guard(None), Delta(remove=True))])
            assert isinstance(outcome, Refused)
            assert "no memory left" in outcome.message
            server.do("CONFIG", "SET", "maxmemory", 0)
            assert await store.commit([creation("q")]) == [Applied(0)]
            await recorder.until(lambda heard: heard[-1] is not None and heard[-1].path == "q")
            assert None in recorder.heard


async def test_a_flush_while_a_timeline_is_begun_takes_no_record_away(prefix: str) -> None:
    """Whenever a timeline is in use, the record of the schema is there."""
    with RedisServer() as server:
        flushes = []

        def flushed_first(data: bytes) -> bool:
            if flushes and BEGIN.sha in data:
                flushes.pop()
                server.do("FLUSHALL")
            return False

        async with (
            Proxy(server.port, flushed_first) as proxy,
            opened(proxy.url, prefix, shards=4) as store,
        ):
            flushes.append("armed")
            server.do("FLUSHALL")
            assert await store.commit([creation()]) == [Applied(0)]
            assert not flushes
            assert server.do("GET", f"{prefix}:schema").endswith(b"shards=4")


async def test_a_server_that_comes_back_with_a_weaker_setting_accepts_nothing(prefix: str) -> None:
    """As when a replica takes over that is configured in another way."""
    with RedisServer("--appendonly", "yes", "--appendfsync", "always") as server:
        async with opened(server.url, prefix, durability="always") as store:
            await store.commit([creation()])
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start, "--appendfsync", "everysec")
            outcome: Outcome = Unknown("not sent")
            while isinstance(outcome, Unknown):
                (outcome,) = await store.commit([append(b"x", "x")])
            assert isinstance(outcome, Refused)
            assert "appendfsync everysec" in outcome.message
            server.do("CONFIG", "SET", "appendfsync", "always")
            assert [outcome.tail for outcome in await store.commit([append(b"y", "y")])] == [1]


@pytest.mark.parametrize(
    "reply",
    [b":many\r\n", b"$5\r\nab", b"*-7\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff\r\n"],
)
async def test_whoever_answers_in_place_of_redis_is_reported_and_nobody_waits(
    prefix: str, reply: bytes
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(reply)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as impostor:
        port = impostor.sockets[0].getsockname()[1]
        for source in (f"redis://127.0.0.1:{port}", f"redis+cluster://127.0.0.1:{port}"):
            with pytest.raises(StoreError):
                await RedisStore(source, prefix=prefix, timeout=0.3).open()
