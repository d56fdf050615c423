"""Breaks and updates real servers under load, and measures when ``/ready`` tells of it.

    python operations_drill.py [redis] [disk] [certificate] [roll]

* ``redis``: Redis is killed, hangs, and runs out of memory, while nobody writes.
* ``disk``: another program fills a volume of 16 MiB (mounting one needs root).
* ``certificate``: a server with an expired certificate is given a new one.
* ``roll``: two servers behind nginx are replaced one after the other, under load.

Exits with 1 when ``/ready`` took longer than two seconds to tell the truth, when a request failed
in the roll, or when anything was lost.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from servers import RedisServer, free_port

from durable_streams_client import AsyncClient

TRUTH_SECONDS = 2.0
ROLLS = 2

NGINX = """
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
{user}
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream streams {{
        server 127.0.0.1:{first} max_fails=0;
        server 127.0.0.1:{second} max_fails=0;
        keepalive 32;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://streams;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""

failures: list[str] = []


def check(what: str, *, good: bool, found: str) -> None:
    """Print a result, and remember it if it is a failure."""
    print(f"{'ok    ' if good else 'FAILED'} {what}: {found}", flush=True)
    if not good:
        failures.append(what)


@asynccontextmanager
async def serving(port: int, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command, once it serves."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "durable_streams_server", "--port", str(port), *options),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line.startswith(b"Serving"), line
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.communicate()


async def ready(http: aiohttp.ClientSession, port: int) -> str:
    """The code that ``/ready`` answers, ``ready`` if all is well."""
    async with http.get(f"http://127.0.0.1:{port}/ready") as response:
        code: str = json.loads(await response.read()).get("code", "ready")
        assert (response.status == 200) == (code == "ready")
        return code


async def truth(http: aiohttp.ClientSession, port: int, what: str, *codes: str) -> None:
    """Measure how long it takes until ``/ready`` answers one of the codes."""
    began = time.monotonic()
    code = ""
    while code not in codes and time.monotonic() < began + 30:
        code = await ready(http, port)
        await asyncio.sleep(0.01)
    seconds = time.monotonic() - began
    check(what, good=code in codes and seconds <= TRUTH_SECONDS, found=f"{code} in {seconds:.2f} s")


async def drill_redis(http: aiohttp.ClientSession) -> None:
    with RedisServer() as redis:
        port = free_port()
        async with serving(port, "--store", redis.url):
            await truth(http, port, "Redis is there", "ready")
            redis.kill()
            await truth(http, port, "Redis was killed", "store-away")
            redis.start()
            await truth(http, port, "Redis is back", "ready")
            redis.pause()
            await truth(http, port, "Redis hangs", "store-silent", "store-away")
            redis.resume()
            await truth(http, port, "Redis goes on", "ready")
            redis.do("CONFIG", "SET", "maxmemory", "1mb")
            await truth(http, port, "Redis has no memory", "storage-full")
            redis.do("CONFIG", "SET", "maxmemory", "0")
            await truth(http, port, "Redis has memory", "ready")


async def drill_disk(http: aiohttp.ClientSession) -> None:
    volume = Path(tempfile.mkdtemp(prefix="ds-volume-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(volume)]
    mounted = await asyncio.create_subprocess_exec(*mount, stderr=subprocess.DEVNULL)
    if await mounted.wait():
        print("skipped: a volume of 16 MiB cannot be mounted by this user")
        return
    try:
        port = free_port()
        async with serving(port, "--store", f"file:{volume}/data"):
            await truth(http, port, "the disk has room", "ready")
            foreign = volume / "foreign"
            fill(foreign)
            await truth(http, port, "another program filled the disk", "storage-full")
            foreign.unlink()
            await truth(http, port, "the disk has room again", "ready")
    finally:
        await (await asyncio.create_subprocess_exec("umount", str(volume))).wait()
        volume.rmdir()


def fill(path: Path) -> None:
    """Write until the volume is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(64 * 1024))
        except OSError:
            pass


def write_certificate(path: Path, serial: int, *, days: int) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))


async def drill_certificate(_http: aiohttp.ClientSession) -> None:
    pem = Path(tempfile.mkdtemp(prefix="ds-tls-")) / "server.pem"
    write_certificate(pem, 1, days=-1)
    port = free_port()
    async with serving(port, "--store", "memory:", "--tls-cert", str(pem)) as process:
        old = await over_tls(port)
        check("the certificate that expired", good=old[0] == 1, found=f"number {old[0]}")
        write_certificate(pem, 2, days=30)
        began = time.monotonic()
        process.send_signal(signal.SIGHUP)
        serial = 1
        while serial != 2 and time.monotonic() < began + 30:
            serial, *connection = await over_tls(port)
            connection[1].close()
        seconds = time.monotonic() - began
        check("its successor", good=seconds <= TRUTH_SECONDS, found=f"in {seconds:.2f} s")
        old[2].write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        line = await old[1].readline()
        check("a connection from before", good=b" 200 " in line, found=line.decode().strip())
        old[2].close()


async def over_tls(port: int) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
    """The serial number of the certificate that is shown, and the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown).serial_number, reader, writer


class Load:
    """Writers and readers that send each request once, and a client that follows."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.requests = 0
        self.failed: list[str] = []
        self.written: list[int] = []
        self.followed: list[int] = []
        self.stop = False
        self._next = 0

    async def write(self, http: aiohttp.ClientSession) -> None:
        while not self.stop:
            self._next += 1
            number = self._next
            if await self._once(http, "POST", json=number):
                self.written.append(number)

    async def read(self, http: aiohttp.ClientSession) -> None:
        while not self.stop:
            await self._once(http, "GET", params={"offset": "-1"})
            await asyncio.sleep(0.02)

    async def _once(self, http: aiohttp.ClientSession, method: str, **more: object) -> bool:
        self.requests += 1
        try:
            async with http.request(method, f"{self.base}load", **more) as response:  # type: ignore[arg-type]
                await response.read()
                if response.status < 300:
                    return True
                self.failed.append(f"{method}: {response.status}")
        except aiohttp.ClientError as error:
            self.failed.append(f"{method}: {error!r}")
        return False

    async def follow(self, live: str) -> None:
        async with AsyncClient(self.base) as client:
            async for item in client.stream("load").follow(live=live).items():  # type: ignore[arg-type]
                if item == "end":
                    return
                self.followed.append(item)


async def drill_roll(http: aiohttp.ClientSession) -> None:
    program = shutil.which("nginx")
    if program is None:
        print("skipped: nginx is not installed (apt-get install nginx-light)")
        return
    directory = Path(tempfile.mkdtemp(prefix="ds-nginx-"))
    port, first, second = free_port(), free_port(), free_port()
    user = "user root root;" if os.getuid() == 0 else ""
    config = directory / "nginx.conf"
    config.write_text(
        NGINX.format(directory=directory, port=port, first=first, second=second, user=user)
    )
    with RedisServer() as redis:
        options = ("--store", redis.url, "--drain-delay", "2")
        servers = {each: serving(each, *options) for each in (first, second)}
        running = {each: await server.__aenter__() for each, server in servers.items()}
        nginx = await asyncio.create_subprocess_exec(program, "-c", str(config))
        base = f"http://127.0.0.1:{port}/v1/stream/"
        load = Load(base)
        try:
            await until_served(http, base)
            follower = asyncio.create_task(load.follow("sse"))
            tasks = [asyncio.create_task(load.write(http)) for _ in range(4)]
            tasks.append(asyncio.create_task(load.read(http)))
            await asyncio.sleep(1)
            for _ in range(ROLLS):
                for each in (first, second):
                    before = running[each]
                    before.send_signal(signal.SIGTERM)
                    await truth(http, each, f"the server at {each} drains", "draining")
                    await before.wait()
                    servers[each] = serving(each, *options)
                    running[each] = await servers[each].__aenter__()
                    await truth(http, each, f"the server at {each} is back", "ready")
                    await asyncio.sleep(0.5)
            load.stop = True
            await asyncio.gather(*tasks)
            async with http.post(f"{base}load", json="end") as response:
                assert response.status == 204
            await asyncio.wait_for(follower, 30)
        finally:
            for server in servers.values():
                await server.__aexit__(None, None, None)
            nginx.terminate()
            await nginx.wait()
            if load.failed:
                print((directory / "error.log").read_text()[-2000:])
        check(
            f"requests during {2 * ROLLS} replacements",
            good=not load.failed,
            found=f"{len(load.failed)} of {load.requests} failed {load.failed[:5]}",
        )
        check(
            "what the client that follows got",
            good=sorted(load.followed) == sorted(load.written),
            found=f"{len(load.followed)} items, {len(set(load.followed))} different, "
            f"of {len(load.written)} written",
        )


async def until_served(http: aiohttp.ClientSession, base: str) -> None:
    """Create the stream as soon as nginx takes requests."""
    while True:
        try:
            async with http.put(f"{base}load", headers={"content-type": "application/json"}) as put:
                assert put.status == 201
                return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.02)


DRILLS: dict[str, Callable[[aiohttp.ClientSession], Awaitable[None]]] = {
    "redis": drill_redis,
    "disk": drill_disk,
    "certificate": drill_certificate,
    "roll": drill_roll,
}


async def main(chosen: list[str]) -> int:
    async with aiohttp.ClientSession() as http:
        for name in chosen:
            print(f"{name}:")
            await DRILLS[name](http)
    return 1 if failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("drills", nargs="*", choices=[[], *DRILLS], default=[])
    sys.exit(asyncio.run(main(parser.parse_args().drills or list(DRILLS))))
