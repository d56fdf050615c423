"""The URLs under which others reach this server's control routes."""

from urllib.parse import quote

from durable_streams_core.protocol import RESERVED_SEGMENT
from durable_streams_core.subscriptions.records import Place


def quoted(subscription: str) -> str:
    return quote(subscription, safe="~!$&'()*+,;=:@")


def control_url(public_url: str | None, place: Place, route: str) -> str:
    """``route`` is what follows ``__ds/``. A configured URL goes before the remembered origin."""
    origin = place.origin if public_url is None else public_url.rstrip("/")
    return f"{origin}{place.root}{RESERVED_SEGMENT}/{route}"
