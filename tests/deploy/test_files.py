"""The shipped files name what exists: flags, variables, files and time limits that fit together."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from live_server import Server

from durable_streams_server.cli import main

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "durable-streams"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and not path.is_symlink())
PAGES = [
    ROOT / "docs" / f"{name}.md"
    for name in (
        *("deploying", "runbook", "capacity", "durability", "backup"),
        *("upgrading", "security", "errors"),
    )
]

OPTIONS = {option.name: option for option in main.params if option.name}
FLAGS = {
    flag
    for command in (main, *main.commands.values())
    for option in command.params
    for flag in (*option.opts, *option.secondary_opts)
}
OTHERS = {
    *("--constraint", "--wheel-dir", "--no-cache-dir", "--no-index", "--find-links", "--compile"),
    *("--from", "--interval", "--timeout", "--start-period", "--retries"),  # of a Dockerfile
    *("--read-only", "--cap-drop"),  # of Docker
    *("--build", "--wait", "--no-deps"),  # of Docker Compose
    *("--set", "--strict"),  # of Helm
    *("--appendonly", "--appendfsync", "--maxmemory", "--maxmemory-policy"),  # of Valkey
    "--help",
}
"""Flags of other programs in the shipped files."""
VARIABLES = {f"DURABLE_STREAMS_{str(name).upper()}" for name in OPTIONS}


def default(name: str) -> float:
    value = OPTIONS[name].get_default(click.Context(main))
    assert isinstance(value, int | float)
    return value


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(ms|s|m|h)", text).groups()
    return float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


@pytest.mark.parametrize("path", [*FILES, *PAGES], ids=lambda path: path.name)
def test_every_flag_and_variable_is_one_of_the_command(path: Path) -> None:
    text = path.read_text()
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text))
    assert flags <= FLAGS | OTHERS
    assert set(re.findall(r"DURABLE_STREAMS_\w*[A-Z]", text)) <= VARIABLES


def test_the_flags_of_other_programs_are_all_used() -> None:
    used = "".join(path.read_text() for path in [*FILES, *PAGES])
    assert not {flag for flag in OTHERS if flag not in used}


def test_the_configuration_file_is_one_that_the_command_reads() -> None:
    shown = CliRunner().invoke(main, ["--config", str(DEPLOY / "config.toml"), "config"])
    assert shown.exit_code == 0, shown.output
    assert 'public-url = "https://streams.example"' in shown.stdout


# The image.


def dockerfile() -> list[list[str]]:
    """The instructions of the Dockerfile, each as its word and its text."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [line.split(maxsplit=1) for line in text.replace("\\\n", " ").splitlines() if line]


def test_the_image_is_built_of_files_that_exist_and_are_not_ignored() -> None:
    copied = [
        source
        for word, rest in dockerfile()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored


def test_the_image_does_not_run_as_root() -> None:
    words = [word for word, _ in dockerfile()]
    (user,) = [rest for word, rest in dockerfile() if word == "USER"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    assert words.index("USER") < words.index("ENTRYPOINT")


@pytest.fixture(scope="module")
def server() -> Any:
    server = Server("memory:")
    yield server
    server.stop()


def test_the_health_check_of_the_image_tells_a_server_from_none(server: Server) -> None:
    ((_, check),) = [line for line in dockerfile() if line[0] == "HEALTHCHECK"]
    command = ast.literal_eval(check[check.index("[") :])
    assert command.pop(0) == "python"

    def healthy(port: str) -> bool:
        environment = {"DURABLE_STREAMS_PORT": port}
        ended = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, check=False
        )
        return ended.returncode == 0

    assert healthy(server.origin.rpartition(":")[2])
    assert not healthy("1")


# Compose.


def test_the_compose_file_names_files_that_exist() -> None:
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    services = compose["services"]
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (DEPLOY / "compose" / source).is_file()
        if "build" in service:
            context = DEPLOY / "compose" / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).is_file()
    upstreams = re.findall(r"server (\S+):4437", (DEPLOY / "compose" / "nginx.conf").read_text())
    assert set(upstreams) == {name for name in services if name.startswith("server")}


# Proxies.


