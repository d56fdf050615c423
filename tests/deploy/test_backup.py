"""The commands of the page about backups work, in an empty folder, as they are printed there."""

import asyncio
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from durable_streams_core.errors import InvalidRequest
from durable_streams_server import Engine
from durable_streams_server.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "backup.md"
PATHS = ("chats/1", "chats/2")


async def fill(store: str) -> None:
    async with Engine(store) as streams:
        for path in PATHS:
            await streams.create(path, content_type="application/json")
            await streams.append(path, {"path": path})


async def read_all(store: str) -> list[tuple[str, list[object]]]:
    """The tail and the messages of every stream of the test."""
    async with Engine(store) as streams:
        pages = [await streams.read(path) for path in PATHS]
        return [(page.offset, list(page)) for page in pages]


def test_the_commands_of_the_page_back_up_and_restore_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asyncio.run(fill("file:data"))
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for line in "".join(blocks).splitlines()]
    assert len(commands) == 6
    for program, *arguments in commands:
        if program == "durable-streams-server":
            ended = CliRunner().invoke(main, arguments)
            assert ended.exit_code == 0, ended.output
            assert arguments[0] != "check" or "Everything is as it was stored." in ended.output
        else:
            subprocess.run([program, *arguments], check=True)
    original = asyncio.run(read_all("file:data"))
    assert [items for _, items in original] == [[{"path": path}] for path in PATHS]
    assert asyncio.run(read_all("file:data.copy")) == original
    assert asyncio.run(read_all("file:restored")) == original


def test_a_restored_file_store_refuses_offsets_that_it_never_gave_out(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    asyncio.run(fill(f"file:{data}"))
    subprocess.run(["cp", "-a", data, copy], check=True)

    async def read_on() -> str:
        async with Engine(f"file:{data}") as streams:
            later = await streams.append(PATHS[0], {"after": "the backup"})
        async with Engine(f"file:{copy}") as streams:
            with pytest.raises(InvalidRequest) as refused:
                await streams.read(PATHS[0], later.offset)
        return refused.value.code

    assert asyncio.run(read_on()) == "offset-past-tail"
