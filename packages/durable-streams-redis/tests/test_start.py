"""What keeps a store from starting, each told in one clear sentence."""

import logging

import pytest
from proxies import BEFORE, Proxy
from servers import REDIS, RedisServer

from durable_streams_core.errors import StoreError
from durable_streams_core.registry import create_store
from durable_streams_redis import RedisStore
from durable_streams_redis.scripts import BEGIN
from durable_streams_redis.settings import settings_of, split_options


async def refusal(store: RedisStore) -> str:
    with pytest.raises(StoreError) as caught:
        await store.open()
    await store.close()
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


async def started(store: RedisStore) -> None:
    await store.open()
    await store.close()


async def test_where_nothing_listens(valkey: RedisServer) -> None:
    store = RedisStore("redis://127.0.0.1:1")
    assert "cannot be reached (127.0.0.1:1" in await refusal(store)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
async def test_a_server_that_evicts(server: RedisServer, prefix: str, policy: str) -> None:
    client = server.client()
    client.config_set("maxmemory-policy", policy)
    try:
        said = await refusal(RedisStore(server.url, prefix=prefix))
        assert policy in said
        assert "noeviction" in said
    finally:
        client.config_set("maxmemory-policy", "noeviction")
        client.close()
    await started(RedisStore(server.url, prefix=prefix))


async def test_a_read_only_replica(server: RedisServer, prefix: str) -> None:
    with RedisServer("--replicaof", f"127.0.0.1 {server.port}", binary=server.binary) as replica:
        said = await refusal(RedisStore(replica.url, prefix=prefix))
        assert "read-only replica" in said
        assert str(server.port) in said


async def test_a_wrong_password(prefix: str) -> None:
    with RedisServer("--requirepass", "right") as server:
        for url in (
            f"redis://:wrong@127.0.0.1:{server.port}",
            f"redis://somebody:right@127.0.0.1:{server.port}",
            f"redis://127.0.0.1:{server.port}",
        ):
            said = await refusal(RedisStore(url, prefix=prefix))
            assert "refuses the user or password" in said
            assert "wrong" not in said.replace("WRONGPASS", "")
        await started(RedisStore(f"redis://:right@127.0.0.1:{server.port}", prefix=prefix))


async def test_a_user_who_may_not_do_enough(prefix: str) -> None:
    with RedisServer() as server:
        server.do("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+ping", "+info")
        said = await refusal(RedisStore(f"redis://reader:pw@127.0.0.1:{server.port}"))
        assert "does not allow this user" in said


@pytest.mark.parametrize("value", [b"hello", b"", b"durable-streams", b"durable-streams schema=2"])
async def test_a_foreign_record(server: RedisServer, prefix: str, value: bytes) -> None:
    server.do("SET", f"{prefix}:schema", value)
    assert "value of another program" in await refusal(RedisStore(server.url, prefix=prefix))


async def test_a_foreign_record_of_another_type(server: RedisServer, prefix: str) -> None:
    server.do("LPUSH", f"{prefix}:schema", "x")
    assert "value of another program" in await refusal(RedisStore(server.url, prefix=prefix))


@pytest.mark.parametrize("name", ["feed", "paths", "deadlines", "removed"])
async def test_a_foreign_key_of_a_shard(server: RedisServer, prefix: str, name: str) -> None:
    await started(RedisStore(server.url, prefix=prefix, shards=1))
    key = f"{prefix}:{{0}}:{name}"
    server.do("SET", key, "x")
    said = await refusal(RedisStore(server.url, prefix=prefix))
    assert f"{key} is a string of another program" in said


async def test_a_newer_schema(server: RedisServer, prefix: str) -> None:
    server.do("SET", f"{prefix}:schema", "durable-streams schema=3 shards=16 more=1")
    said = await refusal(RedisStore(server.url, prefix=prefix))
    assert "schema version 3" in said
    assert "upgrade" in said


async def test_another_number_of_shards(server: RedisServer, prefix: str) -> None:
    await started(RedisStore(server.url, prefix=prefix, shards=4))
    await started(RedisStore(server.url, prefix=prefix))
    said = await refusal(RedisStore(server.url, prefix=prefix, shards=5))
    assert "has 4 shards" in said


async def test_one_shard_and_many(server: RedisServer, prefix: str) -> None:
    for shards in (1, 64):
        await started(RedisStore(server.url, prefix=f"{prefix}-{shards}", shards=shards))


@pytest.mark.parametrize("durability", ["everysec", "always", "waitaof:1,0"])
async def test_a_durability_that_needs_an_append_only_file(
    server: RedisServer, prefix: str, durability: str
) -> None:
    said = await refusal(RedisStore(server.url, prefix=prefix, durability=durability))
    assert "append-only file" in said


async def test_a_durability_that_needs_another_fsync_policy(prefix: str) -> None:
    with RedisServer("--appendonly", "yes", "--appendfsync", "everysec") as server:
        said = await refusal(RedisStore(server.url, prefix=prefix, durability="always"))
        assert "appendfsync everysec" in said
        await started(RedisStore(server.url, prefix=prefix, durability="everysec"))
        server.do("CONFIG", "SET", "appendfsync", "always")
        await started(RedisStore(server.url, prefix=prefix, durability="always"))
        await started(RedisStore(server.url, prefix=prefix, durability="everysec"))


