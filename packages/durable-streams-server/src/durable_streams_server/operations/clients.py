"""The address of a client, also of one behind proxies that are trusted."""

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from durable_streams_server.http.observing import Caller

FORWARDED_FOR: Final = b"x-forwarded-for"
UNIX: Final = "unix"
"""Stands for the clients of a Unix socket in a list of networks."""
_MAX_HOPS: Final = 32


class TrustedProxies:
    """Proxies whose ``X-Forwarded-For`` is believed.

    ``networks`` are networks or addresses, such as ``10.0.0.0/8``, and ``unix`` for whoever
    connects to a Unix socket. Raises ValueError for anything else.
    """

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._unix = UNIX in networks
        self._networks: list[IPv4Network | IPv6Network] = []
        for each in networks:
            if each == UNIX:
                continue
            try:
                self._networks.append(ip_network(each))
            except ValueError as error:
                raise ValueError(
                    f"A trusted proxy is a network such as 10.0.0.0/8, an address, or {UNIX}: "
                    f"{error}."
                ) from None

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def client_of(self, caller: Caller) -> str:
        """The address of the client: of the nearest hop that is not a trusted proxy."""
        return self.client_at(caller.peer, caller.header)

    def client_at(self, address: str, header: Callable[[bytes], bytes | None]) -> str:
        """As :meth:`client_of`, for the address and the headers of a request."""
        if not self:
            return address
        address = _address(address) or address
        if not self._trusts(address):
            return address
        forwarded = (header(FORWARDED_FOR) or b"").decode("latin-1")
        hops = forwarded.rsplit(",", _MAX_HOPS)
        while hops:
            hop = _address(hops.pop())
            if hop is None:
                # The writer of that is not to be believed about anything before it.
                break
            address = hop
            if not self._trusts(hop):
                break
        return address

    def _trusts(self, address: str) -> bool:
        if not address:
            return self._unix
        try:
            found = ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)


def _address(hop: str) -> str | None:
    """The address in a hop, without its port; None for what is not an address."""
    hop = hop.strip()
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        # The scope of an address may be any text, and means nothing on another machine.
        address = ip_address(hop.partition("%")[0])
    except ValueError:
        return None
    # A socket for both kinds of addresses writes an IPv4 address as IPv6.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
