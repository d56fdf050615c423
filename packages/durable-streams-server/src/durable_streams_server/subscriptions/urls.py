"""The URLs under which others reach this server's control routes."""

from typing import Final
from urllib.parse import quote, unquote, urlsplit

from durable_streams_core.protocol import RESERVED_SEGMENT
from durable_streams_core.subscriptions.records import BaseUrl

_SAFE: Final = "~!$&'()*+,;=:@"


def quoted(subscription: str) -> str:
    return quote(subscription, safe=_SAFE)


def public_origin(public_url: str) -> str:
    """A configured URL without a slash at its end, and with its path percent-encoded."""
    url = urlsplit(public_url)
    return f"{url.scheme}://{url.netloc}{quote(unquote(url.path), safe=_SAFE + '/').rstrip('/')}"


def control_url(public_url: str | None, base_url: BaseUrl, route: str) -> str:
    """``route`` is what follows ``__ds/``. A configured URL goes before the remembered origin."""
    origin = base_url.origin if public_url is None else public_origin(public_url)
    return f"{origin}{base_url.root}{RESERVED_SEGMENT}/{route}"
