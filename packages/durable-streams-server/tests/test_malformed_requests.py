"""What servers log of requests that are not HTTP: never what they hold, which may be secret."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from servers import SERVERS

from durable_streams_server import Engine, MemoryStore
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.http.options import Options
from durable_streams_server.operations.page_server import serve_page

SECRET = b"swordfish"
MALFORMED = {
    "header": b"GET /a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\x01\r\n\r\n",
    "header name": b"GET /a HTTP/1.1\r\nHost: x\r\nAuthorization Bearer: %b\r\n\r\n",
    "line": b"GET /a?sig=%b b HTTP/1.1\r\nHost: x\r\n\r\n",
    "method": b"Authorization: Bearer %b\r\n\r\n",
    "target": b"GET a:%b@x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "length": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\n\r\n",
    "chunk": b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%b\r\n",
}
Serve = Callable[[], AbstractAsyncContextManager[int]]


def on_front_end(name: str) -> Serve:
    @asynccontextmanager
    async def served() -> AsyncIterator[int]:
        mount = Mount(Engine(MemoryStore()), Options(), None)
        async with mount.running(), SERVERS[name](mount, "/") as port:
            yield port

    return served


def metrics_page() -> AbstractAsyncContextManager[int]:
    return serve_page("/metrics", lambda: (b"text/plain", b""), "127.0.0.1", 0)


@pytest.mark.parametrize("fault", MALFORMED)
@pytest.mark.parametrize(
    "serve",
    [*map(on_front_end, SERVERS), metrics_page],
    ids=[*SERVERS, "metrics page"],
)
async def test_the_log_quotes_nothing_of_a_malformed_request(
    serve: Serve, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serve() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(MALFORMED[fault] % SECRET)
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert SECRET.decode() not in caplog.text


async def test_a_malformed_request_is_a_warning_of_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with on_front_end("aiohttp")() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(MALFORMED["header"] % SECRET)
        assert b" 400 " in await reader.readline()
        writer.close()
        await writer.wait_closed()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == "a malformed request was refused (BadHttpMessage)"
    assert record.exc_info is None
