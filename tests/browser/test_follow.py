"""The module ``follow.js`` in real pages: resuming, sharing between tabs, replaced streams."""

import signal
from collections.abc import Callable

from live_server import Server
from playwright.sync_api import BrowserContext, Page, Route

PAGE = """<!doctype html><title>follow</title><script type="module">
import { follow } from 'ROOT/__ds/follow.js'
globalThis.seen = []
globalThis.statuses = []
globalThis.stop = new AbortController()
follow('ROOT/PATH', {
  signal: stop.signal,
  onBatch: batch => { seen.push(...(typeof batch === 'string' ? [batch] : batch)) },
  onStatus: status => { statuses.push(status); if (status === 'reset') seen = [] },
  OPTIONS
}).then(() => { globalThis.outcome = 'resolved' }, error => { globalThis.outcome = error.message })
</script>"""


def open_page(
    page: Page, site: Callable[[str], str], server: Server, path: str = "chat", options: str = ""
) -> None:
    html = PAGE.replace("ROOT", server.root).replace("PATH", path).replace("OPTIONS", options)
    page.goto(site(html))


def wait_for(page: Page, *messages: object) -> None:
    page.wait_for_function(f"globalThis.seen?.length >= {len(messages)}")
    assert page.evaluate("seen") == list(messages)


def test_it_catches_up_stays_live_and_ends(
    page: Page, server: Server, site: Callable[[str], str]
) -> None:
    server.create("chat")
    server.append("chat", b"[1,2]")
    open_page(page, site, server)
    wait_for(page, 1, 2)
    page.wait_for_function("statuses.includes('live')")
    server.append("chat", b"[3]")
    wait_for(page, 1, 2, 3)
    server.close_stream("chat")
    page.wait_for_function("globalThis.outcome === 'resolved'")
    assert page.evaluate("statuses") == ["live", "closed"]


def test_it_survives_restarts_and_rotations(
    page: Page, start: Callable[..., Server], site: Callable[[str], str]
) -> None:
    server = start("--sse-rotation", "1")
    server.create("chat")
    open_page(page, site, server)
    expected: list[object] = []
    for n in range(60):
        server.append("chat", b"[%d]" % n)
        expected.append(n)
        if n % 20 == 10:
            server.restart(signal.SIGKILL if n == 30 else signal.SIGTERM)
        page.wait_for_timeout(50)
    wait_for(page, *expected)


def test_text_and_bytes_arrive_as_such(
    page: Page, server: Server, site: Callable[[str], str]
) -> None:
    server.create("log", "text/plain")
    server.append("log", "zeile 1 é\n".encode(), "text/plain")
    open_page(page, site, server, "log")
    wait_for(page, "zeile 1 é\n")
    server.append("log", b"\n zeile 2\r\n", "text/plain")
    wait_for(page, "zeile 1 é\n", "\n zeile 2\n")

    server.create("data", "application/octet-stream")
    server.append("data", bytes(range(256)), "application/octet-stream")
    open_page(page, site, server, "data")
    wait_for(page, *range(256))
    server.append("data", b"\x00\xff\r\n", "application/octet-stream")
    wait_for(page, *range(256), 0, 255, 13, 10)


def test_a_kept_offset_is_where_the_next_visit_begins(
    page: Page, server: Server, site: Callable[[str], str]
) -> None:
    server.create("chat")
    server.append("chat", b"[1]")
    open_page(page, site, server, options="storageKey: 'chat'")
    wait_for(page, 1)
    page.reload()
    server.append("chat", b"[2]")
    wait_for(page, 2)


def test_a_stream_that_was_replaced_starts_again(
    page: Page, start: Callable[..., Server], site: Callable[[str], str]
) -> None:
    server = start("--sse-rotation", "1")
    server.create("chat")
    server.append("chat", b'["old 1","old 2","old 3"]')
    open_page(page, site, server)
    wait_for(page, "old 1", "old 2", "old 3")
    page.wait_for_function("statuses.includes('live')")
    page.context.set_offline(True)
    server.request("DELETE", "chat")
    server.create("chat")
    server.append("chat", b'["new 1","new 2"]')
    page.context.set_offline(False)
    page.wait_for_function("statuses.includes('reset')")
    wait_for(page, "new 1", "new 2")


