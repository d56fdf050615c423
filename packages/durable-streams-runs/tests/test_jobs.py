"""A program's output is a run: its text, its exit status, and its end when it is stopped."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from sources import SHORT_LEASE, text

from durable_streams_runs import Limits, Run, Runs, Status, jobs, program_output
from durable_streams_server import Engine


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

LEFT_BEHIND = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
print(os.getpid(), child.pid, flush=True)
"""

STUBBORN = """
import os, signal, subprocess, sys
code = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
code += "print(os.getpid(), os.getpid(), flush=True); time.sleep(3600)"
subprocess.Popen([sys.executable, "-c", code])
"""

WITHOUT_OUTPUT = """
import os, sys, time
print(os.getpid(), os.getpid(), flush=True)
os.close(1), os.close(2)
time.sleep(3600)
"""


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except FileNotFoundError:
        return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


async def pids_of(run: Run) -> list[int]:
    """The processes that a program names in its first line."""
    written = ""
    async for part in run.follow():
        written += part.text
        if written.endswith("\n"):
            break
    return [int(pid) for pid in written.split()]


async def until_dead(pids: list[int]) -> None:
    assert len(pids) == 2
    while any(map(is_alive, pids)):
        await asyncio.sleep(0.01)


@needs_proc
@pytest.mark.parametrize("code", [CHILDREN, LEFT_BEHIND, WITHOUT_OUTPUT])
async def test_a_stop_ends_the_program_and_those_that_it_started(runs: Runs, code: str) -> None:
    run = await runs.start("a", python(code))
    pids = await pids_of(run)
    assert (await run.stop()).status is Status.STOPPED
    await until_dead(pids)


@needs_proc
async def test_a_program_that_ignores_the_request_to_end_is_killed(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "TERMINATION_SECONDS", 0.05)
    run = await runs.start("a", python(STUBBORN))
    pids = await pids_of(run)
    await run.stop()
    await until_dead(pids)


@needs_proc
async def test_a_run_that_fails_ends_its_program(memory: Engine, tmp_path: Path) -> None:
    code = LEFT_BEHIND.replace("flush=True", "file=open('pids', 'w')") + "print('x' * 10_000)"
    async with Runs(memory, lease=SHORT_LEASE, limits=Limits(run_bytes=1_000)) as runs:
        run = await runs.start("a", python(code, cwd=tmp_path))
        assert (await run.wait()).status is Status.FAILED
        await until_dead([int(pid) for pid in (tmp_path / "pids").read_text().split()])
