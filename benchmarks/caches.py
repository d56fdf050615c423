"""Measures what each cache buys: the same work with the cache and without it, in turns.

    python benchmarks/caches.py

The two sides alternate in many short runs of one process. CPU time counts, and of each side the
first quartile, because other work on the machine only ever adds to a run. ``docs/caches.md`` has
the results.
"""

import asyncio
import itertools
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from in_process import Nowhere
from load import request

from durable_streams_client import AsyncClient, addresses, wire
from durable_streams_core import content, paths, streams
from durable_streams_core.offsets import BEGINNING
from durable_streams_core.sse import encode_data
from durable_streams_redis import RedisStore, schema
from durable_streams_server import Engine
from durable_streams_server.caches import ByteCache
from durable_streams_server.engine.pages import Page
from durable_streams_server.engine.remote_commits import RemoteCommits
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.standalone import StandaloneServer
from durable_streams_server.frontends.standalone.connection import Connection
from durable_streams_server.http.live import KEPT_FRAME_BYTES
from durable_streams_server.http.options import Options
from durable_streams_server.stores.file import FileStore
from durable_streams_server.stores.file.data_file_reader import FileReader
from durable_streams_server.subscriptions.index import Index

URL = "http://127.0.0.1:4437/v1/stream/"
ROUNDS = 150
TURNS = 40
JSON = "Content-Type: application/json\r\n"
MESSAGE = b'{"t":"tok","n":12345}'
STREAMS = 200

Work = Callable[[int], object]
Off = Callable[[], AbstractContextManager[object]]


