"""The configuration file, and the subcommand that prints what is in force."""

import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_server.cli import command as cli
from durable_streams_server.cli.config_file import key_of, settable
from durable_streams_server.cli.hiding import secrets_in, without_secrets


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "server.toml"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings that the command would serve with; nothing is served."""
    found: dict[str, Any] = {}

    async def serve(settings: dict[str, Any]) -> None:
        found.update(settings)

    monkeypatch.setattr(cli, "serve", serve)
    monkeypatch.setattr(cli, "prepare_process", lambda: None)
    monkeypatch.setattr(cli, "set_up_logging", lambda _: None)
    return found


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli.main, arguments, env=environment)


def with_file(file: Path, text: str, *arguments: str, **environment: str) -> Result:
    file.write_text(text)
    return invoke("--config", str(file), *arguments, **environment)


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file(
    file: Path, settings: dict[str, Any]
) -> None:
    text = "port = 1001\nmax-body = 2\nidle-timeout = 3\n"
    variables = {"DURABLE_STREAMS_MAX_BODY": "4", "DURABLE_STREAMS_PORT": "1002"}
    result = with_file(file, text, "--port", "1003", **variables)
    assert result.exit_code == 0, result.output
    assert (settings["port"], settings["max_body"], settings["idle_timeout"]) == (1003, 4, 3.0)


def test_a_variable_names_the_file_too(file: Path, settings: dict[str, Any]) -> None:
    file.write_text("port = 1001")
    assert invoke(DURABLE_STREAMS_CONFIG=str(file)).exit_code == 0
    assert settings["port"] == 1001


def accepted(option: click.Option, text: str) -> bool:
    try:
        option.process_value(click.Context(cli.main), [text] if option.multiple else text)
    except click.BadParameter:
        return False
    return True


def example(option: click.Option, file: Path) -> str:
    """A value that the option takes, as TOML."""
    if option.is_flag:
        return "true"
    if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType):
        return "3"
    texts = ["http://text", "127.0.0.1", "127.0.0.1:80", str(file)]
    if isinstance(option.type, click.Choice):
        texts = list(option.type.choices)
    text = next(text for text in texts if accepted(option, text))
    return f'["{text}"]' if option.multiple else f'"{text}"'


@pytest.mark.parametrize("option", settable(cli.main), ids=key_of)
def test_every_option_of_the_command_is_a_key_and_is_printed(
    option: click.Option, file: Path
) -> None:
    key = key_of(option)
    file.touch()
    # Some of these values a server would not start with, which is said after they are printed.
    result = with_file(file, f"{key} = {example(option, file)}", "config")
    (line,) = [line for line in result.output.splitlines() if line.startswith(f"{key} = ")]
    assert line.endswith(f"  # {file}")


@pytest.mark.parametrize(
    "text, says",
    [
        ("prot = 1", "no option 'prot'. Did you mean port?"),
        ("max_body = 1", "Keys are written with dashes, as flags are: max-body."),
        ("PORT = 1", "as flags are: port."),
        ("limit = 1", "Did you mean limits?"),
        ("xyzzy = 1", "Each option in --help is a key."),
        ('config = "x"', "no option 'config'"),
        ('port = "4437"', "port must be a whole number, got a text."),
        ("port = true", "port must be a whole number, got true or false."),
        ("port = 4437.0", "port must be a whole number, got a number."),
        ("port = 70000", "port: 70000 is not in the range"),
        ("port = 2000-01-01", "port must be a whole number, got a date or time."),
        ("idle-timeout = nan", "idle-timeout must be a number that is not endless"),
        ("idle-timeout = inf", "idle-timeout must be a number that is not endless"),
        (f"idle-timeout = {10**400}", "idle-timeout is too large."),
        ("console = 1", "console must be true or false, got a whole number."),
        ("host = 1", "host must be a text in quotes, got a whole number."),
        ('host = ""', "host: must not be empty"),
        ('cors-origin = "*"', "cors-origin must be a list, each of it a text in quotes"),
        ("cors-origin = [1]", "cors-origin must be a list, each of it a text in quotes"),
        ('front-end = "nginx"', "front-end: 'nginx' is not one of"),
        ('tls-cert = "/nowhere.pem"', "'/nowhere.pem' does not exist."),
        ("access = 1", "access is a table: write it as [access]."),
        ("limits = 'x'", "limits is a table: write it as [limits]."),
        ("[port]", "port must be a whole number, got a table."),
        ("port", "is not TOML"),
        ("a = " + "[" * 10_000, "is not TOML"),
    ],
)
def test_a_broken_file_is_refused_with_a_sentence(
    text: str, says: str, file: Path, settings: dict[str, Any]
) -> None:
    result = with_file(file, text)
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert str(file) in result.output
    assert not settings


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_flag_or_variable_is_a_number_that_bounds_can_bound(
    number: str, settings: dict[str, Any]
) -> None:
    for result in (
        invoke("--idle-timeout", number),
        invoke(DURABLE_STREAMS_IDLE_TIMEOUT=number),
    ):
        assert result.exit_code == 2
        assert f"{number} is not a time or a size" in result.output
        assert not settings


def test_a_file_that_is_not_text_is_refused(file: Path, settings: dict[str, Any]) -> None:
    file.write_bytes(b"\xff\xfe")
    result = invoke("--config", str(file))
    assert result.exit_code == 2
    assert "is not UTF-8 text" in result.output


def test_a_file_that_is_not_there_is_refused(file: Path) -> None:
    result = invoke("--config", str(file))
    assert result.exit_code == 2
    assert "does not exist" in result.output


def test_a_wrong_value_is_not_shown_because_it_may_be_a_secret(file: Path) -> None:
    result = with_file(file, 'signing-key = "swordfish"')
    assert result.exit_code == 2
    assert "swordfish" not in result.output


def test_what_is_in_force_is_printed_with_its_origin_and_without_secrets(file: Path) -> None:
    text = """
        token = "swordfish"
        signing-key = ["swordfish-of-one-server", "swordfish-of-another"]
        store = "redis://user:swordfish@host:6379/0?password=swordfish&shards=3"
    """
    result = with_file(file, text, "--max-body", "3", "config", DURABLE_STREAMS_PORT="1002")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "swordfish" not in result.output
    assert f'token = "***"  # {file}' in lines
    assert f'signing-key = ["***", "***"]  # {file}' in lines
    assert f'store = "redis://***@host:6379/0?password=***&shards=3"  # {file}' in lines
    assert "max-body = 3  # flag" in lines
    assert "port = 1002  # DURABLE_STREAMS_PORT" in lines
    assert "page-size = 1024  # default" in lines
    assert "# uds is not set  # default" in lines


def test_options_are_taken_before_and_behind_the_name_of_the_subcommand(file: Path) -> None:
    file.write_text("port = 1001")
    before = invoke("--config", str(file), "--max-body", "3", "config")
    behind = invoke("config", "--config", str(file), "--max-body", "3")
    assert before.output == behind.output
    assert f"port = 1001  # {file}" in before.output


def test_what_is_printed_is_a_file_with_the_same_settings(file: Path) -> None:
    printed = invoke("--max-body", "3", "config").output
    assert tomllib.loads(printed)["max-body"] == 3
    again = with_file(file, printed, "config")
    assert tomllib.loads(again.output) == tomllib.loads(printed)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("[access]", "nobody has any right"),
        ("[[access.tokens]]\nname = 'a'\nreed = ['**']", "reed"),
        ("[limits.principal]\nlive-readers = -1", "live-readers must be a positive number"),
        ("signing-key = ['swordfish']", "at least 16 bytes"),
        ("token = ''", "The token is empty"),
        ("token = 'swordfish'\n[access.anonymous]\nread = ['**']", "one token for everything"),
        ("root = '/a/../b'", "must not have empty"),
    ],
)
def test_the_subcommand_refuses_what_the_server_would_not_start_with(
    text: str, sentence: str, file: Path
) -> None:
    result = with_file(file, text, "config")
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())
    assert "swordfish" not in result.output


def test_the_subcommand_refuses_unknown_variables_too() -> None:
    result = invoke("config", DURABLE_STREAMS_PROT="1")
    assert result.exit_code == 2
    assert "Did you mean DURABLE_STREAMS_PORT?" in result.output


@pytest.mark.parametrize("password", ["secret", "sec@ret", "@secret@", "sec:ret@"])
def test_a_password_is_hidden_whatever_it_holds(password: str) -> None:
    assert without_secrets(f"redis://:{password}@host:6379/0") == "redis://***@host:6379/0"


@given(
    st.text(st.sampled_from("/?#@:&=%"), max_size=4),
    st.text(st.sampled_from("/?#@:&=%"), max_size=4),
    st.booleans(),
)
def test_no_letter_of_a_password_is_shown_where_it_was_not_encoded(
    begin: str, end: str, has_user: bool
) -> None:
    password = f"XY{begin}XY{end}XY"
    shown = without_secrets(f"redis://{'me' * has_user}:{password}@host:6379/0")
    assert shown in ("redis://***@host:6379/0", "redis://***")


@pytest.mark.parametrize(
    "url",
    ["file:///srv/streams@2", "file:./a@b", "https://example.com/@scope/", "redis://host:6379/0"],
)
def test_a_url_without_secrets_is_shown_as_it_is(url: str) -> None:
    assert without_secrets(url) == url
    assert secrets_in(url) == []


@pytest.mark.parametrize(
    "url",
    [
        "redis://:sword%2Ffish@host/0",
        "redis://me:sword/fish@host/0",
        "redis://host/0?password=sword%2Ffish",
        "redis+sentinel://me:sword/fish@[::1]:1,[::2]:2/service",
    ],
)
def test_a_password_in_a_url_is_known_as_it_is_meant(url: str) -> None:
    assert "sword/fish" in secrets_in(url)


def test_a_store_whose_url_cannot_be_parsed_is_refused_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli, "prepare_process", lambda: None)
    result = invoke("--store", "redis://:swordfish@[bad", "--port", "0")
    assert isinstance(result.exception, SystemExit)
    assert "Error: " in result.output
    assert "swordfish" not in result.output
