"""The command in a process of its own."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

LINE = re.compile(r"Serving durable streams from (\S+) at https?://([^:]+|\[::1\]):(\d+)(/\S*)\n")


MEMORY = {"DURABLE_STREAMS_STORE": "memory:"}
"""The default would leave files behind."""


@asynccontextmanager
async def running(
    *options: Any, entry: Any = ("-m", "durable_streams_server"), **environment: Any
) -> AsyncIterator[Any]:
    """The command in a process of its own; gives it with its port, and ends it."""
    process = await asyncio.create_subprocess_exec(
        *([sys.executable, *entry] if entry[0] == "-m" else entry),
        *options,
        env={**os.environ, **MEMORY, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        match = LINE.fullmatch(line)
        assert match, line + (await process.stderr.read()).decode()
        yield process, int(match[3]), match
    finally:
        if process.returncode is None:
            process.kill()
        # Reading to the end also closes the pipes.
        await process.communicate()


async def ended(process: Any, signum: Any = signal.SIGTERM) -> Any:
    """End it as a supervisor does; its exit status and everything it still printed."""
    process.send_signal(signum)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()
