"""The network of the async client: what it holds back, what it waits for, and for how long."""

import asyncio
import gc
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import httpcore
import httpx
import pytest
from hostile import Hostile

from durable_streams_client import (
    AsyncClient,
    Client,
    ConnectFailed,
    ConnectionLost,
    RetryPolicy,
    TimedOut,
    Timeouts,
)
from durable_streams_client._async import runtime
from durable_streams_client._async.connections import HIGH_WATER, SMALL_BYTES, Backend

ONCE = RetryPolicy(attempts=1, read_attempts=1)
BINARY = "application/octet-stream"


class Peer:
    """The other end of one connection, which does nothing by itself."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(60)
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def accept(self) -> socket.socket:
        accepted, _ = self._listener.accept()
        accepted.settimeout(60)
        return accepted

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


async def connected(peer: Peer) -> tuple[httpcore.AsyncNetworkStream, socket.socket]:
    accepting = asyncio.create_task(asyncio.to_thread(peer.accept))
    stream = await Backend().connect_tcp("127.0.0.1", peer.port, timeout=60)
    return stream, await accepting


async def test_connecting_leaves_no_socket_wherever_it_is_cancelled() -> None:
    """One was lost when the cancellation came in the very round in which it was connected."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        port = listener.getsockname()[1]
        cancelled = 0
        for rounds in range(30):
            connecting = asyncio.create_task(Backend().connect_tcp("127.0.0.1", port, timeout=60))
            for _ in range(rounds):
                await asyncio.sleep(0)
            connecting.cancel()
            try:
                await (await connecting).aclose()
            except asyncio.CancelledError:
                cancelled += 1
            gc.collect()  # an unclosed socket is reported here, and fails the test
    # Some were cancelled before they were connected, others after.
    assert 0 < cancelled < 30


async def test_what_is_not_read_is_not_received_without_end(peer: Peer) -> None:
    stream, other = await connected(peer)
    size = 32 * HIGH_WATER
    sender = threading.Thread(target=other.sendall, args=(b"x" * size,), daemon=True)
    sender.start()

    def held() -> int:
        unread: int = stream.get_extra_info("unread_bytes")
        return unread

    async with asyncio.timeout(60):
        while held() <= HIGH_WATER:
            await asyncio.sleep(0.001)
        for _ in range(100):
            await asyncio.sleep(0)
        # One piece more than the mark at most.
        assert held() <= HIGH_WATER + 256 * 1024
        assert sender.is_alive()
        got = 0
        while got < size:
            got += len(await stream.read(1, timeout=60))
            assert held() <= HIGH_WATER + 256 * 1024
    await asyncio.to_thread(sender.join)
    other.close()
    assert await stream.read(1, timeout=60) == b""
    await stream.aclose()


async def test_a_slow_reader_gets_everything(server: Hostile) -> None:
    body = bytes(range(256)) * 4096 * 12
    server.page = len(body)
    server.put("a", body)
    async with AsyncClient(server.url) as client:
        assert await client.stream("a").read().read_bytes() == body


async def test_a_peer_that_takes_nothing_is_waited_for_until_the_limit(peer: Peer) -> None:
    """A large body does not pile up in memory, nor hang for ever."""
    async with AsyncClient(peer.url, retry=ONCE, timeouts=Timeouts(read=0.2)) as client:
        stream = client.stream("a", content_type=BINARY)
        with pytest.raises(TimedOut, match="no room"):
            await stream.append(b"x" * 64 * HIGH_WATER)


async def test_a_peer_that_takes_its_time_gets_everything(peer: Peer) -> None:
    stream, other = await connected(peer)
    size = 16 * HIGH_WATER
    writing = asyncio.create_task(stream.write(b"x" * size, timeout=60))
    while not stream.get_extra_info("is_full"):
        await asyncio.sleep(0)
    assert not writing.done()

    def take() -> int:
        got = 0
        while got < size:
            got += len(other.recv(1 << 16))
        return got

    assert await asyncio.to_thread(take) == size
    await writing
    await stream.aclose()
    other.close()


async def test_a_peer_that_goes_while_it_is_written_to(peer: Peer) -> None:
    stream, other = await connected(peer)
    writing = asyncio.create_task(stream.write(b"x" * 16 * HIGH_WATER, timeout=60))
    while not stream.get_extra_info("is_full"):
        await asyncio.sleep(0)
    # Closed with unread data: a reset.
    other.close()
    await writing  # the answer tells, or its lack
    with pytest.raises(httpcore.ReadError):
        await stream.read(1, timeout=60)
    with pytest.raises(httpcore.WriteError, match="closed"):
        await stream.write(b"more", timeout=60)
    await stream.aclose()


