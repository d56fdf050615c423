"""Requests over an httpx client that was handed in: its connections are the caller's.

A task can be cancelled in any wait, so nothing more is needed here than in httpx itself.
"""

from typing import Any


async def send(client: Any, request: Any) -> Any:
    """Send with ``client`` and return its response as soon as the head has come."""
    return await client.send(request, stream=True, follow_redirects=False)