if REDIS:

    async def test_a_server_without_waitaof(prefix: str) -> None:
        with RedisServer("--appendonly", "yes", binary=REDIS) as server:
            store = RedisStore(server.url, prefix=prefix, durability="waitaof:1,0")
            with server.client() as client:
                if client.info("server")["redis_version"] >= "7.2":
                    await started(store)
                else:
                    assert "has no WAITAOF" in await refusal(store)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h?shards=x",
        "redis://h?shards=0",
        "redis://h?prefix=",
        "redis://h?prefix={a}",
        "redis://h?durability=maybe",
        "redis://h?durability=wait:0",
        "redis://h?timeout=soon",
        "redis://h:port",
        "redis+sentinel://h",
        "redis+sentinel:///service",
        "redis+cluster://",
        "redis+cluster://:x",
    ],
)
def test_urls_that_cannot_be(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        create_store(url)
    assert str(caught.value).endswith(".")


def test_sources_that_cannot_be() -> None:
    with pytest.raises(StoreError, match="no source of connections"):
        RedisStore(object())
    with pytest.raises(StoreError, match="no scheme of Redis"):
        RedisStore("http://localhost")


def test_a_url_is_read_as_written() -> None:
    source, options = split_options(
        "redis://me:p%40ss@h:1234/3?prefix=x&shards=4&durability=wait:2&timeout=1.5&connections=9"
    )
    assert options == {
        "prefix": "x",
        "shards": "4",
        "durability": "wait:2",
        "timeout": "1.5",
        "connections": "9",
    }
    assert dict(settings_of(source).address.arguments) == {
        "host": "h",
        "port": 1234,
        "db": 3,
        "username": "me",
        "password": "p@ss",
    }
    assert settings_of("rediss://h").address.tls

    sentinel = settings_of(
        "redis+sentinel://me:pw@a:1,b/main/2?sentinel_password=other&tls=true&ssl_ca_certs=ca.pem"
    )
    assert [seed.name for seed in sentinel.seeds] == ["a:1", "b:26379"]
    assert sentinel.seeds[0].arguments["password"] == "other"
    assert sentinel.service == "main"
    assert sentinel.address.arguments["db"] == 2
    for address in (sentinel.address, *sentinel.seeds):
        assert address.tls
        assert address.arguments["ssl_ca_certs"] == "ca.pem"

    many = settings_of("redis+cluster://a:1,b:2,[::1]:3")
    assert [seed.name for seed in many.seeds] == ["a:1", "b:2", "::1:3"]


@pytest.mark.parametrize(
    "hosts, wanted",
    [
        ("[::1]:1", ["::1:1"]),
        ("[::1]:1,[::2]:2", ["::1:1", "::2:2"]),
        ("a:5,[::1]:3,b:4", ["a:5", "::1:3", "b:4"]),
    ],
)
@pytest.mark.parametrize("scheme, path", [("redis+cluster", ""), ("redis+sentinel", "/main")])
def test_an_address_in_brackets_stands_anywhere_among_the_hosts(
    scheme: str, path: str, hosts: str, wanted: list[str]
) -> None:
    """Python 3.13's urlsplit refuses one after another host."""
    settings = settings_of(f"{scheme}://me:p%40ss@{hosts}{path}?socket_keepalive=true")
    assert [seed.name for seed in settings.seeds] == wanted
    assert settings.address.arguments["password"] == "p@ss"


async def test_a_cluster_has_one_database() -> None:
    with pytest.raises(StoreError, match="only database 0"):
        await create_store("redis+cluster://h?db=1").open()


async def test_a_store_that_is_not_open(valkey: RedisServer) -> None:
    store = RedisStore(valkey.url)
    with pytest.raises(StoreError, match="not open"):
        await store.load("x")
    await store.close()


async def test_it_opens_again_after_it_could_not(prefix: str) -> None:
    server = RedisServer()
    store = RedisStore(server.url, prefix=prefix)
    await refusal(store)
    with server:
        await started(store)


@pytest.mark.parametrize("question", [b"INFO", b"TYPE", BEGIN.sha, b"XREVRANGE"])
async def test_a_connection_that_breaks_during_the_start_is_tried_again(
    valkey: RedisServer, prefix: str, question: bytes
) -> None:
    async with Proxy(valkey.port, lambda data: question in data) as proxy:
        proxy.cut = BEFORE
        await started(RedisStore(proxy.url, prefix=prefix, shards=1))
        assert proxy.cuts == 1


async def test_connections_that_break_at_each_start_are_reported(
    valkey: RedisServer, prefix: str
) -> None:
    async with Proxy(valkey.port) as proxy:
        proxy.refusing = True
        assert "cannot be reached" in await refusal(RedisStore(proxy.url, prefix=prefix))


async def test_a_node_size_that_suits_no_small_streams_is_mentioned_in_the_log(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durable_streams_redis")
    with RedisServer() as server:
        await started(RedisStore(server.url, prefix=prefix))
        assert "stream-node-max-bytes 4096" in caplog.text
        caplog.clear()
        server.do("CONFIG", "SET", "stream-node-max-bytes", 256)
        await started(RedisStore(server.url, prefix=prefix))
        assert not caplog.text
