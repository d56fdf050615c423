"""Which proxy leads to which server, as the environment says.

``HTTP_PROXY``, ``HTTPS_PROXY`` and ``ALL_PROXY`` name proxies, in capitals or not; ``NO_PROXY``
names the servers that are reached without one: hosts with everything below them, addresses and
networks, each with or without a port, or ``*`` for all.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from durable_streams_client.errors import InvalidArgument

SCHEMES: Final = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy's URL without credentials, and its user and password."""

    url: str
    auth: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class _Exempt:
    """One entry of ``NO_PROXY``."""

    host: str
    port: int | None

    def covers(self, host: str, port: int) -> bool:
        if self.port not in (None, port):
            return False
        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(self.host, strict=False)
        except ValueError:
            return host == self.host or host.endswith(f".{self.host}")


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of the environment; make it with :meth:`of`."""

    by_scheme: Mapping[str, Proxy]
    exempt: tuple[_Exempt, ...]

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Proxies":
        """The proxies that ``urllib.request.getproxies()`` found; raises InvalidArgument."""
        entries = environment.get("no", "").replace(",", " ").split()
        if "*" in entries:
            return cls({}, ())
        named = {
            scheme: _proxy(environment[scheme])
            for scheme in ("http", "https", "all")
            if environment.get(scheme)
        }
        return cls(named, tuple(_exempt(entry) for entry in entries))

    def find(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for a server, or None if it is reached directly."""
        proxy = self.by_scheme.get(scheme) or self.by_scheme.get("all")
        if proxy is None or any(exempt.covers(host.lower(), port) for exempt in self.exempt):
            return None
        return proxy


def _proxy(text: str) -> Proxy:
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidArgument(
            "a proxy named in the environment must be a URL that begins with "
            + ", ".join(f"{scheme}://" for scheme in SCHEMES),
            advice="Check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY.",
        )
    host = parts.netloc.rpartition("@")[2]
    return Proxy(f"{parts.scheme}://{host}", _credentials(parts))


def _credentials(parts: SplitResult) -> tuple[str, str] | None:
    if parts.username is None:
        return None
    return unquote(parts.username), unquote(parts.password or "")


def _exempt(entry: str) -> _Exempt:
    host, port = entry, None
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        port = int(rest[1:]) if rest[1:].isdecimal() else None
    elif entry.count(":") == 1 and entry.partition(":")[2].isdecimal():
        host, _, rest = entry.partition(":")
        port = int(rest)
    return _Exempt(host.lower().removeprefix("*").removeprefix("."), port)
