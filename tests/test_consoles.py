"""The consoles of the README and the guides show what a reader's own console shows."""

import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import free_port

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/getting-started.md"]
SECONDS = 60
ELISION = "…"
BIRTH = re.compile(r"\d{16}(?=_\d{16})")


def transcript(page: str, port: str) -> list[tuple[str, list[str]]]:
    """Each command of a page's console blocks, with the lines that it is said to print."""
    text = (ROOT / page).read_text().replace("4437", port)
    steps: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            elif line and line != ELISION:
                steps[-1][1].append(line)
    return steps


def shows(line: str, shown: str) -> bool:
    """Whether a printed line is the shown one, which may leave parts out.

    The first half of an offset is when the stream was created: any other moment is as good.
    """
    pattern = ".*".join(map(re.escape, shown.split(ELISION)))
    return re.fullmatch(BIRTH.sub(lambda _: BIRTH.pattern, pattern), line) is not None


def run_until_shown(command: str, shown: list[str]) -> str:
    """Run a command until it has printed the lines, in their order but for HTTP headers.

    Returns the first half of the offsets that it printed.
    """
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    missing = list(shown)
    printed = []
    alarm = threading.Timer(SECONDS, process.kill)
    alarm.start()
    try:
        for line in process.stdout:
            printed.append(line.rstrip("\r\n"))
            found = next((each for each in missing if shows(printed[-1], each)), None)
            if found is not None:
                missing.remove(found)
            if not missing:
                return next(iter(BIRTH.findall("".join(printed))), "")
    finally:
        alarm.cancel()
        process.kill()
        process.stdout.close()
        process.wait()
    pytest.fail(f"{command}\ndid not print {missing}, but\n" + "\n".join(printed))


@pytest.fixture
def server() -> Iterator[Any]:
    """The server that the pages start, at a port of its own; yields that port."""
    port = str(free_port())
    process = subprocess.Popen(
        [sys.executable, "-m", "durable_streams_server", "--store", "memory:", "--port", port],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.close()
        assert process.wait(SECONDS) == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="the pages' commands are curl's")
@pytest.mark.parametrize("page", PAGES)
def test_every_command_prints_what_the_page_shows(page: Any, server: Any) -> None:
    steps = transcript(page, server)
    assert len(steps) >= 4
    birth = ""
    for command, shown in steps:
        birth = run_until_shown(BIRTH.sub(birth, command) if birth else command, shown) or birth
