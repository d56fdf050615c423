"""The command: what it takes, prints and explains, and how it ends."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from command_process import MEMORY, ended, running
from wire import Connection, Events, chunked, request_bytes

from durable_streams_server import __version__
from durable_streams_server.cli import command as cli
from durable_streams_server.cli.config_file import settable
from durable_streams_server.cli.requests import options_of
from durable_streams_server.cli.streams import limits_of
from durable_streams_server.frontends.servers import FRONT_ENDS


@pytest.mark.parametrize("front_end", sorted(FRONT_ENDS))
async def test_it_says_one_line_serves_and_ends_cleanly_with_readers_told(front_end: Any) -> None:
    async with running("--port", "0", "--front-end", front_end) as (process, port, match):
        assert match[1] == "memory:"
        assert match[4] == "/v1/stream/"
        target = "/v1/stream/a"
        async with await Connection.to(port) as writer:
            text = {"content-type": "text/plain"}
            created = await writer.request("PUT", target, text, b"x")
            assert created.status == 201
            assert (await writer.request("GET", "/health")).json == {"status": "ok"}
            posted = await writer.request(
                "POST", target, {**text, "transfer-encoding": "chunked"}, chunked(b"y")
            )
            assert posted.status == 204
        poll, sse = await Connection.to(port), await Connection.to(port)
        await sse.send(request_bytes("GET", target + "?offset=-1&live=sse"))
        events = Events(sse, (await sse.head())[1])
        assert (await events.batch())[0] == "xy"
        await poll.send(request_bytes("GET", target + "?offset=now&live=long-poll"))
        # Requests of one process are taken in order: when this is answered, so is that taken.
        async with await Connection.to(port) as other:
            assert (await other.request("HEAD", target)).status == 200
        status, out, err = await ended(process)
        assert (status, out, err) == (0, "", "")
        assert (await poll.answer()).status == 204
        assert await events.rest() == []
        for connection in (poll, sse):
            connection.abort()


async def test_it_is_a_command_of_its_own_and_ends_on_an_interrupt_too() -> None:
    command = str(Path(sys.executable).with_name("durable-streams-server"))
    environment = {
        "DURABLE_STREAMS_PORT": "0",
        "DURABLE_STREAMS_ROOT": "/streams",
        "DURABLE_STREAMS_TOKEN": "s3cret",
        "DURABLE_STREAMS_LOG_LEVEL": "debug",
    }
    async with running(entry=(command,), **environment) as (process, port, match):
        assert match[4] == "/streams/"
        async with await Connection.to(port) as connection:
            assert (await connection.request("PUT", "/streams/a")).status == 401
            allowed = {"authorization": "Bearer s3cret"}
            assert (await connection.request("PUT", "/streams/a", allowed)).status == 201
        status, out, err = await ended(process, signal.SIGINT)
        assert (status, out) == (0, "")
        assert "PUT a" in err
        assert "s3cret" not in err


def invoke(*options: Any, **environment: Any) -> Any:
    return CliRunner().invoke(cli.main, options, env={**MEMORY, **environment})


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The settings that the command would serve with; nothing is served."""
    found = {}

    async def serve(settings: Any) -> None:
        found.update(settings)

    monkeypatch.setattr(cli, "serve", serve)
    monkeypatch.setattr(cli, "loop_runner", lambda: asyncio.run)
    monkeypatch.setattr(cli, "prepare_process", lambda: None)
    monkeypatch.setattr(cli, "set_up_logging", lambda _: None)
    return found


@pytest.mark.parametrize("option", ["--host", "--uds"])
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_address_is_refused_and_not_taken_for_every_interface(
    option: str, value: str, settings: dict[str, Any]
) -> None:
    result = invoke(option, value)
    assert result.exit_code == 2
    assert f"leave {option} out" in result.output
    assert not settings


@pytest.mark.parametrize(
    "variable, nearest",
    [
        ("DURABLE_STREAMS_PROT", "DURABLE_STREAMS_PORT"),
        ("DURABLE_STREAMS_TOKENS", "DURABLE_STREAMS_TOKEN"),
        ("DURABLE_STREAMS_MAXBODY", "DURABLE_STREAMS_MAX_BODY"),
        ("DURABLE_STREAMS_COMPRESS", "DURABLE_STREAMS_NO_COMPRESS"),
        ("DURABLE_STREAMS_port", "DURABLE_STREAMS_PORT"),
        ("DURABLE_STREAMS_XYZZY", "--help"),
    ],
)
def test_a_misspelt_variable_is_refused_and_the_nearest_is_named(
    variable: str, nearest: str, settings: dict[str, Any]
) -> None:
    result = invoke(**{variable: "1"})
    assert result.exit_code == 2
    assert variable in result.output
    assert nearest in result.output
    assert not settings


