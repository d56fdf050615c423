"""HTTP/2: each request has a connection of its own, so no request waits for another."""

import threading
from pathlib import Path

import pytest
from h2server import H2Server

from durable_streams_client import AsyncClient, Cancelled, Timeouts

BINARY = "application/octet-stream"
LIMITS = Timeouts(total=20)


async def test_appends_get_through_beside_live_readers(tmp_path: Path) -> None:
    with H2Server(tmp_path) as server:
        async with AsyncClient(
            server.url, http2=True, verify=server.trust, timeouts=LIMITS
        ) as client:
            readers = [client.stream("a").follow(live="sse") for _ in range(3)]
            for reader in readers:
                await anext(reader)
            stream = client.stream("b", content_type=BINARY)
            for _ in range(20):
                await stream.append(b"x")
            assert server.appends == 20
            for reader in readers:
                await reader.aclose()


async def test_a_waiting_reader_is_cancelled_and_harms_no_other(tmp_path: Path) -> None:
    with H2Server(tmp_path) as server:
        async with AsyncClient(server.url, http2=True, verify=server.trust) as client:
            reader = client.stream("a").follow(live="sse")
            await anext(reader)

            def cancel() -> None:
                while not server.live:
                    pass
                reader.cancel()

            thread = threading.Thread(target=cancel)
            thread.start()
            with pytest.raises(Cancelled):
                await anext(reader)
            thread.join()
            await client.stream("b", content_type=BINARY).append(b"x")
            assert server.appends == 1
