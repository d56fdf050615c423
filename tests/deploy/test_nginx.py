"""The shipped nginx configuration in front of two real servers that share a store."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from live_server import Server
from ports import free_port
from programs import need

DEPLOY = Path(__file__).parents[2] / "deploy"
DRAIN = ("--drain-delay", "2.5")
"""Longer than nginx takes to look again at a server that refused a connection."""


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a program listens; neither nginx nor Redis says so in a way that can be read."""
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    pytest.fail(f"{process.args!r} did not start")


@contextmanager
def running(port: int, *command: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(port, process)
        yield
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def nginx(directory: Path, *servers: str) -> Iterator[str]:
    """nginx with the configuration of the compose file in front of two servers; yields its URL."""
    port = free_port()
    text = (DEPLOY / "compose" / "nginx.conf").read_text()
    replacements = {
        "server-1:4437": servers[0],
        "server-2:4437": servers[1],
        "listen 8080": f"listen 127.0.0.1:{port}",
        "/etc/nginx/durable-streams": str(DEPLOY / "nginx"),
    }
    for shipped, here in replacements.items():
        assert shipped in text
        text = text.replace(shipped, here)
    (directory / "streams.conf").write_text(text)
    user = "user root root;" if os.getuid() == 0 else ""
    folders = "".join(
        f"{name}_temp_path {directory / name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = directory / "nginx.conf"
    main.write_text(
        f"{user} daemon off; worker_processes 1; pid {directory}/pid; error_log stderr crit;\n"
        f"events {{}}\n"
        f"http {{ access_log off; {folders} include {directory}/streams.conf; }}\n"
    )
    program = need("nginx", "nginx-light")
    with running(port, program, "-e", "stderr", "-p", str(directory), "-c", str(main)):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    """Two servers on one Redis."""
    port = free_port()
    program = need("redis-server", "redis-server")
    quiet = ("--save", "", "--loglevel", "warning")
    with running(port, program, "--bind", "127.0.0.1", "--port", str(port), *quiet):
        started = [Server(f"redis://127.0.0.1:{port}", *DRAIN) for _ in range(2)]
        yield started
        for server in started:
            server.process.terminate()  # and once more below, which ends the drain
        for server in started:
            server.stop()


@pytest.fixture(scope="module")
def http(servers: list[Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of nginx in front of both servers."""
    addresses = [server.origin.removeprefix("http://") for server in servers]
    with (
        nginx(tmp_path_factory.mktemp("nginx"), *addresses) as url,
        httpx.Client(base_url=f"{url}/v1/stream/", timeout=60) as client,
    ):
        yield client


TEXT = {"Content-Type": "text/plain"}


def test_events_come_at_once_whichever_server_has_the_append(http: httpx.Client) -> None:
    http.put("events", headers=TEXT).raise_for_status()
    with http.stream("GET", "events?offset=-1&live=sse") as response:
        lines = response.iter_lines()
        assert any("upToDate" in line for line in lines)
        for text in ("one", "two"):
            http.post("events", content=text, headers=TEXT).raise_for_status()
            assert f"data:{text}" in lines


def test_a_long_poll_is_answered_whichever_server_has_the_append(http: httpx.Client) -> None:
    created = http.put("poll", headers=TEXT).raise_for_status()
    url = f"poll?live=long-poll&offset={created.headers['stream-next-offset']}"
    answers: list[httpx.Response] = []
    reader = threading.Thread(target=lambda: answers.append(http.get(url)))
    reader.start()
    http.post("poll", content="new", headers=TEXT).raise_for_status()
    reader.join()
    assert answers[0].text == "new"


def test_the_largest_body_of_the_server_passes_nginx(http: httpx.Client) -> None:
    http.put("large", headers=TEXT).raise_for_status()
    largest = b"x" * (32 * 1024 * 1024)
    http.post("large", content=largest, headers=TEXT).raise_for_status()
    assert http.post("large", content=largest + b"x", headers=TEXT).status_code == 413


def test_health_and_metrics_are_not_for_those_outside(http: httpx.Client) -> None:
    for path in ("/health", "/ready", "/metrics"):
        assert http.get(str(http.base_url.copy_with(path=path))).status_code == 404


def test_no_request_fails_while_the_servers_are_replaced_one_by_one(
    http: httpx.Client, servers: list[Server]
) -> None:
    http.put("rolled", headers=TEXT).raise_for_status()
    done = threading.Event()
    statuses: list[int] = []

    def append() -> None:
        while not done.is_set():
            statuses.append(http.post("rolled", content="x", headers=TEXT).status_code)

    writers = [threading.Thread(target=append) for _ in range(2)]
    for writer in writers:
        writer.start()
    for server in servers:
        server.restart()
        before = len(statuses)
        while len(statuses) < before + 20:
            time.sleep(0.01)
    done.set()
    for writer in writers:
        writer.join()
    assert set(statuses) == {204}
    assert http.get("rolled?offset=-1").text == "x" * len(statuses)


@contextmanager
def broken_server(
    answer: Callable[[BaseHTTPRequestHandler], None],
) -> Iterator[tuple[str, list[str]]]:
    """A server that notes each request and then does what ``answer`` does."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append(str(self.client_address[1]))
            answer(self)

        do_POST = do_GET  # noqa: N815 - named by the method

        def log_message(self, *_args: object) -> None:
            """Requests are noted, not logged."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def agree(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(204)
    handler.end_headers()


def test_nginx_never_repeats_an_append_that_was_sent(tmp_path: Path) -> None:
    with (
        broken_server(hang_up) as (first, seen_by_first),
        broken_server(hang_up) as (second, seen_by_second),
        nginx(tmp_path, first, second) as url,
    ):
        assert httpx.post(f"{url}/v1/stream/a", content=b"x", timeout=60).status_code == 502
        assert len(seen_by_first + seen_by_second) == 1


def test_nginx_repeats_a_read_that_a_server_broke_off(tmp_path: Path) -> None:
    with (
        broken_server(hang_up) as (first, seen_by_first),
        broken_server(agree) as (second, seen_by_second),
        nginx(tmp_path, first, second) as url,
    ):
        answers = [httpx.get(f"{url}/v1/stream/a", timeout=60).status_code for _ in range(4)]
        assert answers == [204] * 4
        assert seen_by_first
        assert len(seen_by_second) == 4


def test_an_append_that_reached_no_server_goes_to_the_other_one(tmp_path: Path) -> None:
    with (
        broken_server(agree) as (second, seen),
        nginx(tmp_path, f"127.0.0.1:{free_port()}", second) as url,
    ):
        for _ in range(4):
            assert httpx.post(f"{url}/v1/stream/a", content=b"x", timeout=60).status_code == 204
        assert len(seen) == 4


def test_connections_to_the_servers_are_kept(tmp_path: Path) -> None:
    with broken_server(agree) as (server, seen), nginx(tmp_path, server, server) as url:
        for _ in range(8):
            httpx.get(f"{url}/v1/stream/a", timeout=60).raise_for_status()
        assert len(seen) == 8
        assert len(set(seen)) <= 2
