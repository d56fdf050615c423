"""Real caches: nginx in front of the server, and the one in Chromium.

Neither may hide an append, a close, a deletion or a re-creation from readers, and a shared cache
must answer readers of full pages itself.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from ports import free_port
from programs import need
from servers import SERVERS, Serve
from wire import Client


@pytest.fixture
def front_end() -> Serve:
    """One front end is enough: they send the same headers."""
    return SERVERS["standalone"]


# nginx.

NGINX = """
{user}
daemon off;
pid {directory}/nginx.pid;
error_log stderr;
worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    proxy_cache_path {directory}/cache keys_zone=pages:1m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_cache pages;
            proxy_cache_revalidate on;
            add_header X-Cache $upstream_cache_status;
        }}
    }}
}}
"""


@asynccontextmanager
async def nginx(directory: Path, upstream: int) -> AsyncIterator[int]:
    """nginx as a shared cache in front of a port; yields its own."""
    program = need("nginx", "nginx-light")
    port = free_port()
    config = directory / "nginx.conf"
    # Workers of root are another user's, who may not write here.
    user = "user root root;" if os.getuid() == 0 else ""
    config.write_text(NGINX.format(user=user, directory=directory, port=port, upstream=upstream))
    process = await asyncio.create_subprocess_exec(
        program, "-e", "stderr", "-p", str(directory), "-c", str(config)
    )
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                assert process.returncode is None
                await asyncio.sleep(0.01)
            else:
                writer.close()
                await writer.wait_closed()
                break
        yield port
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("public", [False, True], ids=["private", "public"])
async def test_nginx_hides_nothing_and_serves_full_pages(
    serve: Callable[..., Awaitable[Client]], tmp_path: Path, public: bool
) -> None:
    origin = await serve(public=public, page_bytes=4)
    async with nginx(tmp_path, origin.port) as port:
        readers = Client(port, origin.root, origin.mount)
        seen = []

        async def read() -> None:
            page = await readers.get("a?offset=-1")
            seen.append((page.status, page.body, page.get("stream-closed")))

        await origin.put("a")
        for body in (b"1", b"2"):
            await origin.post("a", body)
            await read()
            await read()
        await origin.post("a", b"", stream_closed="true")
        await read()
        await origin.delete("a")
        await read()
        await origin.put("a", body=b"new")
        await read()
        *found, gone, anew = seen
        assert found == [
            *[(200, b"1", None)] * 2,
            *[(200, b"12", None)] * 2,
            (200, b"12", "true"),
        ]
        assert gone[0] == 404
        assert anew == (200, b"new", None)

        await origin.put("long", body=b"fullrest")
        pages = [await readers.get("long?offset=-1") for _ in range(2)]
        assert [page.body for page in pages] == [b"full"] * 2
        assert [page["x-cache"] for page in pages] == ["MISS", "HIT" if public else "MISS"]
        await readers.close()


# Chromium.

PAGE = """<!doctype html>
<script type="module">
const url = STREAMS + 'a'
const text = { 'content-type': 'text/plain' }
const seen = []
async function read() {
  const response = await fetch(url + '?offset=-1')
  seen.push([response.status, response.ok ? await response.text() : '', response.headers.get('stream-closed')])
}
const append = (body, headers = {}) => fetch(url, { method: 'POST', headers: { ...text, ...headers }, body })
try {
  await fetch(url, { method: 'PUT', headers: text })
  await append('one ')
  await read()
  await append('two ')
  await read()
  await read()
  await append('', { 'stream-closed': 'true' })
  await read()
  await fetch(url, { method: 'DELETE' })
  await read()
  await fetch(url, { method: 'PUT', headers: text, body: 'new' })
  await read()
} catch (error) {
  seen.push(String(error))
}
await fetch('/seen', { method: 'POST', body: JSON.stringify(seen) })
</script>
"""


@asynccontextmanager
async def chromium(directory: Path, url: str) -> AsyncIterator[None]:
    """Chromium with a fresh profile, looking at a page."""
    program = need("chromium", "chromium")
    process = await asyncio.create_subprocess_exec(
        program,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--no-first-run", f"--user-data-dir={directory}", "--remote-debugging-port=0", url),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("public", [False, True], ids=["private", "public"])
async def test_chromium_sees_what_is_there(
    serve: Callable[..., Awaitable[Client]], tmp_path: Path, public: bool
) -> None:
    client = await serve(public=public)
    seen: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    async def page(_request: web.Request) -> web.Response:
        streams = json.dumps(f"http://127.0.0.1:{client.port}{client.root}")
        return web.Response(text=PAGE.replace("STREAMS", streams), content_type="text/html")

    async def report(request: web.Request) -> web.Response:
        seen.set_result(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_post("/seen", report)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with chromium(tmp_path, f"http://127.0.0.1:{runner.addresses[0][1]}/"):
            assert await asyncio.wait_for(seen, 60) == [
                [200, "one ", None],
                [200, "one two ", None],
                [200, "one two ", None],
                [200, "one two ", "true"],
                [404, "", None],
                [200, "new", None],
            ]
    finally:
        await runner.cleanup()
