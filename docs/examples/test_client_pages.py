"""Every piece of Python on the pages about the client runs, in order, against our server."""

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parent.parent
WRITTEN = "http://127.0.0.1:4437"
SECONDS = 60


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with subprocess.Popen(
        [sys.executable, "-m", "durable_streams_server", "--store", "memory:", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail("the server did not start")
        yield found[0]
        process.terminate()


def run(page: str, server: str, tmp_path: Path) -> str:
    text = (DOCS / page).read_text(encoding="utf-8")
    pieces = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(pieces) > 4
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(map(textwrap.dedent, pieces)).replace(WRITTEN, server))
    done = subprocess.run(
        [sys.executable, "-X", "utf8", str(script)],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_the_tour(server: Any, tmp_path: Path) -> None:
    printed = run("client.md", server, tmp_path).splitlines()
    assert printed[:3] == ["user hello", "agent hi", "agent how are you?"]
    assert printed[3:6] == ["hello", "hi", "how are you?"]
    assert printed[6:10] == ["fine", "good bye", "the chat is over", "10001"]
    assert "There is no" in printed[10]
    assert printed[11].startswith("closed at ")
    assert (tmp_path / "chat.offset").exists()


def test_the_how_tos(server: Any, tmp_path: Path) -> None:
    printed = run("client-howto.md", server, tmp_path)
    assert printed.startswith('tea\nmilk\nb\'{"id":"two"}\' is not an order\n[Order(id=3')
    assert "Once upon a time, a stream …" in printed
    assert f"{chr(10).join(map(str, range(42, 100)))}\ndone 1\ndone 2\ndone 3\n" in printed
    assert "[100, -70, -30]\naccount application/json" in printed
    assert '[b\'{"too":"late"}\'] not acknowledged, 0 of them perhaps stored' in printed
    assert "stopped\napplication/json\nit works\na line\n" in printed
