"""A store made before fork() works in each child as if it had been made there."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import RedisServer

from durable_streams_core.errors import StoreError
from durable_streams_redis import RedisStore
from durable_streams_server import Engine

if not hasattr(os, "fork"):
    pytest.skip("this system has no fork()", allow_module_level=True)

# The test's own loop has threads, in which nothing is held that a child needs.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def in_a_child(work: Callable[[], Coroutine[object, object, None]]) -> int:
    """The process id of a forked child that does some work and exits, with 0 if it succeeded."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        # In a thread of its own, because the parent's loop was running in this one.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(work())).result()
        status = 0
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
    finally:
        os._exit(status)


async def exit_status(child: int) -> int:
    return os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1])


async def test_a_child_of_a_process_with_an_open_store_opens_it_anew(
    valkey: RedisServer, prefix: str
) -> None:
    """Its parent's connections stay its parent's."""
    store = RedisStore(valkey.url, prefix=prefix)
    async with Engine(store) as engine:
        await engine.create("p", content_type="text/plain")

        async def work() -> None:
            with pytest.raises(StoreError, match="not open in this process"):
                await store.load("p")
            await store.open()
            assert await store.load("p") is not None
            await store.close()

        child = in_a_child(work)
        # The parent goes on meanwhile, on its own connections.
        for n in range(100):
            await engine.append("p", f"{n};")
        assert await exit_status(child) == 0
        assert (await engine.read("p")).data == "".join(f"{n};" for n in range(100)).encode()
