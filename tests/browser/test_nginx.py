"""The shipped nginx configuration: TLS, HTTP/2, events, long-polls and a public cache."""

import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from live_server import Server
from playwright.sync_api import Browser
from ports import free_port

NGINX = Path(__file__).parents[2] / "deploy" / "nginx"


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    return start("--public", "--page-size", "1")


@pytest.fixture
def nginx(server: Server, tmp_path: Path) -> Iterator[str]:
    """nginx with the shipped configuration in front of the server; its URL."""
    program = shutil.which("nginx")
    if program is None:
        message = "These tests need nginx: apt-get install nginx-light"
        if "CI" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    certificate, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    port = free_port()
    replacements = {
        "/etc/nginx/durable-streams": str(NGINX),
        "/var/cache/nginx/streams": str(tmp_path / "cache"),
        "127.0.0.1:4437": server.origin.removeprefix("http://"),
        "listen 443": f"listen 127.0.0.1:{port}",
        "streams.example;": "localhost;",
        "/etc/ssl/streams.example.pem": str(certificate),
        "/etc/ssl/streams.example.key": str(key),
    }
    text = (NGINX / "streams.conf").read_text()
    for shipped, here in replacements.items():
        assert shipped in text
        text = text.replace(shipped, here)
    (tmp_path / "streams.conf").write_text(text)
    user = "user root root;" if os.getuid() == 0 else ""
    paths = "".join(
        f"{name}_temp_path {tmp_path / name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = tmp_path / "nginx.conf"
    main.write_text(
        f"{user} daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {paths} include {tmp_path}/streams.conf; }}\n"
    )
    process = subprocess.Popen([program, "-e", "stderr", "-p", str(tmp_path), "-c", str(main)])
    url = f"https://localhost:{port}"
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            time.sleep(0.01)  # nginx says nowhere that it listens
    else:
        pytest.fail("nginx did not start")
    yield url
    process.terminate()
    process.wait()


@pytest.fixture
def http(nginx: str) -> Iterator[httpx.Client]:
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    with httpx.Client(base_url=nginx, verify=trusting, timeout=60) as client:
        yield client


def test_events_come_at_once(server: Server, http: httpx.Client) -> None:
    server.create("a", "text/plain")
    with http.stream("GET", "/v1/stream/a?offset=-1&live=sse") as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        assert any("upToDate" in line for line in lines)
        for text in ("one", "two"):
            server.append("a", text.encode(), "text/plain")
            assert f"data:{text}" in lines


def test_more_live_tabs_than_http_1_1_has_connections(
    browser: Browser, server: Server, nginx: str
) -> None:
    server.create("a")
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    page.goto(f"{nginx}/v1/stream/__ds/follow.js")
    page.evaluate(
        """() => {
            globalThis.heard = 0
            globalThis.sources = Array.from({ length: 12 }, () => {
                const source = new EventSource('/v1/stream/a?offset=-1&live=sse')
                source.addEventListener('data', () => { heard += 1 })
                return source
            })
        }"""
    )
    page.wait_for_function("sources.every(source => source.readyState === EventSource.OPEN)")
    server.append("a", b"[1]")
    page.wait_for_function("heard === 12")
    context.close()


def test_full_public_pages_are_served_without_the_server(
    server: Server, http: httpx.Client
) -> None:
    server.create("public/a", "text/plain")
    server.append("public/a", b"x" * 3000, "text/plain")
    first = http.get("/v1/stream/public/a?offset=-1")
    assert len(first.content) == 1024
    server.stop()
    assert http.get("/v1/stream/public/a?offset=-1").content == first.content


def test_long_polls_of_one_offset_reach_the_server_as_one(
    server: Server, http: httpx.Client
) -> None:
    server.create("public/a", "text/plain")
    tail = server.request("POST", "public/a", b"x", content_type="text/plain").headers
    url = f"/v1/stream/public/a?live=long-poll&offset={tail['stream-next-offset']}"
    answers: list[httpx.Response] = []
    readers = [threading.Thread(target=lambda: answers.append(http.get(url))) for _ in range(10)]
    for reader in readers:
        reader.start()
    listing = server.root + "/__ds/streams?prefix=public/"
    while not (waiting := httpx.get(listing, timeout=60).json()["streams"][0]["readers"]):
        pass
    server.append("public/a", b"new", "text/plain")
    for reader in readers:
        reader.join()
    assert waiting == 1
    assert [answer.content for answer in answers] == [b"new"] * 10


def test_long_polls_without_data_do_not_wait_for_each_other(
    server: Server, http: httpx.Client
) -> None:
    server.create("public/a", "text/plain")
    tail = server.request("POST", "public/a", b"x", content_type="text/plain").headers
    url = f"/v1/stream/public/a?live=long-poll&offset={tail['stream-next-offset']}"
    answers: list[httpx.Response] = []
    readers = [threading.Thread(target=lambda: answers.append(http.get(url))) for _ in range(4)]
    for reader in readers:
        reader.start()
    # Once the lock's time limit is over, each has a long-poll of its own.
    listing = server.root + "/__ds/streams?prefix=public/"
    while httpx.get(listing, timeout=60).json()["streams"][0]["readers"] < len(readers):
        time.sleep(0.05)
    server.append("public/a", b"new", "text/plain")
    for reader in readers:
        reader.join()
    assert [answer.content for answer in answers] == [b"new"] * 4
