"""The examples of the documentation that have a page, driven in a browser."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@contextmanager
def running(*command: str, cwd: Path = EXAMPLES) -> Iterator[str]:
    """An example, started as its docstring says; yields the URL that it prints."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield next(
            found[0]
            for line in process.stdout
            if (found := re.search(r"http://(127\.0\.0\.1|localhost):\d+", line))
        )
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def log_in(page: Page, url: str) -> None:
    page.goto(url)
    page.fill("[name=name]", "ada")
    page.click("text=Log in")


def ask(page: Page, prompt: str) -> None:
    page.fill("[name=prompt]", prompt)
    page.click("text=Ask")


def chat(directory: Path, port: int = 0) -> AbstractContextManager[str]:
    """The chat, with its data in a directory, killed at the end."""
    command = ("-m", "uvicorn", "chat_app:app", "--app-dir", str(EXAMPLES), "--port", str(port))
    return running(*command, cwd=directory)


def test_the_chat_on_two_devices_with_a_refresh_and_a_stop(
    browser: Browser, tmp_path: Path
) -> None:
    with chat(tmp_path) as url:
        devices = [browser.new_context().new_page() for _ in range(2)]
        for page in devices:
            log_in(page, url)
        first, second = devices
        ask(first, "hello")
        expect(first.locator("main")).to_contain_text("You said")
        first.reload()
        whole = "> hello" + "You said “hello”, and I am still thinking about what that means "
        for page in devices:
            expect(page.locator("main")).to_have_text(whole)
        ask(first, "again")
        expect(second.locator("main")).to_contain_text("You said “again”")
        second.click("text=Stop")
        for page in devices:
            expect(page.locator("main")).to_contain_text("(stopped)")
        assert "what that means" not in first.locator("main").inner_text().partition("again")[2]

        stranger = browser.new_context().new_page()
        stranger.goto(url)
        status = stranger.evaluate("fetch('/streams/ada/chat').then(answer => answer.status)")
        assert status == 401


def test_an_answer_whose_worker_is_killed_is_shown_as_interrupted(
    browser: Browser, tmp_path: Path
) -> None:
    page = browser.new_context().new_page()
    with chat(tmp_path) as url:
        log_in(page, url)
        ask(page, "hello")
        expect(page.locator("main")).to_contain_text("You said")
    with chat(tmp_path, int(url.rpartition(":")[2])) as url:
        # The session was in memory, the answer was not.
        page.evaluate("localStorage.clear()")
        log_in(page, url)
        expect(page.locator("main")).to_contain_text("(interrupted)")
        assert page.locator("main").inner_text().startswith("> hello\n\nYou said")


def test_the_progress_of_a_job_survives_reloads_and_ends(page: Page) -> None:
    with running("job_app.py", "0") as url:
        streams: list[int] = []
        page.on("response", lambda answer: "jobs" in answer.url and streams.append(answer.status))
        page.goto(url)
        expect(page.locator("output")).not_to_be_empty()
        page.reload()
        expect(page.locator("output")).to_have_text("100 % done")
        page.wait_for_function("source.readyState === EventSource.CLOSED")
        assert streams[-1] == 204
