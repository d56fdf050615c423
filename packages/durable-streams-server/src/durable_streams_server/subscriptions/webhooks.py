"""Sends webhooks: one signed request, bounded in time and size (§7.1, §12.8).

The address is checked when the connection is made, and redirects are not followed.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from durable_streams_core.errors import SubscriptionError
from durable_streams_server.subscriptions.receivers import Receivers

log = logging.getLogger("durable_streams_server.subscriptions")

MAX_ANSWER: Final = 64 * 1024
"""A longer answer is not read; it says nothing but its status."""

_HEADERS: Final = {
    "content-type": "application/json",
    "accept": "application/json",
    "accept-encoding": "identity",
}
NO_HEADERS: Final[Mapping[str, str]] = {}

DONE: Final = "done"
ACCEPTED: Final = "accepted"
FAILED: Final = "failed"


class Refused(OSError):
    """The address may not be connected to."""


class Webhooks:
    """Sends requests; one session for each of the doors that :class:`Receivers` knows."""

    def __init__(self, receivers: Receivers, limit: int) -> None:
        self._receivers = receivers
        self._slots = asyncio.Semaphore(limit)
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        sessions = list(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()

    async def post(
        self,
        url: str,
        body: bytes,
        signature: str,
        seconds: float,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> str:
        """DONE, ACCEPTED or FAILED; never raises for what the receiver does.

        ``headers`` are sent beside those of every webhook.
        """
        sent = {**headers, **_HEADERS, "webhook-signature": signature}
        try:
            door = self._receivers.judge(url)
            async with self._slots, asyncio.timeout(seconds):
                return await self._post(self._session(door), url, body, sent)
        except SubscriptionError as error:
            log.warning("a webhook is not sent: %s", error.message)
        except TimeoutError:
            log.warning("a webhook to %s had no answer within %.1f s", _shown(url), seconds)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            log.warning("a webhook to %s failed: %s", _shown(url), error)
        return FAILED

    async def _post(
        self, session: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str]
    ) -> str:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            if not 200 <= response.status < 300:
                log.warning("a webhook to %s was answered %d", _shown(url), response.status)
                return FAILED
            received = b""
            while len(received) <= MAX_ANSWER:
                chunk = await response.content.read(MAX_ANSWER + 1 - len(received))
                if not chunk:
                    return DONE if _says_done(received) else ACCEPTED
                received += chunk
            response.close()
            return ACCEPTED

    def _session(self, door: str) -> aiohttp.ClientSession:
        session = self._sessions.get(door)
        if session is None:

            def connect(info: Any) -> socket.socket:
                if not self._receivers.admits(door, info[4][0]):
                    raise Refused(errno.EACCES, f"the address {info[4][0]} is not one for webhooks")
                return socket.socket(info[0], info[1], info[2])

            session = self._sessions[door] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, socket_factory=connect),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=MAX_ANSWER,
            )
        return session


def _says_done(answer: bytes) -> bool:
    try:
        said = msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("done") is True


def _shown(url: str) -> str:
    """A URL for the log: its path and query may hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