def test_a_kept_first_page_of_the_replaced_stream_is_not_read_again(
    page: Page, start: Callable[..., Server], site: Callable[[str], str]
) -> None:
    """A full page stays in the browser's cache for a minute, and its offset is refused for ever."""
    server = start("--sse-rotation", "1", "--page-size", "1")
    server.create("chat")
    for letter in (b"a", b"b", b"c"):
        server.append("chat", b'"%b"' % (letter * 700))
    open_page(page, site, server)
    wait_for(page, "a" * 700, "b" * 700, "c" * 700)
    page.context.set_offline(True)
    server.request("DELETE", "chat")
    server.create("chat")
    server.append("chat", b'["new 1","new 2"]')
    page.context.set_offline(False)
    page.wait_for_function("seen.includes('new 2')")
    wait_for(page, "new 1", "new 2")
    assert page.evaluate("statuses.filter(status => status === 'reset').length") == 1


def test_a_tab_that_reads_the_new_stream_does_not_start_again_with_the_others(
    context: BrowserContext, start: Callable[..., Server], site: Callable[[str], str]
) -> None:
    server = start()
    server.create("chat")
    server.append("chat", b'["old"]')
    first, second = context.new_page(), context.new_page()
    first.route("**/chat?*live=sse*", lambda route: route.abort())
    open_page(first, site, server)
    first.wait_for_function("globalThis.statuses?.includes('offline')")
    server.request("DELETE", "chat")
    server.create("chat")
    server.append("chat", b'["new"]')
    open_page(second, site, server)
    wait_for(second, "new")
    first.unroute("**/chat?*live=sse*")
    first.wait_for_function("statuses.includes('live')")
    wait_for(first, "new")
    server.append("chat", b'["newer"]')
    wait_for(second, "new", "newer")
    assert "reset" not in second.evaluate("statuses")


def test_tabs_share_one_connection_and_hand_it_on(
    context: BrowserContext, server: Server, site: Callable[[str], str]
) -> None:
    server.create("chat")
    first, second = context.new_page(), context.new_page()
    live: list[Page] = []
    html = PAGE.replace("ROOT", server.root).replace("PATH", "chat").replace("OPTIONS", "")
    url = site(html)
    for tab in (first, second):
        tab.on("request", lambda request, tab=tab: "live=sse" in request.url and live.append(tab))
        tab.goto(url)
    first.wait_for_function("statuses.includes('live')")
    server.append("chat", b"[1]")
    for tab in (first, second):
        wait_for(tab, 1)
    assert live == [first]
    server.append("chat", b"[2]")
    first.close()
    server.append("chat", b"[3]")
    wait_for(second, 1, 2, 3)
    second.wait_for_function("statuses.includes('live')")
    assert live == [first, second]


def test_a_refusal_rejects_with_what_the_server_said(
    page: Page, server: Server, site: Callable[[str], str]
) -> None:
    open_page(page, site, server, "missing")
    page.wait_for_function("globalThis.outcome")
    assert "404" in page.evaluate("outcome")
    assert page.evaluate("statuses") == []


def test_aborting_resolves_and_reads_no_more(
    page: Page, server: Server, site: Callable[[str], str]
) -> None:
    server.create("chat")
    open_page(page, site, server)
    page.wait_for_function("globalThis.statuses?.includes('live')")
    page.evaluate("stop.abort()")
    page.wait_for_function("globalThis.outcome === 'resolved'")
    server.append("chat", b"[1]")
    assert page.evaluate("seen") == []


