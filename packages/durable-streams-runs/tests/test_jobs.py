"""A program's output is a run: its text, its exit status, and its end when it is stopped."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from sources import text

from durable_streams_runs import Runs, Status, program_output


def python(code: str, **options: Any) -> Any:
    return program_output(sys.executable, "-c", code, **options)


async def test_a_program_that_ends_well_is_done(runs: Runs) -> None:
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr)"
    assert await text(await runs.start("a", python(code))) == ("out\nerr\n", "done")


async def test_a_program_that_ends_with_another_status_failed_with_it(runs: Runs) -> None:
    run = await runs.start("a", python("print('x'); raise SystemExit(3)"))
    assert await text(run) == ("x\n", "failed")
    assert (await run.status()).error == "The program ended with status 3."


async def test_a_program_that_is_not_there_fails(runs: Runs) -> None:
    run = await runs.start("a", program_output("/no/such/program"))
    info = await run.wait()
    assert info.status is Status.FAILED
    assert "/no/such" not in str(info.error)


async def test_what_is_not_utf_8_is_replaced(runs: Runs) -> None:
    code = "import sys; sys.stdout.buffer.write(b'a\\xff\\xe2\\x82')"
    assert await text(await runs.start("a", python(code))) == ("a\ufffd\ufffd", "done")


async def test_a_program_gets_its_directory_and_its_environment(runs: Runs, tmp_path: Path) -> None:
    code = "import os; print(os.getcwd(), os.environ['GREETING'])"
    source = python(code, cwd=tmp_path, env={**os.environ, "GREETING": "hello"})
    assert await text(await runs.start("a", source)) == (f"{tmp_path} hello\n", "done")


CHILDREN = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(3600)
"""


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
async def test_a_stop_ends_the_program_and_those_that_it_started(runs: Runs) -> None:
    run = await runs.start("a", python(CHILDREN))
    written = ""
    async for part in run.follow():
        written += part.text
        if written.endswith("\n"):
            assert (await run.stop()).status is Status.STOPPED
    pids = [int(pid) for pid in written.split()]
    assert len(pids) == 2
    while any(map(is_alive, pids)):
        await asyncio.sleep(0.01)
