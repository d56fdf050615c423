"""One connection that redis-py has opened, used for pipelines: all commands go out in one write,
and all replies come back to one call that waits.

redis-py reads each reply through several calls that wait, which costs more than all the rest of a
small command. It still connects: addresses, TLS and credentials are its own.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import hiredis
from redis._parsers import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

_NOT_YET: Final = object()


class Wire(asyncio.Protocol):
    """Sends one pipeline at a time on a connection, which nobody else uses from now on."""

    def __init__(self, connection: AbstractConnection) -> None:
        writer = connection._writer  # noqa: SLF001 - it has no public way
        if writer is None:
            raise RedisConnectionError("Connection closed.")
        self.connection = connection
        self.usable = True
        """Whether another pipeline may be sent."""
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=self._error, notEnoughData=_NOT_YET
        )
        self._replies: list[Any] = []
        self._wanted = 0
        self._waiting: asyncio.Future[None] | None = None
        self._transport = writer.transport
        self._transport.set_protocol(self)

    async def ask(self, commands: Sequence[bytes], replies: list[Any]) -> None:
        """Send commands, and add each reply as it comes, errors as values.

        Raises :class:`redis.exceptions.ConnectionError` or :class:`InvalidResponse` if the
        connection ends before the last one.
        """
        if not self.usable:
            raise RedisConnectionError("Connection closed.")
        waiting = asyncio.get_running_loop().create_future()
        self._replies, self._wanted, self._waiting = replies, len(commands), waiting
        try:
            self._transport.write(b"".join(commands))
            await waiting
        except BaseException:
            # Whatever comes now belongs to a call that nobody waits for.
            self.usable = False
            raise
        finally:
            self._replies, self._wanted, self._waiting = [], 0, None

    def expire(self) -> None:
        """Stop waiting: what comes then belongs to a call that nobody waits for.

        Nothing is late where the last reply has just been read, by a loop that was busy until now.
        """
        if self._waiting is not None and not self._waiting.done():
            self._end(TimeoutError("no reply in time"))

    def data_received(self, data: bytes) -> None:
        reader, replies, wanted = self._reader, self._replies, self._wanted
        try:
            reader.feed(data)
            while len(replies) < wanted:
                reply = reader.gets(False)
                if reply is _NOT_YET:
                    return
                replies.append(reply)
        except Exception as error:
            # What answers is not Redis.
            self._end(error)
            return
        if reader.has_data():
            # It said something unasked.
            self.usable = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(RedisConnectionError(str(error) if error else "Connection closed by server."))

    def _end(self, error: Exception) -> None:
        self.usable = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    def _error(self, text: str) -> Exception:
        error: Exception = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]
        if isinstance(error, RedisConnectionError):
            # Such as missing credentials: another connection may be let in.
            self.usable = False
        return error
