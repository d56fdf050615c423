"""Measures what streams, producers, connections and readers cost a server in memory.

``python benchmarks/capacity.py`` starts the command anew for each row. Memory is the resident
memory of the process, so other work on the machine does not change it. The sockets of the kernel
are not in it. Linux.
"""

import asyncio
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

STREAMS = 20_000
PRODUCERS = 10_000
CONNECTIONS = 4_000
MESSAGE = b'{"n":' + b"1" * 94 + b"}"
PIPELINED = 64
HEAD = (
    "{method} /v1/stream/{path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n{more}"
)


class Server:
    """The command in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    def resident(self) -> int:
        """Bytes of memory that the process occupies."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


@asynccontextmanager
async def serve(store: str) -> AsyncIterator[Server]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "durable_streams_server", "--port", "0", "--store", store),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    line = await process.stdout.readline()
    found = re.search(rb":(\d+)/v1", line)
    assert found is not None, line
    try:
        yield Server(process, int(found[1]))
    finally:
        process.terminate()
        await process.wait()


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = HEAD.format(method=method, path=path, more=f"{more}Content-Length: {len(body)}\r\n\r\n")
    return head.encode() + body


async def send_all(port: int, requests: list[bytes]) -> None:
    """Send requests on one connection, several at a time, and take their answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for begin in range(0, len(requests), PIPELINED):
        some = requests[begin : begin + PIPELINED]
        writer.write(b"".join(some))
        for _ in some:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 2"), head
            length = re.search(rb"content-length: (\d+)", head.lower())
            if length is not None:
                await reader.readexactly(int(length[1]))
    writer.close()
    await writer.wait_closed()


async def open_connections(port: int, first: bytes, until: bytes) -> list[asyncio.StreamWriter]:
    """Open connections that send one request, get its answer and stay."""
    writers = []
    for _ in range(CONNECTIONS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        await reader.readuntil(until)
        writers.append(writer)
    return writers


async def close(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in writers))


class Growth:
    """How much a server has grown since it was looked at last."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._resident = server.resident()

    def each(self, count: int) -> str:
        """The memory of each of ``count`` things that are new."""
        before, self._resident = self._resident, self._server.resident()
        return f"{(self._resident - before) / count:,.0f} B"


async def measure_store(store: str) -> None:
    async with serve(store) as server:
        growth, kind = Growth(server), store.partition(":")[0]
        print(f"| {kind}: an empty server | {server.resident() / 2**20:.0f} MiB |")
        paths = [f"streams/{number}" for number in range(STREAMS)]
        await send_all(server.port, [request("PUT", path) for path in paths])
        print(f"| {kind}: a stream | {growth.each(STREAMS)} |")
        await send_all(server.port, [request("POST", path, MESSAGE) for path in paths])
        print(f"| {kind}: its first message of 101 bytes | {growth.each(STREAMS)} |")
        await send_all(
            server.port,
            [
                request(
                    *("POST", "streams/1", MESSAGE),
                    Producer_Id=f"producer-{number}",
                    Producer_Epoch="0",
                    Producer_Seq="0",
                )
                for number in range(PRODUCERS)
            ],
        )
        print(f"| {kind}: a producer | {growth.each(PRODUCERS)} |")


async def measure_connections(what: str, first: bytes, until: bytes) -> None:
    async with serve("memory:") as server:
        await send_all(server.port, [request("PUT", "streams/1")])
        growth = Growth(server)
        writers = await open_connections(server.port, first, until)
        print(f"| {what} | {growth.each(CONNECTIONS)} |")
        await close(writers)


async def main() -> None:
    print("| what | memory |\n|---|--:|")
    await measure_store("memory:")
    with tempfile.TemporaryDirectory() as directory:
        await measure_store(f"file:{directory}/data")
    await measure_connections("an idle connection", request("HEAD", "streams/1"), until=b"\r\n\r\n")
    await measure_connections(
        "an SSE reader", request("GET", "streams/1?offset=-1&live=sse"), until=b"upToDate"
    )
    await measure_connections(
        *(
            "a long-poll",
            request("HEAD", "streams/1") + request("GET", "streams/1?offset=now&live=long-poll"),
        ),
        until=b"\r\n\r\n",
    )


if __name__ == "__main__":
    asyncio.run(main())
