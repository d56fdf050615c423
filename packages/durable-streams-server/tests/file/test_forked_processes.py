"""A file store that was open before ``fork()``: it stays the parent's."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, os, signal, sys, traceback
from durable_streams_server import Engine, StoreError
from durable_streams_server.stores.file import FileStore

engine = Engine(FileStore(sys.argv[1]) if sys.argv[2] == "object" else "file:" + sys.argv[1])

async def child():
    try:
        await engine.start()
    except StoreError as error:
        assert "in use by another process" in str(error), error
    else:
        raise AssertionError("two processes write to one directory")

def in_child(alive):
    child_pid = os.fork()
    if child_pid:
        return child_pid
    status = 1
    try:
        asyncio.run(child())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os.write(alive, b"%d" % status)
        # It lives on, as workers do.
        signal.pause()
        os._exit(status)

async def parent():
    said, says = os.pipe()
    async with engine:
        await engine.create("a", data="1")
        child_pid = await asyncio.to_thread(in_child, says)
        assert await asyncio.to_thread(os.read, said, 1) == b"0"
        await engine.append("a", "2")
    async with engine:
        assert (await engine.read("a")).data == b"12"
    print("done")
    os.kill(child_pid, signal.SIGKILL)
    os.waitpid(child_pid, 0)

asyncio.run(parent())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks beside threads")
@pytest.mark.parametrize("given", ["object", "url"])
def test_a_child_neither_writes_to_the_directory_nor_keeps_it_locked(
    tmp_path: Path, given: str
) -> None:
    script = tmp_path / "story.py"
    script.write_text(PROGRAM)
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", str(script)]
    ended = subprocess.run(
        [*command, str(tmp_path / "data"), given],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert (ended.stdout, ended.stderr) == ("done\n", "")
