"""The examples of the documentation, run as a reader of it would run them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

HERE = Path(__file__).parent
SECONDS = 60
READERS = {"python": [sys.executable, "reader.py"], "curl": ["bash", "reader.sh"]}
ANSWER = ["You", "said", "hello", "and", "I", "am", "thinking", "about", "it"]


@contextmanager
def running(*command: Any, cwd: Path = HERE) -> Iterator[Any]:
    """Start an application and yield its base URL, which it prints."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed = []
        for line in process.stdout:
            printed.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0]
                break
        else:
            pytest.fail("".join(printed))
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)


@pytest.fixture(scope="module")
def fastapi_app() -> Iterator[Any]:
    with running("-m", "uvicorn", "fastapi_app:app", "--port", "0") as url:
        yield url


@pytest.fixture(scope="module")
def aiohttp_app() -> Iterator[Any]:
    with running("aiohttp_app.py", "0") as url:
        yield url


def test_uvicorn_can_say_farewell_to_a_live_reader_before_it_stops() -> None:
    with running("uvicorn_server.py", "0") as url:
        stream = url + "/streams/a"
        assert (
            httpx.put(stream, headers={"content-type": "text/plain"}, timeout=SECONDS).status_code
            == 201
        )
        reading = subprocess.Popen(
            ["curl", "--silent", "--show-error", "--no-buffer", stream + "?offset=-1&live=sse"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert b"event: control\n" in iter(reading.stdout.readline, b"")
    # Cut off instead, curl would complain of a transfer that is not complete.
    _, complaint = reading.communicate(timeout=SECONDS)
    assert (reading.returncode, complaint) == (0, b"")


def read(reader: Any, *arguments: Any) -> Any:
    return subprocess.run(
        [*READERS[reader], *arguments], cwd=HERE, check=True, capture_output=True, timeout=SECONDS
    ).stdout.decode()


@pytest.mark.parametrize("reader", READERS)
def test_fastapi_writes_a_stream_that_its_clients_follow(fastapi_app: Any, reader: Any) -> None:
    chat = f"{fastapi_app}/chats/{reader}"
    answer = httpx.post(chat, params={"prompt": "hello"}, timeout=SECONDS)
    assert answer.status_code == 202
    pages = read(reader, fastapi_app + answer.json()["stream"])
    messages = httpx.get(fastapi_app + answer.json()["stream"], timeout=SECONDS).json()
    assert messages == [{"token": word} for word in ANSWER]
    # A page is an array; one after the other they hold every message once.
    assert re.findall(r'"token":\s*"(\w+)"', pages) == ANSWER


@pytest.mark.parametrize("reader", READERS)
def test_aiohttp_streams_the_output_of_a_job(aiohttp_app: Any, reader: Any, tmp_path: Path) -> None:
    answer = httpx.post(f"{aiohttp_app}/jobs/{reader}", timeout=SECONDS)
    assert answer.status_code == 202
    url = aiohttp_app + answer.json()["stream"]
    whole = "step 1 of 3\nstep 2 of 3\nstep 3 of 3\ndone\n"
    assert read(reader, url) == whole

    kept = tmp_path / "offset"
    tail = httpx.head(url, timeout=SECONDS).headers["stream-next-offset"]
    kept.write_text(f"{tail.partition('_')[0]}_{12:016}")
    assert read(reader, url, str(kept)) == whole[12:]
    assert kept.read_text().strip().endswith(f"_{len(whole):016}")


def test_users_that_a_cookie_names_read_their_own_streams() -> None:
    with running("cookies_app.py", "0") as url:
        with (
            httpx.Client(base_url=url, timeout=SECONDS) as ada,
            httpx.Client(base_url=url, timeout=SECONDS) as bob,
        ):
            for client, name in ((ada, "ada"), (bob, "bob")):
                assert client.post("/login", params={"name": name}).status_code == 200
            assert ada.get("/streams/ada/inbox").json() == []
            assert bob.get("/streams/ada/inbox").status_code == 403
            assert ada.post("/streams/ada/inbox", json=1).status_code == 403
        assert httpx.get(f"{url}/streams/ada/inbox", timeout=SECONDS).status_code == 401


def test_the_chat_takes_25_lines() -> None:
    program = (HERE / "chat_app.py").read_text()
    chat = program.partition("access:\n")[2].partition("# What every application has:")[0]
    assert 0 < len([line for line in chat.splitlines() if line.strip()]) <= 25


def test_an_answer_of_the_chat_is_a_run_of_its_user(tmp_path: Path) -> None:
    chat = ("-m", "uvicorn", "chat_app:app", "--app-dir", str(HERE), "--port", "0")
    with running(*chat, cwd=tmp_path) as url:
        with (
            httpx.Client(base_url=url, timeout=SECONDS) as ada,
            httpx.Client(base_url=url, timeout=SECONDS) as bob,
        ):
            for client, name in ((ada, "ada"), (bob, "bob")):
                assert client.post("/login", params={"name": name}).status_code == 200
            prompts = ["a " * 500, "hello"]  # the first answer takes long enough to be stopped
            for prompt in prompts:
                assert ada.post("/chat", params={"prompt": prompt}).status_code == 200
            answers = ada.get("/streams/ada/chat").json()
            assert [each["prompt"] for each in answers] == prompts
            first, second = answers
            assert bob.get(first["answer"]).status_code == 403
            assert bob.post("/stop", params={"answer": first["id"]}).status_code == 403
            assert ada.post("/stop", params={"answer": first["id"]}).status_code == 200
            stopped = ada.get(first["answer"], params={"offset": "-1"}).text
            assert stopped.endswith('{"type":"run-end","status":"stopped"}\n')
            live = {"offset": "-1", "live": "sse"}
            ada.get(second["answer"], params=live, timeout=SECONDS)  # until it is closed
            whole = ada.get(second["answer"], params={"offset": "-1"}).text
            assert whole.startswith("You said “hello”, and I am")
            assert whole.endswith('{"type":"run-end","status":"done"}\n')
        assert (
            httpx.post(f"{url}/chat", params={"prompt": "hello"}, timeout=SECONDS).status_code
            == 401
        )
