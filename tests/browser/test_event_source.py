"""A bare ``EventSource`` resumes by itself: no message is lost or shown twice."""

import signal
import threading
from collections.abc import Callable

import pytest
from live_server import Server
from playwright.sync_api import Page

# The page starts where the tab was before a reload.
PAGE = """<!doctype html><title>EventSource</title><script>
const seen = JSON.parse(sessionStorage.seen ?? '[]'), from = sessionStorage.id ?? '-1'
const source = new EventSource(`STREAM?live=sse&offset=${from}`)
source.addEventListener('data', event => {
  seen.push(...JSON.parse(event.data))
  Object.assign(sessionStorage, { seen: JSON.stringify(seen), id: event.lastEventId })
})
</script>"""
SEEN = "JSON.parse(sessionStorage.seen ?? '[]')"


def open_page(page: Page, site: Callable[[str], str], server: Server, path: str = "chat") -> None:
    page.goto(site(PAGE.replace("STREAM", f"{server.root}/{path}")))


def test_rotations_restarts_and_reloads_lose_and_repeat_nothing(
    page: Page, start: Callable[..., Server], site: Callable[[str], str]
) -> None:
    """Ten rotations, three restarts and two reloads while 2,000 messages are appended."""
    server = start("--sse-rotation", "1", "--sse-retry", "0.1")
    server.create("chat")
    connections: list[str] = []
    page.on("request", lambda request: connections.append(request.url))
    open_page(page, site, server)
    restarts = {500: signal.SIGTERM, 1000: signal.SIGKILL, 1500: signal.SIGTERM}
    sent = 0
    rotations = 0
    while sent < 2000 or rotations < 10:
        if sent < 2000:
            batch = b"[%b]" % b",".join(b"%d" % n for n in range(sent, sent + 20))
            server.append("chat", batch)
            sent += 20
        if sent in restarts:
            server.restart(restarts.pop(sent))
        if sent in (740, 1240):
            page.reload()
        page.wait_for_timeout(60 if sent < 2000 else 250)
        rotations = sum("live=sse" in url for url in connections)
    page.wait_for_function(f"{SEEN}.length >= 2000")
    assert page.evaluate(SEEN) == list(range(2000))
    assert rotations >= 10


def test_a_closed_stream_ends_it_for_good(
    page: Page, server: Server, site: Callable[[str], str]
) -> None:
    server.create("chat")
    server.append("chat", b"[1,2]")
    server.close_stream("chat")
    statuses: list[int] = []
    ended = threading.Event()

    def note(status: int) -> None:
        statuses.append(status)
        if status == 204:
            ended.set()

    page.on("response", lambda answer: "live=sse" in answer.url and note(answer.status))
    open_page(page, site, server)
    page.wait_for_function("source.readyState === EventSource.CLOSED")
    assert statuses == [200, 204]
    assert page.evaluate(SEEN) == [1, 2]


def test_it_carries_on_after_the_network_was_gone(
    page: Page, start: Callable[..., Server], site: Callable[[str], str]
) -> None:
    server = start("--sse-rotation", "1", "--sse-retry", "0.1")
    server.create("chat")
    server.append("chat", b"[1]")
    open_page(page, site, server)
    page.wait_for_function(f"{SEEN}.length === 1")
    page.context.set_offline(True)
    page.wait_for_function("source.readyState === EventSource.CONNECTING")
    server.append("chat", b"[2]")
    page.context.set_offline(False)
    server.append("chat", b"[3]")
    page.wait_for_function(f"{SEEN}.length === 3")
    assert page.evaluate(SEEN) == [1, 2, 3]


@pytest.mark.parametrize("name", ["é", "a b", "100%"])
def test_streams_of_any_name(
    page: Page, server: Server, site: Callable[[str], str], name: str
) -> None:
    from urllib.parse import quote

    server.create(quote(name))
    server.append(quote(name), b"[1]")
    open_page(page, site, server, quote(name))
    page.wait_for_function(f"{SEEN}.length === 1")