async def test_small_writes_leave_together_when_the_answer_is_waited_for(peer: Peer) -> None:
    stream, other = await connected(peer)
    await stream.write(b"head,")
    await stream.write(b"body")
    other.setblocking(False)
    with pytest.raises(BlockingIOError):
        other.recv(1)
    other.settimeout(60)
    reading = asyncio.create_task(stream.read(1, timeout=60))
    assert await asyncio.to_thread(other.recv, 100) == b"head,body"
    await asyncio.to_thread(other.sendall, b"answer")
    assert await reading == b"answer"
    await stream.write(b"small,")
    await stream.write(b"x" * SMALL_BYTES)
    got = b""
    while len(got) < 6 + SMALL_BYTES:
        got += await asyncio.to_thread(other.recv, 1 << 20)
    assert got == b"small," + b"x" * SMALL_BYTES
    with pytest.raises(httpcore.ReadTimeout):
        await stream.read(1, timeout=0.01)
    other.close()
    await stream.aclose()


async def test_a_connection_tells_where_it_leads(peer: Peer) -> None:
    stream, other = await connected(peer)
    assert stream.get_extra_info("server_addr") == ("127.0.0.1", peer.port)
    assert stream.get_extra_info("client_addr") == other.getpeername()
    assert stream.get_extra_info("is_readable") is False
    other.close()
    async with asyncio.timeout(60):
        while not stream.get_extra_info("is_readable"):
            await asyncio.sleep(0)
    await stream.aclose()


async def test_options_of_a_connection(peer: Peer) -> None:
    option = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    stream = await Backend().connect_tcp(
        "127.0.0.1", peer.port, local_address="127.0.0.1", socket_options=[option]
    )
    own = stream.get_extra_info("socket")
    assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert own.getsockname()[0] == "127.0.0.1"
    await stream.aclose()


async def test_no_connection_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    limits = Timeouts(connect=0.01)
    async with AsyncClient("http://127.0.0.1:9/", retry=ONCE, timeouts=limits) as client:
        with pytest.raises(ConnectFailed, match="no connection for"):
            await client.stream("a").head()


async def test_nobody_listens(peer: Peer) -> None:
    peer.close()
    async with AsyncClient(peer.url, retry=ONCE) as client:
        with pytest.raises(ConnectFailed):
            await client.stream("a").head()


async def test_a_peer_that_keeps_silent_at_the_tls_handshake(peer: Peer) -> None:
    url = peer.url.replace("http:", "https:")
    limits = Timeouts(connect=0.1)
    async with AsyncClient(url, retry=ONCE, timeouts=limits) as client:
        with pytest.raises(ConnectFailed, match="no TLS handshake"):
            await client.stream("a").head()


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 400 This is no TLS\r\n\r\n"])
async def test_a_peer_that_speaks_no_tls(peer: Peer, words: bytes) -> None:
    """It hangs up, or says something else."""

    def answer() -> None:
        other = peer.accept()
        other.recv(1 << 16)
        other.sendall(words)
        other.close()

    thread = threading.Thread(target=answer)
    thread.start()
    url = peer.url.replace("http:", "https:")
    async with AsyncClient(url, retry=ONCE, verify=ssl.create_default_context()) as client:
        with pytest.raises(ConnectFailed):
            await client.stream("a").head()
    await asyncio.to_thread(thread.join)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_certificates_are_read_only_for_a_server_that_has_one(
    server: Hostile, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """Reading them takes longer than most programs need to read a stream."""
    monkeypatch.setattr(httpx, "create_ssl_context", None)
    server.put("a")
    client = kind(server.url)
    if kind is Client:
        assert await asyncio.to_thread(client.stream("a").exists)
        client.close()
    else:
        assert await client.stream("a").exists()
        await client.aclose()


async def test_a_peer_that_resets_instead_of_answering(peer: Peer) -> None:
    def reset() -> None:
        other = peer.accept()
        other.recv(1 << 16)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        other.close()

    thread = threading.Thread(target=reset)
    thread.start()
    async with AsyncClient(peer.url, retry=ONCE) as client:
        with pytest.raises(ConnectionLost):
            await client.stream("a").head()
    await asyncio.to_thread(thread.join)


async def test_a_transport_handed_in_is_used() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(404))
    async with AsyncClient("http://x.example/", http=transport, retry=ONCE) as client:
        assert await client.stream("a").exists() is False


async def test_a_task_cancelled_while_it_joins_a_worker_is_cancelled() -> None:
    """The cancellation was taken for one of the worker."""
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    worker = runtime.Worker(work, "endless", set())
    joining = asyncio.create_task(worker.join(60))
    await begun.wait()
    await asyncio.sleep(0)
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    assert len(asyncio.all_tasks()) == 1


async def test_a_worker_that_does_not_end_is_stopped() -> None:
    worker = runtime.Worker(asyncio.Event().wait, "endless", set())  # type: ignore[arg-type]
    await worker.join(0.01)
    assert len(asyncio.all_tasks()) == 1
