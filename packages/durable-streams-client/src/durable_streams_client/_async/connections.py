"""How the async client reaches the network: httpx as it is.

Tasks can be cancelled at every wait, so nothing needs to be added.
"""

import ssl

import httpx


def make_http(
    *, http2: bool, verify: ssl.SSLContext | bool, transport: httpx.AsyncBaseTransport | None
) -> httpx.AsyncClient:
    """An httpx client of the client's own. Proxies named in the environment are honoured."""
    if transport is not None:
        return httpx.AsyncClient(transport=transport, timeout=None)  # noqa: S113
    return httpx.AsyncClient(
        verify=verify,
        http2=http2,
        timeout=None,  # noqa: S113 - every request carries its own
        limits=httpx.Limits(
            max_connections=None, max_keepalive_connections=100, keepalive_expiry=4.0
        ),
    )
