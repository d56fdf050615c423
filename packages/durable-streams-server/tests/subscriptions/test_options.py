"""The command's options for subscriptions."""

from typing import Any

import pytest

from durable_streams_server.cli.command import main
from durable_streams_server.cli.streams import subscriptions_of


@pytest.mark.parametrize(
    "arguments, localhost",
    [
        ([], True),
        (["--host", "::1"], True),
        (["--host", "0.0.0.0"], False),
        (["--host", "0.0.0.0", "--webhook-localhost"], True),
        (["--no-webhook-localhost"], False),
        (["--public-url", "https://streams.example"], False),
        (["--token", "secret"], False),
        (["--token", "secret", "--webhook-localhost"], True),
    ],
)
def test_localhost_is_for_servers_that_only_this_machine_reaches(
    arguments: Any, localhost: bool
) -> None:
    context = main.make_context("durable-streams-server", list(arguments))
    assert subscriptions_of(context.params).webhook_localhost is localhost


def test_the_other_options_are_handed_on() -> None:
    arguments = ["--webhook-allow", "a.example", "--webhook-allow", "10.0.0.0/8"]
    arguments += ["--webhook-key-days", "90", "--public-url", "https://streams.example"]
    options = subscriptions_of(main.make_context("x", arguments).params)
    assert options.webhook_allow == ("a.example", "10.0.0.0/8")
    assert (options.key_days, options.public_url) == (90, "https://streams.example")