class Nothing:
    """A cache that keeps nothing."""

    def get(self, _key: object, default: Any = None) -> Any:
        return default

    def add(self, _key: object, _value: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def __len__(self) -> int:
        return 0


@contextmanager
def uncached(function: Any) -> Iterator[None]:
    """Replace a function with an ``lru_cache`` by the bare one wherever it was imported."""
    places = [
        (module, name)
        for module_name, module in list(sys.modules.items())
        if module_name.startswith("durable_streams")
        for name, value in vars(module).items()
        if value is function
    ]
    for module, name in places:
        setattr(module, name, function.__wrapped__)
    try:
        yield
    finally:
        for module, name in places:
            setattr(module, name, function)


def compare(name: str, work: Work, off: Off) -> None:
    """Print the cost of one piece of work with the cache and without it."""
    numbers = itertools.count()
    spent: dict[bool, list[float]] = {True: [], False: []}

    def run() -> float:
        batch = list(itertools.islice(numbers, TURNS))
        begin = time.thread_time_ns()
        for n in batch:
            work(n)
        return (time.thread_time_ns() - begin) / TURNS / 1000

    for _ in range(ROUNDS):
        spent[True].append(run())
        with off():
            run()
            spent[False].append(run())
        run()
    kept, bare = (statistics.quantiles(spent[side])[0] for side in (True, False))
    print(f"{name:44} {kept:8.2f} us with, {bare:8.2f} us without: {bare / kept:5.2f}")


def served(root: Mount) -> Callable[[bytes], None]:
    """A function that sends bytes over one connection, without a socket."""
    server = StandaloneServer(root, "/v1/stream/")
    server.note_time(0.0)
    transport: Any = Nowhere()
    connection = Connection(server, secure=False)
    connection.connection_made(transport)
    return connection.data_received


async def requests() -> None:
    """Caches on the way of a request."""
    mount = Mount("memory:", Options(), None)
    async with mount.running():
        send = served(mount)
        for n in range(STREAMS):
            send(request(f"{URL}r{n}", "PUT", b"[" + MESSAGE + b"]", JSON))
            send(request(f"{URL}agents/r%C3%A9sum%C3%A9/{n}", "PUT", b"", JSON))
        appends = [request(f"{URL}r{n}", "POST", MESSAGE, JSON) for n in range(STREAMS)]
        encoded = [
            request(f"{URL}agents/r%C3%A9sum%C3%A9/{n}", "POST", MESSAGE, JSON)
            for n in range(STREAMS)
        ]
        reads = [request(f"{URL}r{n}?offset=-1", "GET", b"", "") for n in range(STREAMS)]

        def append(n: int) -> None:
            send(appends[n % STREAMS])

        def append_encoded(n: int) -> None:
            send(encoded[n % STREAMS])

        def read(n: int) -> None:
            send(reads[n % STREAMS])

        pages = mount.engine._pages  # noqa: SLF001 - switched off here and nowhere else
        compare("decoded paths: read", read, lambda: uncached(paths.decode_path))
        compare(
            "decoded paths: append, encoded path",
            append_encoded,
            lambda: uncached(paths.decode_path),
        )
        birth = streams._decode_birth  # noqa: SLF001
        compare("births: read", read, lambda: uncached(birth))
        compare("births: append", append, lambda: uncached(birth))
        compare("media types: append", append, lambda: uncached(content.media_type))
        for name, size in (("one message", 1), ("10 KiB", 440)):
            body = b"[" + b",".join([MESSAGE] * size) + b"]"
            for n in range(STREAMS):
                send(request(f"{URL}p{size}-{n}", "PUT", body, JSON))
            reads = [request(f"{URL}p{size}-{n}?offset=-1", "GET", b"", "") for n in range(STREAMS)]
            compare(
                f"pages: read of {name}", read, lambda: mock.patch.object(pages, "_kept", Nothing())
            )
            compare(
                f"page responses: read of {name}",
                read,
                lambda: mock.patch.object(Page, "responses", Nothing()),
            )


async def forks() -> None:
    """The remembered sources of forks."""
    async with Engine("memory:") as engine:
        await engine.create("s0", content_type="text/plain", data=b"x" * 1000)
        for n in range(1, 6):
            await engine.fork(f"s{n}", f"s{n - 1}")
        pages = engine._pages  # noqa: SLF001
        pages._kept = Nothing()  # type: ignore[assignment]  # noqa: SLF001
        compare(
            "sources of forks: read of a fork, depth 5",
            lambda _: engine.page_nowait("s5", BEGINNING),
            lambda: mock.patch.object(pages, "_ancestry", Nothing()),
        )


def index() -> None:
    """Which subscriptions an append concerns."""
    found: Index[str] = Index()
    for n in range(100):
        found.add_glob(("agents", str(n), "**"), f"sub{n}")
        found.add_stream(f"agents/{n}/log", f"one{n}")

    @contextmanager
    def forgotten() -> Iterator[None]:
        with mock.patch.object(found, "found", Forgetful()):
            yield

    class Forgetful(dict[str, Any]):
        def __setitem__(self, _key: str, _value: object) -> None:
            pass

    compare(
        "index of subscriptions: lookup", lambda n: found.find(f"agents/{n % 100}/log"), forgotten
    )


def client() -> None:
    """The parsed addresses of a client's requests."""
    url = addresses.stream_url("http://127.0.0.1:4437/v1/stream", "chats/42")
    address = wire._address  # noqa: SLF001
    compare("client: parsed addresses", lambda _: wire._address(url), lambda: uncached(address))  # noqa: SLF001


async def files() -> None:
    """Open data files."""
    with tempfile.TemporaryDirectory() as directory:
        store = FileStore(Path(directory), sync="off")
        async with Engine(store) as engine:
            for n in range(STREAMS):
                await engine.create(f"s{n}", content_type="text/plain", data=b"x" * 1000)
        store = FileStore(Path(directory), sync="off")
        async with Engine(store):
            parts = store._session.bytes  # type: ignore[union-attr]  # noqa: SLF001
            entities = [parts._table.entities[f"s{n}"] for n in range(STREAMS)]  # noqa: SLF001
            reader = parts._reader  # noqa: SLF001
            only_one = FileReader(reader._disk, 1)  # noqa: SLF001
            readers = [reader]

            @contextmanager
            def one() -> Iterator[None]:
                readers[0] = only_one
                yield
                readers[0] = reader

            compare(
                "open data files: read",
                lambda n: readers[0].read(entities[n % STREAMS], 0, 1000),
                one,
            )


def redis_tags() -> None:
    """The tags of Redis shards."""
    tags = schema.shard_tags
    compare("tags of 16 Redis shards", lambda _: schema.shard_tags(16), lambda: uncached(tags))


def events() -> None:
    """The encoded SSE events of catch-up pages."""
    cache: ByteCache[int, bytes] = ByteCache(KEPT_FRAME_BYTES)
    data = b'{"t":"tok","n":12345},\n' * 2800

    def event(_n: int) -> bytes:
        frame = cache.get(0)
        if frame is None:
            frame = encode_data(content.Kind.JSON, data, base64=False)
            cache.add(0, frame, len(frame))
        return frame

    @contextmanager
    def off() -> Iterator[None]:
        with (
            mock.patch.object(ByteCache, "get", return_value=None),
            mock.patch.object(ByteCache, "add"),
        ):
            yield

    compare("SSE events: catch-up with 64 KiB", event, off)


async def client_pages() -> None:
    """Pages that a client keeps: what a repeated read costs client and server together."""
    mount = Mount("memory:", Options(), None)
    async with mount.running():
        server = StandaloneServer(mount, "/v1/stream/")
        port = await server.listen("127.0.0.1", 0)
        await mount.engine.create("s", content_type="text/plain", data=b"x" * 900_000)
        for size in (8 * 1024 * 1024, 0):
            spent = []
            base = f"http://127.0.0.1:{port}/v1/stream"
            async with AsyncClient(base, cache_bytes=size) as client:
                for _ in range(100):
                    begin = time.thread_time_ns()
                    async with client.stream("s").read() as reader:
                        async for _batch in reader:
                            pass
                    spent.append((time.thread_time_ns() - begin) / 1000)
            print(f"client: a page of 900 kB, cache_bytes={size:9,}: {min(spent):8.0f} us")
        await server.stop()


async def facts_of_remote_streams() -> None:
    """Remembered facts of streams in Redis, which save each append a look-up."""
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        command = ["redis-server", "--port", str(port), "--save", "", "--dir", directory]
        redis = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        try:
            await asyncio.sleep(1)
            async with Engine(RedisStore(f"redis://127.0.0.1:{port}")) as engine:
                await engine.create("s", content_type="application/json")
                known = RemoteCommits._known  # noqa: SLF001
                spent: dict[bool, list[float]] = {True: [], False: []}
                for n in range(2000):
                    kept = n % 2 == 0
                    with mock.patch.object(
                        RemoteCommits, "_known", known if kept else lambda _self, _queue: False
                    ):
                        begin = time.perf_counter_ns()
                        await engine.append("s", {"n": n})
                        spent[kept].append((time.perf_counter_ns() - begin) / 1000)
                quick = {side: statistics.quantiles(times)[0] for side, times in spent.items()}
                print(
                    f"facts of streams in Redis: append {quick[True]:.0f} us with (wall time),"
                    f" {quick[False]:.0f} us without"
                )
        finally:
            redis.terminate()
            await redis.wait()


async def main() -> None:
    await requests()
    await forks()
    index()
    client()
    await files()
    redis_tags()
    events()
    await client_pages()
    if shutil.which("redis-server") is not None:
        await facts_of_remote_streams()


if __name__ == "__main__":
    asyncio.run(main())
