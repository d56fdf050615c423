"""Which receivers may be told (§12.8): a URL is judged when it is given and when it is used, and
every address once more at the moment of connecting, so that no name can resolve to one thing when
it is looked at and to another when it counts.
"""

import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from durable_streams_core.errors import SubscriptionError

Address = IPv4Address | IPv6Address

_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOOPBACK: Final = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

# Networks that are not the public internet, from the IANA registries of special-purpose addresses.
# Python's `is_global` follows them too, but differs from version to version.
_SPECIAL_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by customers of a provider
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a metadata service
        "169.254.0.0/16",  # link-local, metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays to 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_SPECIAL_V6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3ffe::/16",  # the former 6bone
        "3fff::/20",  # documentation
    )
)
_HOST: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", re.ASCII)
_PRINTABLE: Final = re.compile(r"[!-~]+", re.ASCII)

PUBLIC: Final = "public"
LOOPBACK: Final = "loopback"
TRUSTED: Final = "trusted"


def rejected(reason: str) -> SubscriptionError:
    return SubscriptionError("WEBHOOK_URL_REJECTED", f"webhook.url {reason}")


class Receivers:
    """Judges URLs and addresses by one server's options."""

    def __init__(self, allow: tuple[str, ...], *, localhost: bool) -> None:
        self._localhost = localhost
        self._hosts: set[str] = set()
        self._suffixes: list[str] = []
        self._networks = []
        for entry in allow:
            try:
                self._networks.append(ip_network(entry, strict=False))
            except ValueError:
                name = entry.lower().rstrip(".")
                if name.startswith("*."):
                    self._suffixes.append(name[1:])
                else:
                    self._hosts.add(name)

    def judge(self, url: str) -> str:
        """Through which door a URL may be reached: PUBLIC, LOOPBACK or TRUSTED.

        Raises :class:`SubscriptionError` for one that may not.
        """
        if _PRINTABLE.fullmatch(url) is None or "\\" in url:
            raise rejected("is no URL: percent-encode what is not printable ASCII.")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise rejected("is no URL.") from None
        if parts.scheme not in ("https", "http") or not host or port == 0:
            raise rejected("is an https URL.")
        if parts.username is not None or parts.password is not None or "#" in url:
            raise rejected("holds no credentials and no fragment.")
        address = literal_address(host)
        name = host.rstrip(".")
        if self._trusts(name, address):
            return TRUSTED
        local = name == "localhost" or (isinstance(address, IPv4Address) and is_loopback(address))
        if parts.scheme == "http":
            if local and self._localhost:
                return LOOPBACK
            raise rejected("uses https; http is for localhost in development only.")
        if address is not None and not is_public(address):
            raise rejected("names a private, local or otherwise special address.")
        if name == "localhost" or name.endswith(".localhost"):
            raise rejected("names this machine.")
        return PUBLIC

    def _trusts(self, name: str, address: Address | None) -> bool:
        if name in self._hosts or any(name.endswith(suffix) for suffix in self._suffixes):
            return True
        return address is not None and self._in_networks(address)

    def _in_networks(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def admits(self, door: str, address: str) -> bool:
        """Whether a connection to this address may be made through that door."""
        embedded = _embedded(ip_address(address.partition("%")[0]))
        if door == TRUSTED or self._in_networks(embedded):
            return True
        return is_loopback(embedded) if door == LOOPBACK else is_public(embedded)


def literal_address(host: str) -> Address | None:
    """The address that a URL's host spells, None for a name.

    Raises :class:`SubscriptionError` for the spellings that only resolvers understand: decimal,
    octal, hexadecimal and shortened ones.
    """
    if ":" in host:
        if "%" in host:
            raise rejected("names an address of this machine's own networks.")
        try:
            return _embedded(IPv6Address(host))
        except ValueError:
            raise rejected("is no URL: its address is none.") from None
    if _HOST.fullmatch(host) is None:
        raise rejected("is no URL: its host is no name.")
    try:
        return IPv4Address(host)
    except ValueError:
        pass
    try:
        socket.inet_aton(host.rstrip("."))
    except OSError:
        return None
    raise rejected("spells its address in an unusual way; write four decimal numbers.")


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether it belongs to the internet at large: not private, link-local, loopback, shared,
    multicast, reserved, a tunnel to something else, or a metadata service.
    """
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)


def is_loopback(address: Address) -> bool:
    """Whether it is this machine, and always will be."""
    return any(address in network for network in _LOOPBACK)