@pytest.mark.parametrize(
    "variable",
    [
        "DURABLE_STREAMS_URL",
        "DURABLE_STREAMS_SERVICE_HOST",
        "DURABLE_STREAMS_SERVICE_PORT_HTTP",
        "DURABLE_STREAMS_PORT_4437_TCP_ADDR",
        "MY_DURABLE_STREAMS_PROT",
        "DURABLE_STREAMSX",
    ],
)
def test_variables_of_other_programs_are_left_alone(
    variable: str, settings: dict[str, Any]
) -> None:
    assert invoke(**{variable: "1"}).exit_code == 0
    assert settings


def test_the_address_of_a_service_of_our_name_is_not_taken_for_a_port(
    settings: dict[str, Any],
) -> None:
    """Kubernetes sets it in every pod beside a service that is called ``durable-streams``."""
    assert invoke(DURABLE_STREAMS_PORT="tcp://10.0.0.7:4437").exit_code == 0
    assert settings["port"] == 4437
    assert invoke(DURABLE_STREAMS_PORT="high").exit_code == 2


@pytest.mark.parametrize(
    "options, warned",
    [
        (["--host", "0.0.0.0"], True),
        (["--host", "::"], True),
        (["--host", "192.0.2.1"], True),
        (["--host", "0.0.0.0", "--token", "secret"], False),
        (["--host", "0.0.0.0", "--uds", "socket"], False),
        (["--host", "localhost"], False),
        (["--host", "127.0.0.2"], False),
        ([], False),
    ],
)
def test_a_server_that_everybody_reaches_without_access_control_warns(
    options: list[str],
    warned: bool,
    settings: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert invoke(*options).exit_code == 0
    assert ("may read, write and delete every stream" in caplog.text) == warned


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no such signal")
async def test_the_end_of_a_terminal_does_not_end_the_server() -> None:
    async with running("--port", "0") as (process, port, _):
        process.send_signal(signal.SIGHUP)
        async with await Connection.to(port) as connection:
            assert (await connection.request("GET", "/health")).status == 200
        status, _, err = await ended(process)
        assert status == 0
        assert "SIGHUP: there is nothing to reload" in err


OPTIONS = [
    ("--store", "file:./elsewhere", "store", "file:./elsewhere"),
    ("--host", "::1", "host", "::1"),
    ("--port", "0", "port", 0),
    ("--root", "/streams", "root", "/streams"),
    ("--public-url", "https://example.com", "public_url", "https://example.com"),
    ("--front-end", "aiohttp", "front_end", "aiohttp"),
    ("--token", "s3cret", "token", "s3cret"),
    ("--long-poll-timeout", "0.5", "long_poll_timeout", 0.5),
    ("--sse-rotation", "5", "sse_rotation", 5.0),
    ("--max-body", "2", "max_body", 2),
    ("--page-size", "64", "page_size", 64),
    ("--max-waiting-readers", "7", "max_waiting_readers", 7),
    ("--max-producers", "8", "max_producers", 8),
    ("--max-connections", "9", "max_connections", 9),
    ("--idle-timeout", "10", "idle_timeout", 10.0),
    ("--log-level", "debug", "log_level", "debug"),
    ("--uds", "/tmp/x.sock", "uds", "/tmp/x.sock"),
    ("--cors-origin", "https://a.example", "cors_origin", ("https://a.example",)),
]


@pytest.mark.parametrize("flag, value, name, expected", OPTIONS)
def test_every_option_is_a_flag_and_a_variable(
    settings: Any, flag: Any, value: Any, name: Any, expected: Any
) -> None:
    assert invoke(flag, value).exit_code == 0
    assert settings[name] == expected
    settings.clear()
    option = next(p for p in cli.main.params if flag in p.opts)
    variable = f"DURABLE_STREAMS_{option.name.upper()}"
    assert invoke(**{variable: value}).exit_code == 0
    assert settings[name] == expected


def test_every_flag_has_its_variable_by_its_own_name() -> None:
    """``--port`` is ``DURABLE_STREAMS_PORT``, whatever the code calls it."""
    for option in cli.main.params:
        flag = max(option.opts, key=len).removeprefix("--")
        if flag != "version":
            expected = f"DURABLE_STREAMS_{flag.upper().replace('-', '_')}"
            assert option.envvar or f"DURABLE_STREAMS_{option.name.upper()}" == expected


@pytest.mark.parametrize("flag", ["--public", "--no-compress"])
def test_switches(settings: Any, flag: str) -> None:
    assert invoke(flag).exit_code == 0
    assert settings[flag[2:].replace("-", "_")] is True


def test_settings_become_limits_of_the_engine_and_options_of_http(settings: Any) -> None:
    flags = ("--max-body", "2", "--page-size", "64", "--long-poll-timeout", "0.5")
    assert invoke(*flags).exit_code == 0
    assert limits_of(settings).page_bytes == 64 * 1024
    options = options_of(settings)
    assert (options.max_body, options.long_poll_timeout) == (2 * 1024 * 1024, 0.5)


def test_the_size_of_a_page_goes_by_its_former_flag_too(settings: Any) -> None:
    assert invoke("--chunk", "64").exit_code == 0
    assert settings["page_size"] == 64


def test_it_tells_its_version() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.output.strip()) == (
        0,
        f"durable-streams-server, version {__version__}",
    )


