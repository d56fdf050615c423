"""A program's output as the source of a run."""

import asyncio
import codecs
import os
import signal
from collections.abc import AsyncIterator, Mapping
from typing import Final

from durable_streams_runs.errors import RunFailed

__all__ = ["program_output"]

READ_BYTES: Final = 64 * 1024
"""Bytes of output that are read at a time."""
TERMINATION_SECONDS: Final = 5.0
"""How long a program may take to end after it was asked to."""
POLL_SECONDS: Final = 0.02
"""Time between two looks at whether a program and those that it started have ended."""
ANYBODY_THERE: Final = 0
"""The signal that only asks whether there is a process."""


async def program_output(
    *command: str | os.PathLike[str],
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[str]:
    """Run a program, and yield what it writes to standard output and standard error.

        await runs.start("builds/7", program_output("make", "test"))

    Bytes that are not UTF-8 become U+FFFD. When the run ends before its output does, as by a stop,
    the program and the programs that it started are asked to end (SIGTERM), and killed after five
    seconds, even if the program itself has ended. A worker that is killed leaves them running.

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
    status: int | None = None
    try:
        while data := await output.read(READ_BYTES):
            yield decoder.decode(data)
        yield decoder.decode(b"", final=True)
        status = await process.wait()
    finally:
        if status is None:
            await _end(process)
    if status:
        raise RunFailed(f"The program ended with status {status}.")


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a program and those that it started, which may live on after it."""
    group = process.pid
    try:
        if _signal(group, signal.SIGTERM):
            async with asyncio.timeout(TERMINATION_SECONDS):
                # The system tells of the end of a child, and not of that of a child's child.
                while _signal(group, ANYBODY_THERE):  # noqa: ASYNC110
                    await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        pass
    finally:
        _signal(group, signal.SIGKILL)
        await process.wait()


def _signal(group: int, number: int) -> bool:
    """Send a signal to a process group; False if it has ended."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # to one of them; it is there
    return True
