"""Sends every HTTP request to a server chosen at random, byte for byte.

Each request goes over a connection of its own, with `Connection: close` added to it, so that no
two requests of a client need meet the same server.
"""

import asyncio
import random
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

_CONNECTION = re.compile(rb"\r\nconnection:[^\r]*", re.IGNORECASE)


class Balancer:
    """``chosen`` counts the requests that each port was sent."""

    def __init__(self, ports: Sequence[int], seed: int | None = None) -> None:
        self._random = random.Random(seed)
        self.chosen = dict.fromkeys(ports, 0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        forward: asyncio.Task[None] | None = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            port = self._random.choice(list(self.chosen))
            self.chosen[port] += 1
            answers, upstream = await asyncio.open_connection("127.0.0.1", port)
            head = _CONNECTION.sub(b"", head[:-4]) + b"\r\nConnection: close\r\n\r\n"
            upstream.write(head)
            forward = asyncio.create_task(_copy(reader, upstream))
            backward = asyncio.create_task(_copy(answers, writer))
            # A client that leaves must be seen to leave.
            await asyncio.wait([forward, backward], return_when=asyncio.FIRST_COMPLETED)
            if not backward.done():
                upstream.close()
            await backward
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            if forward is not None:
                forward.cancel()
            for each in (upstream, writer):
                if each is not None:
                    each.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(64 * 1024):
            writer.write(data)
            await writer.drain()


@contextmanager
def balancing(port: int, ports: Sequence[int]) -> Iterator[Balancer]:
    """A balancer on ``port`` in a thread of its own."""
    balancer = Balancer(ports)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(
        asyncio.start_server(balancer.serve, "127.0.0.1", port, limit=1024 * 1024)
    )
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield balancer
    finally:

        async def end() -> None:
            server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