def test_help_names_every_option() -> None:
    output = invoke("--help").output
    for flag, *_ in OPTIONS:
        assert flag in output
    assert "DURABLE_STREAMS_PORT" in output


@pytest.mark.parametrize(
    "options, explanation",
    [
        (["--store", "nonsense"], "is not a store URL. Use memory:, file:PATH or redis://HOST"),
        (["--store", "carrier-pigeon:x"], "No installed package provides a store"),
        (["--store", "memory:x"], "Use memory: alone"),
        (["--host", "no.such.host.invalid", "--port", "0"], "Check --host and --port"),
        (["--tls-key", __file__], "--tls-key needs --tls-cert"),
        (["--tls-cert", __file__], "both in PEM"),
        (["--port", "70000"], "70000 is not in the range"),
        (["--front-end", "carrier-pigeon"], "is not one of"),
        (["--log-level", "loud"], "is not one of"),
        (["--long-poll-timeout", "-1"], "is not in the range"),
        (["--public-url", "streams.example"], "must be the address of a server"),
        (["--public-url", "https://"], "must be the address of a server"),
    ],
)
def test_what_it_cannot_do_it_explains_in_a_sentence(
    options: Any, explanation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "set_up_logging", lambda _: None)
    result = invoke(*options)
    assert result.exit_code in (1, 2)
    assert explanation in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize("option", settable(cli.main), ids=lambda option: str(option.name))
def test_a_variable_that_was_left_empty_is_not_taken_for_one_that_is_not_set(
    option: click.Option, settings: dict[str, Any]
) -> None:
    variable = f"DURABLE_STREAMS_{str(option.name).upper()}"
    result = invoke(**{variable: ""})
    assert result.exit_code == 2
    assert f"The variable {variable} of the environment is empty" in result.output
    assert not settings


def test_a_configuration_file_whose_name_was_left_empty_does_not_open_the_server(
    settings: dict[str, Any],
) -> None:
    assert invoke(DURABLE_STREAMS_CONFIG="").exit_code == 2
    assert not settings


@pytest.mark.parametrize("token", ["", " "])
def test_a_token_that_was_left_empty_does_not_open_the_server(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "set_up_logging", lambda _: None)
    result = invoke("--host", "no.such.host.invalid", "--token", token)
    assert result.exit_code == 1
    assert "The token is empty" in result.output


@pytest.mark.parametrize("front_end", sorted(FRONT_ENDS))
def test_a_taken_port_is_explained(front_end: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "set_up_logging", lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = invoke("--port", port, "--front-end", front_end)
    assert result.exit_code == 1
    assert f"127.0.0.1:{port} is taken by another program" in result.output
    assert "Traceback" not in result.output


def test_a_port_of_the_systems_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(_settings: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cli, "serve", serve)
    monkeypatch.setattr(cli, "set_up_logging", lambda _: None)
    result = invoke("--host", "::1", "--port", "80")
    assert result.exit_code == 1
    assert "This user may not listen on ::1:80; choose a --port above 1023." in result.output


REUSE = """
import sys
from pathlib import Path
from durable_streams_server.cli.allocator import keep_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

keep_large_blocks()
blocks = [b"x" * 2**20 + bytes([n]) for n in range(64)]
full = resident()
del blocks
print(full - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other allocators have no such setting")
@pytest.mark.parametrize("chosen, kept", [({}, True), ({"GLIBC_TUNABLES": ""}, False)])
def test_a_server_keeps_the_memory_that_it_once_needed(chosen: Any, kept: bool) -> None:
    """Each large body was page-faulted in anew. Settings of the user are left alone."""
    said = subprocess.run(
        [sys.executable, "-c", REUSE],
        env={**os.environ, **chosen},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert (int(said) < 16 * 2**20) == kept