def test_an_error_of_the_page_ends_following(
    page: Page, server: Server, site: Callable[[str], str]
) -> None:
    server.create("chat")
    server.append("chat", b"[1]")
    options = "onBatch: () => { throw new Error('a fault of the page') },"
    open_page(page, site, server, options=options)
    page.wait_for_function("globalThis.outcome")
    assert page.evaluate("outcome") == "a fault of the page"


def test_a_page_to_log_in_is_not_taken_for_the_stream(
    page: Page, server: Server, site: Callable[[str], str]
) -> None:
    def log_in(route: Route) -> None:
        cors = {"access-control-allow-origin": "*"}
        route.fulfill(content_type="text/html", body="<h1>Log in</h1>", headers=cors)

    page.route("**/chat?*", log_in)
    open_page(page, site, server)
    page.wait_for_function("globalThis.outcome")
    assert "not the response of a durable stream" in page.evaluate("outcome")
    assert page.evaluate("seen") == []


def test_live_responses_that_end_at_once_are_asked_for_after_a_pause(
    page: Page, server: Server, site: Callable[[str], str]
) -> None:
    def end(route: Route) -> None:
        cors = {"access-control-allow-origin": "*"}
        route.fulfill(content_type="text/event-stream", body=": nothing\n\n", headers=cors)

    server.create("chat")
    page.route("**/chat?*live=sse*", end)
    open_page(page, site, server)
    page.wait_for_function("globalThis.statuses?.includes('offline')")


def test_a_handler_that_never_ends_holds_up_no_other_tab(
    context: BrowserContext, server: Server, site: Callable[[str], str]
) -> None:
    server.create("chat")
    first, second = context.new_page(), context.new_page()
    open_page(first, site, server, options="onBatch: () => new Promise(() => {}),")
    first.wait_for_function("globalThis.statuses?.includes('live')")
    open_page(second, site, server)
    second.wait_for_function("globalThis.statuses?.includes('live')")
    server.append("chat", b"[1]")
    server.append("chat", b"[2]")
    wait_for(second, 1)


def test_a_batch_that_the_page_emptied_reaches_the_other_tabs_whole(
    context: BrowserContext, server: Server, site: Callable[[str], str]
) -> None:
    server.create("chat")
    first, second = context.new_page(), context.new_page()
    open_page(first, site, server, options="onBatch: batch => { seen.push(batch.pop()) },")
    first.wait_for_function("globalThis.statuses?.includes('live')")
    open_page(second, site, server)
    second.wait_for_function("globalThis.statuses?.includes('live')")
    server.append("chat", b"[1,2]")
    wait_for(second, 1, 2)


def test_aborting_in_a_handler_does_not_wait_for_the_pause(
    page: Page, server: Server, site: Callable[[str], str]
) -> None:
    page.route("**/chat?*", lambda route: route.abort())
    abort = "onStatus: () => { globalThis.setTimeout = () => 0; stop.abort() },"
    open_page(page, site, server, options=abort)
    page.wait_for_function("globalThis.outcome === 'resolved'", polling=50)


def test_an_offset_that_cannot_be_kept_ends_following(
    page: Page, server: Server, site: Callable[[str], str]
) -> None:
    server.create("chat")
    server.append("chat", b"[1]")
    refuse = "Storage.prototype.setItem = () => { throw new Error('the storage is full') }"
    options = f"storageKey: 'chat', onBatch: batch => {{ seen.push(...batch); {refuse} }},"
    open_page(page, site, server, options=options)
    page.wait_for_function("globalThis.outcome")
    assert page.evaluate("outcome") == "the storage is full"
    assert page.evaluate("seen") == [1]


def test_a_character_that_came_in_two_appends_is_shown(
    page: Page, server: Server, site: Callable[[str], str]
) -> None:
    server.create("log", "text/plain")
    server.append("log", b"5 \xe2\x82", "text/plain")
    open_page(page, site, server, "log")
    page.wait_for_function("globalThis.statuses?.includes('live')")
    server.append("log", b"\xac", "text/plain")
    page.wait_for_function("seen.join('') === '5 €'")
