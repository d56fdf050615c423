"""Passwords of Redis in what the command says."""

from processes import running
from servers import RedisServer


def test_the_line_that_says_what_is_served_holds_no_password() -> None:
    with (
        RedisServer("--requirepass", "swordfish") as server,
        running(f"{server.url}?password=swordfish") as started,
    ):
        assert f"from {server.url}?password=*** at" in started.line
