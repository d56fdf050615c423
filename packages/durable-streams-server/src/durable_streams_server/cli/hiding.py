"""Secrets inside of URLs: hidden where a URL is shown, and found so that no log line holds them."""

import re
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode

HIDDEN: Final = "***"
_USER: Final = re.compile(r"(?<=//)[^/?#]*@")
_SECRET: Final = re.compile(r"pass|secret|token|key", re.IGNORECASE)
_WITH_AT: Final = ("file:", "http:", "https:")
"""URLs whose path may hold an ``@`` that ends no password."""


def without_secrets(url: str) -> str:
    """A URL without user and password, and without what its query says of secrets.

    Where a password may go on behind the host, because it holds a slash that was not
    percent-encoded, only the scheme is left.
    """
    shown = _USER.sub(f"{HIDDEN}@", url)
    behind = shown.partition("//")[2].removeprefix(f"{HIDDEN}@")
    if "@" in behind and not url.startswith(_WITH_AT):
        return f"{url.partition('//')[0]}//{HIDDEN}"
    start, mark, query = shown.partition("?")
    if mark:
        pairs = parse_qsl(query, keep_blank_values=True)
        hidden = [(name, HIDDEN if _SECRET.search(name) else value) for name, value in pairs]
        query = urlencode(hidden, safe="*/:,")
    return start + mark + query


def secrets_in(url: str) -> list[str]:
    """The passwords in a URL, as they are written and as they are meant."""
    start, _, query = url.partition("?")
    password = start.partition("//")[2].rpartition("@")[0].partition(":")[2]
    found = [value for name, value in parse_qsl(query) if _SECRET.search(name)]
    return [secret for secret in (password, unquote(password), *found) if secret]
