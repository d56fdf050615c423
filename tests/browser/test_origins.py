"""Pages of other origins: what they may read, send and do (CORS)."""

from collections.abc import Callable

from live_server import Server
from playwright.sync_api import Page

from durable_streams_core import protocol

PROTOCOL_HEADERS = [
    protocol.STREAM_SEQ,
    protocol.STREAM_TTL,
    protocol.STREAM_EXPIRES_AT,
    protocol.STREAM_CLOSED,
    protocol.STREAM_FORKED_FROM,
    protocol.STREAM_FORK_OFFSET,
    protocol.STREAM_FORK_SUB_OFFSET,
    protocol.PRODUCER_ID,
    protocol.PRODUCER_EPOCH,
    protocol.PRODUCER_SEQ,
]
TRACING = ["traceparent", "tracestate", "baggage", "X-Request-Id"]


def sends(page: Page, url: str, header: str) -> bool:
    """Whether the browser lets a page send a header: whether its preflight is permitted."""
    script = """([url, header]) =>
        fetch(url, { method: 'POST', headers: { [header]: '1', 'content-type': 'text/plain' } })
            .then(() => true, () => false)"""
    return bool(page.evaluate(script, [url, header]))


def test_a_page_of_any_origin_sends_every_header_of_the_protocol(
    page: Page, server: Server, site: Callable[[str], str]
) -> None:
    server.create("a", "text/plain")
    page.goto(site("<!doctype html>"))
    url = f"{server.root}/a"
    names = [*PROTOCOL_HEADERS, *TRACING, "If-Match", "If-None-Match", "Authorization"]
    assert [name for name in names if not sends(page, url, name)] == []
    assert not sends(page, url, "X-Of-Another-Application")


def test_a_page_reads_every_header_that_a_response_carries(
    page: Page, server: Server, site: Callable[[str], str]
) -> None:
    server.create("a", "text/plain")
    page.goto(site("<!doctype html>"))
    headers = page.evaluate(
        "url => fetch(url).then(response => Object.fromEntries(response.headers))",
        f"{server.root}/a?offset=-1",
    )
    assert headers["stream-next-offset"].endswith("_0000000000000000")
    assert headers["stream-up-to-date"] == "true"
    assert headers["etag"]


def test_an_origin_that_is_not_named_reads_and_writes_nothing(
    page: Page, start: Callable[..., Server], site: Callable[[str], str]
) -> None:
    server = start("--cors-origin", "https://app.example")
    server.create("a", "text/plain")
    page.goto(site("<!doctype html>"))
    url = f"{server.root}/a"
    # no-cors is what needs no preflight: the browser sends it, and the server has to refuse.
    page.evaluate(
        "url => fetch(url, { method: 'POST', mode: 'no-cors', body: 'x' }).catch(() => 0)", url
    )
    read = page.evaluate("url => fetch(url).then(() => true, () => false)", url)
    assert read is False
    assert server.request("GET", "a").content == b""


def test_a_named_origin_sends_its_cookies_where_that_is_permitted(
    page: Page, start: Callable[..., Server], site: Callable[[str], str]
) -> None:
    url = site("<!doctype html>")
    origin = url.rpartition("/")[0]
    server = start("--cors-origin", origin, "--cors-credentials")
    server.create("a")
    server.append("a", b"[1]")
    page.goto(url)
    heard = page.evaluate(
        """url => new Promise(resolve => {
            const source = new EventSource(url, { withCredentials: true })
            source.addEventListener('data', event => resolve(event.data))
            source.onerror = () => resolve('refused')
        })""",
        f"{server.root}/a?offset=-1&live=sse",
    )
    assert heard == "[1]"
