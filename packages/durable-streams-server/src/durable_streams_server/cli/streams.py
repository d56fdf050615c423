"""The options of the engine: its store, its limits and its webhooks."""

from typing import Final

import click

from durable_streams_server.cli.access_rules import is_protected
from durable_streams_server.cli.listening import is_loopback_host
from durable_streams_server.cli.option_groups import OptionGroup, Settings
from durable_streams_server.engine.limits import Limits
from durable_streams_server.subscriptions import SubscriptionOptions

_LIMITS: Final = Limits()

STREAMS: Final = OptionGroup(
    "Streams",
    [
        click.Option(
            ["--store"],
            default="file:./data",
            metavar="URL",
            help="memory:, file:PATH or redis://HOST.",
        ),
        click.Option(
            ["--page-size", "--chunk", "page_size"],
            default=_LIMITS.page_bytes // 1024,
            type=click.IntRange(1, 1024 * 1024),
            metavar="KIB",
            help="Size of a page of a read.",
        ),
        click.Option(
            ["--max-waiting-readers"],
            default=_LIMITS.max_waiting_readers,
            type=click.IntRange(1),
            help="Live readers of one stream.",
        ),
        click.Option(
            ["--max-producers"],
            default=_LIMITS.max_producers,
            type=click.IntRange(1),
            help="Producers remembered of one stream; the longest idle are forgotten.",
        ),
    ],
)

WEBHOOKS: Final = OptionGroup(
    "Webhooks",
    [
        click.Option(
            ["--webhook-allow"],
            multiple=True,
            metavar="HOST|NETWORK",
            help="Receiver of webhooks to trust although it is private; repeat for several.",
        ),
        click.Option(
            ["--webhook-localhost/--no-webhook-localhost"],
            default=None,
            show_default="where --host is loopback, without --public-url and access rules",
            help="Allow http://localhost receivers, for development.",
        ),
        click.Option(
            ["--webhook-key-days"],
            type=click.FloatRange(min=0.01),
            metavar="DAYS",
            help="Sign webhooks with a new key after so long; else only when told to.",
        ),
    ],
)


def limits_of(settings: Settings) -> Limits:
    """The bounds of the engine."""
    return Limits(
        page_bytes=settings["page_size"] * 1024,
        max_waiting_readers=settings["max_waiting_readers"],
        max_producers=settings["max_producers"],
        # Together with the time that the front end waits for responses, this is less than a
        # supervisor waits before it kills.
        drain=1.5,
    )


def subscriptions_of(settings: Settings) -> SubscriptionOptions:
    """How webhooks are delivered."""
    localhost = settings["webhook_localhost"]
    if localhost is None:
        # Others reach a server that has a public URL or needs a token, whatever it listens on.
        localhost = (
            is_loopback_host(settings["host"])
            and settings["public_url"] is None
            and not is_protected(settings)
        )
    return SubscriptionOptions(
        public_url=settings["public_url"],
        webhook_allow=tuple(settings["webhook_allow"]),
        webhook_localhost=localhost,
        key_days=settings["webhook_key_days"],
    )
