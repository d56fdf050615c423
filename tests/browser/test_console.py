"""The console, as an operator uses it; leaves screenshots in build/screenshots."""

from collections.abc import Callable
from pathlib import Path

import pytest
from live_server import Server
from playwright.sync_api import Browser, Page, expect

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"


@pytest.fixture
def faults(page: Page) -> list[str]:
    """Whatever the page complains about: scripts that fail, and what its policy blocks."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", lambda message: message.type == "error" and found.append(message.text))
    return found


def test_the_whole_tour(page: Page, start: Callable[..., Server], faults: list[str]) -> None:
    server = start("--console")
    for n in range(120):
        server.create(f"many/{n:03}")
    server.create("chats/1")
    server.append("chats/1", b'[{"role":"user","text":"hello"},{"long":"%b"}]' % (b"x " * 100))
    server.create("bytes", "application/octet-stream")
    server.append("bytes", bytes(range(64)), "application/octet-stream")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{server.root}/__ds/console")

    # Listing, searching, paging.
    rows = page.locator("#stream-list li")
    expect(rows).to_have_count(100)
    page.get_by_role("button", name="More").click()
    expect(rows).to_have_count(122)
    page.get_by_label("Paths that begin with").fill("chats/")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(1)

    # Following live, folded JSON, other views.
    page.get_by_role("button", name="chats/1").click()
    messages = page.locator("#messages li")
    expect(messages).to_have_count(2)
    expect(page.locator("#status")).to_have_text("live")
    server.append("chats/1", b'{"n":3}')
    expect(messages.nth(2)).to_have_text('{"n":3}')
    page.locator("details summary").click()
    expect(page.locator("details pre")).to_be_visible()
    page.get_by_label("Show as").select_option("hex")
    expect(messages.nth(2)).to_contain_text("7b 22 6e 22")
    page.get_by_label("Show as").select_option("json")
    page.get_by_role("button", name="Copy curl").click()
    expect(page.locator("#status")).to_have_text("copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f"curl -N '{server.root}/chats/1?offset=-1&live=sse'"
    save(page, "stream")

    # Appending, forking, closing, deleting.
    page.get_by_label("Append").fill('{"n":4}')
    page.locator("#append button").click()
    expect(messages).to_have_count(4)
    page.get_by_role("button", name="Fork…").click()
    page.get_by_label("Path of the fork").fill("chats/2")
    page.keyboard.press("Enter")
    expect(page.locator("#path")).to_have_text("chats/2")
    expect(messages).to_have_count(4)
    page.get_by_role("button", name="Close", exact=True).click()
    page.get_by_role("button", name="OK", exact=True).click()
    expect(page.locator("#status")).to_have_text("closed")
    expect(page.locator("#append")).to_be_hidden()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="OK", exact=True).click()
    expect(page.locator("#nothing")).to_be_visible()
    expect(rows).to_have_count(1)

    # Creating.
    page.get_by_label("New stream").fill("chats/new one")
    page.get_by_role("button", name="Create").click()
    expect(page.locator("#path")).to_have_text("chats/new one")

    # Subscriptions, with their cursors and lease.
    server.request(
        "PUT",
        "__ds/subscriptions/mail",
        b'{"type":"webhook","pattern":"chats/*","webhook":{"url":"https://hooks.invalid/x"}}',
        content_type="application/json",
    )
    page.get_by_role("tab", name="Subscriptions").click()
    page.get_by_role("button", name="mail").click()
    expect(page.locator("#cursors tr").first).to_contain_text("chats/1")
    expect(page.locator("#subscription-facts")).to_contain_text("idle")
    save(page, "subscription")
    assert faults == []


def test_by_keyboard_alone(page: Page, start: Callable[..., Server]) -> None:
    server = start("--console")
    server.create("a")
    server.append("a", b"[1]")
    page.goto(f"{server.root}/__ds/console")
    expect(page.locator("#stream-list li")).to_have_count(1)
    page.get_by_role("tab", name="Streams").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#messages li")).to_have_text("1")
    page.get_by_role("tab", name="Streams").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Subscriptions")).to_be_focused()
    expect(page.locator("#no-subscriptions")).to_be_visible()


def test_a_protected_server_asks_for_its_token(page: Page, start: Callable[..., Server]) -> None:
    server = start("--console", "--token", "secret")
    page.goto(f"{server.root}/__ds/console")
    expect(page.get_by_role("alert")).to_contain_text("Token…")
    page.get_by_role("button", name="Token…").click()
    page.get_by_label("Bearer token").fill("secret")
    page.get_by_role("button", name="OK", exact=True).click()
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("#no-streams")).to_be_visible()
    assert "secret" not in page.url


def test_names_and_messages_are_text_and_never_markup(
    page: Page, start: Callable[..., Server], faults: list[str]
) -> None:
    server = start("--console")
    server.create("%3Cimg%20src=x%20onerror=document.title=1%3E")
    server.create("b")
    server.append("b", b'["<img src=x onerror=document.title=2>"]')
    page.goto(f"{server.root}/__ds/console")
    expect(page.locator("#stream-list li")).to_have_count(2)
    page.get_by_role("button", name="b application").click()
    expect(page.locator("#messages li")).to_contain_text("<img")
    assert page.title() == "Durable streams"
    assert page.locator("img").count() == 0
    assert faults == []


def test_more_messages_at_once_than_a_call_has_arguments(
    page: Page, start: Callable[..., Server], faults: list[str]
) -> None:
    server = start("--console", "--page-size", "1024")
    server.create("many")
    server.append("many", b"[%b]" % b",".join([b"1"] * 300_000))
    server.append("many", b'"last"')
    page.goto(f"{server.root}/__ds/console")
    page.get_by_role("button", name="many application").click()
    expect(page.locator("#messages li").last).to_have_text('"last"')
    expect(page.locator("#messages li")).to_have_count(2000)
    assert faults == []


def test_dark_and_narrow(browser: Browser, start: Callable[..., Server]) -> None:
    server = start("--console")
    server.create("a")
    context = browser.new_context(color_scheme="dark", viewport={"width": 400, "height": 800})
    page = context.new_page()
    page.goto(f"{server.root}/__ds/console")
    page.get_by_role("button", name="a application").click()
    expect(page.locator("#path")).to_have_text("a")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(20, 23, 26)"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    save(page, "narrow")
    context.close()


def save(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SCREENSHOTS / f"console-{name}.png"))
