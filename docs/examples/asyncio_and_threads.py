"""Blocking work in threads, and an event loop that shows its progress.

python asyncio_and_threads.py http://127.0.0.1:4437/v1/stream/work
"""

import asyncio
import sys

from durable_streams_client import AsyncClient, Client, Stream

PARTS = 3


def do_part(progress: Stream, part: int) -> None:
    """Blocks, so it runs in a thread; threads share a client and its streams."""
    for step in range(10):
        progress.append({"part": part, "step": step})
    progress.append({"part": part, "done": True})


async def main(url: str) -> None:
    with Client() as blocking:
        async with AsyncClient() as client, asyncio.TaskGroup() as group:
            progress = client.stream(url)
            await progress.create(content_type="application/json", ttl=3600)
            for part in range(PARTS):
                group.create_task(asyncio.to_thread(do_part, blocking.stream(url), part))
            left = PARTS
            async for message in progress.follow().items():
                print(message)
                left -= message.get("done", False)
                if not left:
                    break


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
