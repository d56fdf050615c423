"""The command's options of metrics and logs, and what is wrong with a setting."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from wire import Connection

from durable_streams_server.cli import command as cli

LOGGED = ("--access-log", "--log-format", "json", "--log-level", "error")
MEMORY = {"DURABLE_STREAMS_STORE": "memory:", "DURABLE_STREAMS_PORT": "0"}


@asynccontextmanager
async def running(*options: str) -> AsyncIterator[list[int]]:
    """The command in a process of its own; gives the ports that it names, in order.

    At the end, every line of its log has to be an object of JSON that says what was requested.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "durable_streams_server", *LOGGED, *options),
        env={**os.environ, **MEMORY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    ports = []
    try:
        line = ""
        while not line.startswith("Serving durable streams"):
            line = (await process.stdout.readline()).decode()
            match = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
            assert match, line
            ports.append(int(match[1]))
        yield ports
    finally:
        process.terminate()
        _, errors = await process.communicate()
    logged = [json.loads(line) for line in errors.decode().splitlines()]
    assert {"create"} <= {line.get("action") for line in logged} <= {"create", "other", "read"}


def applied(page: bytes) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if sample.name == "durable_streams_requests_total" and sample.labels["action"] == "create"
    )


async def test_the_page_is_beside_health_or_at_an_address_of_its_own() -> None:
    text = {"content-type": "text/plain"}
    async with running("--metrics") as (port,):
        async with await Connection.to(port) as connection:
            await connection.request("PUT", "/v1/stream/a", text, b"x")
            answer = await connection.request("GET", "/metrics")
            assert answer.status == 200
            assert applied(answer.body) == 1
            assert (await connection.request("POST", "/metrics", text, b"x")).status == 404
            assert (await connection.request("HEAD", "/metrics")).status == 200
    async with running("--metrics-address", "127.0.0.1:0", "--front-end", "aiohttp") as ports:
        own, port = ports
        async with await Connection.to(port) as connection:
            await connection.request("PUT", "/v1/stream/a", text, b"x")
            assert (await connection.request("GET", "/metrics")).status == 404
        async with await Connection.to(own) as connection:
            assert applied((await connection.request("GET", "/metrics")).body) == 1
            assert (await connection.request("GET", "/v1/stream/a")).status == 404


@pytest.mark.parametrize(
    "options, advice",
    [
        (("--metrics-address", "9464"), "must be HOST:PORT"),
        (("--metrics-address", "localhost:http"), "must be HOST:PORT"),
        (("--metrics-address", "localhost:99999"), "must be HOST:PORT"),
        (("--metrics-address", ""), "must not be empty"),
        (("--metrics", "--root", "/"), "use --metrics-address"),
        (("--access-log", "--trusted-proxy", "proxy.example"), "such as 10.0.0.0/8"),
    ],
)
def test_a_setting_that_cannot_be_is_answered_with_advice(
    options: Any, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CliRunner().invoke(cli.main, options, env=MEMORY)
    assert result.exit_code != 0
    assert advice in result.output


def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = CliRunner().invoke(cli.main, ["--metrics-address", address], env=MEMORY)
    assert result.exit_code == 1
    assert address in result.output
    assert "--metrics-address" in result.output


def test_metrics_without_their_extra_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "durable_streams_server.operations.metrics", raising=False)
    result = CliRunner().invoke(cli.main, ["--metrics"], env=MEMORY)
    assert result.exit_code == 1
    assert "pip install 'durable-streams-server[metrics]'" in result.output
