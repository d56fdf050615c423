"""Completion in a shell: the names of streams, from the server's listing."""

from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from durable_streams_client._sync.client import Client
from durable_streams_client.errors import ClientError
from durable_streams_client.options import Timeouts
from durable_streams_client.retry import RetryPolicy

C = TypeVar("C", bound=Callable[..., Any])

MOST: Final = 200
"""How many names are offered."""


def stream_names(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The names that begin with what was typed; none if the server does not say within 2 s."""
    given: dict[str, Any] = context.find_root().params
    headers = dict(given.get("headers") or {})
    if given.get("token") is not None:
        headers.setdefault("Authorization", f"Bearer {given['token']}")
    elif given.get("auth") is not None:
        headers.setdefault("Authorization", given["auth"])
    names: list[str] = []
    with (
        suppress(ClientError),
        Client(
            given.get("url") or "",
            headers=headers,
            timeouts=Timeouts(total=2.0),
            retry=RetryPolicy(attempts=1),
        ) as client,
    ):
        names += (listed.path for listed in islice(client.list(incomplete), MOST))
    return [CompletionItem(name) for name in names]


def name_argument(name: str = "name") -> Callable[[C], C]:
    """An argument that is the name of a stream."""
    return click.argument(name, shell_complete=stream_names)