def test_proxies_wait_longer_than_the_server() -> None:
    longest = default("long_poll_timeout")
    nginx = (DEPLOY / "nginx" / "proxy.conf").read_text()
    caddy = (DEPLOY / "caddy" / "Caddyfile").read_text()
    chart = (CHART / "values.yaml").read_text()
    waits = [
        seconds(re.search(r"proxy_read_timeout (\w+);", nginx)[1]),
        seconds(re.search(r"read_timeout (\w+)", caddy)[1]),
        float(re.search(r'proxy-read-timeout: "(\d+)"', chart)[1]),
    ]
    assert min(waits) > 2 * longest


def test_proxies_close_idle_connections_before_the_server() -> None:
    for path, pattern in {
        DEPLOY / "nginx" / "streams.conf": r"keepalive_timeout (\w+);",
        DEPLOY / "compose" / "nginx.conf": r"keepalive_timeout (\w+);",
        DEPLOY / "caddy" / "Caddyfile": r"keepalive (\w+)",
    }.items():
        assert seconds(re.search(pattern, path.read_text())[1]) < default("idle_timeout")


def test_proxies_take_bodies_as_large_as_the_server() -> None:
    limit = int(default("max_body"))
    assert f"client_max_body_size {limit}m;" in (DEPLOY / "nginx" / "proxy.conf").read_text()
    assert f"max_size {limit}MiB" in (DEPLOY / "caddy" / "Caddyfile").read_text()
    assert f"proxy-body-size: {limit}m" in (CHART / "values.yaml").read_text()


def test_no_proxy_repeats_an_append() -> None:
    for path in FILES:
        settings = re.sub(r"#.*", "", path.read_text())
        assert "non_idempotent" not in settings
        assert "lb_retry_match" not in settings


# systemd.


def test_the_unit_starts_the_command_with_a_configuration_that_is_shipped() -> None:
    unit = (DEPLOY / "systemd" / "durable-streams.service").read_text()
    command = shlex.split(re.search(r"^ExecStart=(.+)$", unit, re.MULTILINE)[1])
    with main.make_context("durable-streams-server", command[1:], resilient_parsing=True) as given:
        assert not given.args
    socket = (DEPLOY / "systemd" / "durable-streams.socket").read_text()
    assert given.params["fd"] == 3
    assert "ListenStream=127.0.0.1:4437" in socket
    stop = seconds(re.search(r"^TimeoutStopSec=(\w+)$", unit, re.MULTILINE)[1])
    assert stop > default("drain_delay") + 5


# The chart.


def undocumented(schema: dict[str, Any], values: Any, name: str = "") -> list[str]:
    """The values that the schema does not describe, and those that it has and the chart has not."""
    if "properties" not in schema:
        return []
    known, given = set(schema["properties"]), set(values)
    if not name:
        known.discard("global")
    found = [f"{name}.{key}" for key in known ^ given]
    for key in known & given:
        below = schema["properties"][key]
        if not below.get("description"):
            found.append(f"{name}.{key} has no description")
        found += undocumented(below, values[key], f"{name}.{key}")
    return found


def test_the_schema_of_the_chart_describes_exactly_its_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert not undocumented(schema, values)


def test_every_value_that_a_template_uses_exists() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for template in (CHART / "templates").iterdir():
        for dotted in set(re.findall(r"\.Values\.([\w.]+)", template.read_text())):
            found: Any = values
            for part in dotted.split("."):
                assert part in found, f"{template.name}: {dotted}"
                found = found[part]


def test_the_chart_ships_the_alerts_and_the_dashboard() -> None:
    for name in ("alerts.yaml", "dashboard.json"):
        assert (CHART / name).is_symlink()
        assert DEPLOY in (CHART / name).resolve(strict=True).parents


def test_the_chart_ends_a_server_after_it_has_drained() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["terminationGracePeriodSeconds"] > values["drainDelay"] + 5


def test_image_and_chart_have_the_version_of_the_server() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    metadata = (ROOT / "packages" / "durable-streams-server" / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', metadata, re.MULTILINE)[1]
    assert chart["appVersion"] == version
    assert f"durable-streams-server:{version}" in (DEPLOY / "compose" / "compose.yaml").read_text()
