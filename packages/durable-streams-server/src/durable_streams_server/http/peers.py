"""The other end of a connection: its address, and the certificate that it showed."""

import asyncio
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from durable_streams_server.http.messages import RequestHead


class Peer:
    """The client of one connection of the standalone server. Looks once, when it is first asked."""

    __slots__ = ("_address", "_certificate", "_transport")

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._address: str | None = None
        self._certificate: bytes | None = None

    @property
    def address(self) -> str:
        """The IP address; empty for a Unix socket."""
        if self._address is None:
            name = self._transport.get_extra_info("peername")
            self._address = name[0] if isinstance(name, tuple) else ""
        return self._address

    @property
    def certificate(self) -> bytes | None:
        """The certificate (DER) that the TLS layer has verified, None without one."""
        if self._certificate is None:
            tls = self._transport.get_extra_info("ssl_object")
            self._certificate = b"" if tls is None else tls.getpeercert(binary_form=True) or b""
        return self._certificate or None


def address_of(request: "RequestHead") -> str:
    """The IP address that a request came from; empty where the front end does not know it."""
    if request.peer is not None:
        return request.peer.address
    native = request.native
    if isinstance(native, web.BaseRequest):
        return native.remote or ""
    if isinstance(native, Mapping):
        client = native.get("client")
        return str(client[0]) if client else ""
    return ""


def network_of(address: str) -> str:
    """The address as one client has it: of IPv6 the /64, which belongs to one customer.

    An IPv4 address that is written as IPv6 is the IPv4 address. Other text is returned as it is.
    """
    if ":" not in address:
        return address
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return str(parsed)
