"""Prepares the process that runs a server: its files, its memory and its event loop."""

import asyncio
import contextlib
import gc
import sys
from collections.abc import Callable
from typing import Any

from durable_streams_server.cli.allocator import keep_large_blocks


def prepare_process() -> None:
    """Give the process what a server needs of the system."""
    allow_many_files()
    # The collector need not look at imported modules again, nor at young objects as often as it
    # does by default: requests leave no cycles behind.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    keep_large_blocks()


def loop_runner() -> Callable[[Any], None]:
    """The function that runs a coroutine on the fastest event loop of this system."""
    if sys.platform == "win32":
        return asyncio.run
    import uvloop

    return uvloop.run


def allow_many_files() -> None:
    """A connection is a file: ask for as many as the system lets this user have."""
    if sys.platform == "win32":
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
