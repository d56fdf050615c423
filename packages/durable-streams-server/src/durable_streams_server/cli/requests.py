"""The options of requests over HTTP: who may send them, from which pages, and their limits."""

from typing import Final

import click

from durable_streams_server.cli.access_rules import ACCESS_FILE
from durable_streams_server.cli.option_groups import OptionGroup, Settings
from durable_streams_server.engine.limits import MIB
from durable_streams_server.http.options import Options

_OPTIONS: Final = Options()

ACCESS: Final = OptionGroup(
    "Access",
    [
        click.Option(
            ["--token"],
            metavar="SECRET",
            help="Serve only requests with this bearer token. Safer in the environment than here.",
        ),
        ACCESS_FILE,
        click.Option(
            ["--signing-key"],
            multiple=True,
            metavar="SECRET",
            help="Key of signed read URLs; repeat to rotate: the first signs, all are accepted. "
            "Safer in the environment than here.",
        ),
    ],
)

BROWSERS: Final = OptionGroup(
    "Browsers",
    [
        click.Option(
            ["--cors-origin"],
            multiple=True,
            default=("*",),
            metavar="ORIGIN",
            help="Browser origin that may use the server; repeat for several.",
        ),
        click.Option(
            ["--cors-credentials"],
            is_flag=True,
            help="Let pages of the --cors-origin origins send cookies.",
        ),
        click.Option(
            ["--cors-header"],
            multiple=True,
            metavar="NAME",
            help="Request header that pages may send beside the usual ones; repeat for several.",
        ),
        click.Option(
            ["--console"],
            is_flag=True,
            help="Serve a page at ROOT/__ds/console to look at streams.",
        ),
    ],
)

REQUESTS: Final = OptionGroup(
    "Requests",
    [
        click.Option(["--public"], is_flag=True, help="Let shared caches keep pages."),
        click.Option(["--no-compress"], is_flag=True, help="Never compress pages."),
        click.Option(
            ["--long-poll-timeout"],
            default=_OPTIONS.long_poll_timeout,
            type=click.FloatRange(min=0, max=3600),
            metavar="SECONDS",
            help="How long a long-poll waits.",
        ),
        click.Option(
            ["--sse-rotation"],
            default=_OPTIONS.sse_rotation,
            type=click.FloatRange(min=1),
            metavar="SECONDS",
            help="How long an SSE response lasts.",
        ),
        click.Option(
            ["--sse-retry"],
            default=_OPTIONS.sse_retry,
            type=click.FloatRange(min=0, max=3600),
            metavar="SECONDS",
            help="How soon a browser's EventSource reconnects.",
        ),
        click.Option(
            ["--max-body"],
            default=_OPTIONS.max_body // MIB,
            type=click.IntRange(1, 1024),
            metavar="MIB",
            help="Largest append.",
        ),
    ],
)


def options_of(settings: Settings) -> Options:
    """The options of the HTTP layer; raises ValueError for settings that contradict each other."""
    return Options(
        token=settings["token"],
        cors_origins=tuple(settings["cors_origin"]),
        cors_credentials=settings["cors_credentials"],
        console=settings["console"],
        cors_headers=tuple(settings["cors_header"]),
        public=settings["public"],
        public_url=settings["public_url"],
        max_body=settings["max_body"] * MIB,
        long_poll_timeout=settings["long_poll_timeout"],
        sse_rotation=settings["sse_rotation"],
        sse_retry=settings["sse_retry"],
        compress=not settings["no_compress"],
        health=True,
    )
