"""Several server processes on one store, each request sent to any of them."""

import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self

import aiohttp
from multidict import CIMultiDictProxy

STREAMS = "/v1/stream/"


class Running:
    """A server process that accepts requests."""

    def __init__(self, line: str, url: str, process: subprocess.Popen[str]) -> None:
        self.line = line
        """The line that says what it serves, and where."""
        self.url = url
        self.killed = False
        self._process = process

    def kill(self) -> None:
        """End it without a word."""
        self.killed = True
        self._process.kill()
        self._process.wait()


@contextmanager
def running(store: str, *options: str) -> Iterator[Running]:
    """A server process, which in the end stops as it should unless it was killed."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "durable_streams_server", "--store", store, "--port", "0"),
            *options,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"Serving .* at (http://\S+?)/v1/stream", line):
                break
        else:
            raise AssertionError("".join(said))
        drain = threading.Thread(target=said.extend, args=(process.stdout,))
        drain.start()
        server = Running(line, found[1], process)
        yield server
        process.terminate()
        status = process.wait(60)
        assert server.killed or status == 0
        drain.join()
        assert "Traceback" not in "".join(said), "".join(said)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def serving(store: str, *options: str) -> Iterator[str]:
    """A server process; its base URL."""
    with running(store, *options) as server:
        yield server.url


@contextmanager
def serving_together(count: int, store: str, *options: str) -> Iterator[list[str]]:
    """Server processes that start and stop at the same time; their base URLs."""
    servers = [serving(store, *options) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        started = [pool.submit(server.__enter__) for server in servers]
        try:
            yield [each.result() for each in started]
        finally:
            stopped = [
                pool.submit(server.__exit__, None, None, None)
                for server, each in zip(servers, started, strict=True)
                if each.exception() is None
            ]
            for each in stopped:
                each.result()


class Client:
    """Sends each request to a server chosen at random."""

    def __init__(self, urls: Sequence[str], seed: int = 0) -> None:
        self.urls = urls
        self._random = random.Random(seed)

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    async def __call__(
        self,
        method: str,
        path: str,
        data: str | bytes | None = None,
        *,
        at: int | None = None,
        params: Mapping[str, str] | None = None,
        **headers: str,
    ) -> tuple[int, CIMultiDictProxy[str], bytes]:
        """``(status, headers, body)``; an underscore in a header's name is a hyphen."""
        url = self._random.choice(self.urls) if at is None else self.urls[at]
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(
            method, url + STREAMS + path, data=data, params=params, headers=named
        ) as response:
            return response.status, response.headers, await response.read()
