"""A program's output as the source of a run."""

import asyncio
import codecs
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Final

from durable_streams_runs.errors import RunFailed

__all__ = ["program_output"]

READ_BYTES: Final = 64 * 1024
"""Bytes of output that are read at a time."""
TERMINATION_SECONDS: Final = 5.0
"""How long a program may take to end after it was asked to."""


async def program_output(
    *command: str | os.PathLike[str],
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[str]:
    """Run a program, and yield what it writes to standard output and standard error.

        await runs.start("builds/7", program_output("make", "test"))

    Bytes that are not UTF-8 become U+FFFD. When the run is stopped, the program and the programs
    that it started are asked to end (SIGTERM), and killed after five seconds. A worker that is
    killed itself leaves the program running.

    Raises :class:`RunFailed` with the exit status if it is not 0, so that the run fails with it,
    and ``OSError`` if the program cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=None if env is None else dict(env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    output = process.stdout
    assert output is not None
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        while data := await output.read(READ_BYTES):
            yield decoder.decode(data)
        yield decoder.decode(b"", final=True)
        status = await process.wait()
    finally:
        if process.returncode is None:
            await _end(process)
    if status:
        raise RunFailed(f"The program ended with status {status}.")


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a program and those that it started."""
    _signal(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(TERMINATION_SECONDS):
            await process.wait()
    finally:
        _signal(process, signal.SIGKILL)
        await process.wait()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
