"""Over TLS: who is trusted, what is said when that is nobody, and that readers stay alive.

The Valkey that tests run on is built without TLS, so a proxy speaks it in front of one.
"""

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import trustme
from proxies import Proxy
from servers import RedisServer

from durable_streams_core.errors import StoreError
from durable_streams_redis import RedisStore
from durable_streams_server import Engine

PASSWORD = "sesame-7"


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    with RedisServer("--requirepass", PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the authority that issued the server's certificate."""
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """The file of an authority that did not."""
    path = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


def over_tls(server: RedisServer, authority: trustme.CA, host: str = "127.0.0.1") -> Proxy:
    """A way to the server on which it has a certificate for ``host``."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)
    return Proxy(server.port, tls=context)


def url(port: int, ca: Path | None = None, scheme: str = "rediss", host: str = "127.0.0.1") -> str:
    query = "" if ca is None else f"?ssl_ca_certs={ca}"
    return f"{scheme}://:{PASSWORD}@{host}:{port}{query}"


async def refusal(source: object) -> str:
    store = RedisStore(source)
    with pytest.raises(StoreError) as caught:
        await store.open()
    await store.close()
    message = str(caught.value)
    assert PASSWORD not in message
    assert "\n" not in message
    assert message.endswith(".")
    return message


async def test_streams_are_written_and_read(
    guarded: RedisServer, authority: trustme.CA, ca: Path, prefix: str
) -> None:
    async with over_tls(guarded, authority) as proxy:
        async with Engine(RedisStore(url(proxy.port, ca), prefix=prefix)) as engine:
            await engine.create("p", content_type="text/plain", data="over ")
            await engine.append("p", "TLS")
            large = "x" * 1_000_000
            await engine.append("p", large)
            assert (await engine.read("p")).data == b"over TLS" + large.encode()
        assert proxy.connections
        assert proxy.requests


async def test_a_client_is_asked_for_what_it_knows_of_tls(
    guarded: RedisServer, authority: trustme.CA, ca: Path, prefix: str
) -> None:
    async with over_tls(guarded, authority) as proxy:
        with redis.Redis.from_url(url(proxy.port, ca)) as client:
            async with Engine(RedisStore(client, prefix=prefix)) as engine:
                await engine.create("p", content_type="text/plain", data="x")
                assert [info.path for info in await engine.list()] == ["p"]


@pytest.mark.parametrize("trusted", ["nobody in particular", "a stranger"])
async def test_a_certificate_of_an_unknown_authority(
    guarded: RedisServer, authority: trustme.CA, stranger: Path, trusted: str
) -> None:
    async with over_tls(guarded, authority) as proxy:
        said = await refusal(url(proxy.port, stranger if trusted == "a stranger" else None))
        assert "cannot be trusted" in said
        assert "ssl_ca_certs" in said
        assert f"127.0.0.1:{proxy.port}" in said
        assert not proxy.connections


async def test_a_certificate_of_another_host(
    guarded: RedisServer, authority: trustme.CA, ca: Path
) -> None:
    async with over_tls(guarded, authority, "elsewhere.example") as proxy:
        said = await refusal(url(proxy.port, ca))
        assert "use the host that it was issued for" in said


async def test_only_one_side_speaks_tls(
    guarded: RedisServer, authority: trustme.CA, ca: Path
) -> None:
    """Neither hears a word of the other, so it is one of several things to check."""
    async with over_tls(guarded, authority) as proxy:
        for source in (f"{url(guarded.port, ca)}&timeout=0.2", url(proxy.port, scheme="redis")):
            assert "whether it speaks TLS" in await refusal(source)


async def test_a_server_that_asks_for_a_certificate(
    guarded: RedisServer, authority: trustme.CA, ca: Path, tmp_path: Path, prefix: str
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    mine = authority.issue_cert("client.example")
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    for part in mine.cert_chain_pems:
        part.write_to_path(tmp_path / "cert.pem", append=True)
    async with Proxy(guarded.port, tls=context) as proxy:
        assert "cannot be reached" in await refusal(url(proxy.port, ca))
        source = f"{url(proxy.port, ca)}&ssl_certfile={tmp_path}/cert.pem"
        store = RedisStore(f"{source}&ssl_keyfile={tmp_path}/key.pem", prefix=prefix)
        await store.open()
        await store.close()


async def test_a_follower_stays_when_its_connections_do_not(
    guarded: RedisServer, authority: trustme.CA, ca: Path, prefix: str
) -> None:
    writing = RedisStore(url(guarded.port, scheme="redis"), prefix=prefix)
    async with (
        over_tls(guarded, authority) as proxy,
        Engine(writing) as writer,
        Engine(RedisStore(url(proxy.port, ca), prefix=prefix)) as reader,
    ):
        await writer.create("p", content_type="text/plain")
        found = b""
        follower = aiter(reader.follow("p"))
        for turn in range(3):
            more = asyncio.ensure_future(anext(follower))
            await writer.append("p", f"turn {turn};")
            found += (await more).data
            before = proxy.connections
            proxy.drop()
            # Data written while no process can be notified is found afterwards.
            await writer.append("p", f"cut {turn};")
            found += (await anext(follower)).data
            assert proxy.connections > before
        await writer.close_stream("p")
        async for batch in follower:
            found += batch.data
        assert found == b"".join(b"turn %d;cut %d;" % (turn, turn) for turn in range(3))
