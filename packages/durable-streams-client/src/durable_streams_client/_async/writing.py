"""Plain appends that may be repeated: each borrows a producer identity of the client's own."""

import secrets

from durable_streams_client import messages
from durable_streams_client._async import runtime
from durable_streams_client._async.calls import AsyncCalls
from durable_streams_client.errors import ClientError, Fenced, SequenceGap, is_unapplied
from durable_streams_client.lanes import Lane, LaneBook
from durable_streams_client.messages import Appended
from durable_streams_client.options import Extra

RESTARTS = 3


class AsyncAppends:
    """The appends of one client."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls
        self._mutex = runtime.Mutex()
        self._book = LaneBook(f"py-{secrets.token_hex(8)}")
        self._freed = runtime.Notifier()

    def forget(self, url: str) -> None:
        """The stream is gone, and with it what the server knew of our identities."""
        with self._mutex:
            self._book.drop(url)

    async def append(
        self,
        url: str,
        content: bytes,
        *,
        content_type: str | None,
        close: bool,
        seq: str | None,
        extra: Extra,
    ) -> Appended:
        """Append ``content``, end the stream, or both; exactly once if the client is so set."""
        if not self._calls.options.safe_append or not content:
            request = messages.append_request(
                url, content, content_type=content_type, close=close, seq=seq
            )
            # Only ending a stream without data is harmless to repeat (§5.2).
            reply = await self._calls.call(request, extra=extra, repeatable=not content)
            return messages.appended_of(url, reply.head, producing=False)
        lane = await self._take(url)
        try:
            return await self._append_in(
                lane, url, content, content_type=content_type, close=close, seq=seq, extra=extra
            )
        finally:
            with self._mutex:
                self._book.of(url).give_back(lane)
            self._freed.notify()

    async def _append_in(
        self,
        lane: Lane,
        url: str,
        content: bytes,
        *,
        content_type: str | None,
        close: bool,
        seq: str | None,
        extra: Extra,
    ) -> Appended:
        for restarts in range(RESTARTS + 1):
            request = messages.append_request(
                url,
                content,
                content_type=content_type,
                close=close,
                seq=seq,
                producing=lane.producing(),
            )
            known = False
            try:
                reply = await self._calls.call(request, extra=extra)
                known = True
                lane.stored()
                return messages.appended_of(url, reply.head, producing=True)
            except (Fenced, SequenceGap) as error:
                # The server has forgotten the lane, or the stream was made anew: nothing of this
                # append is in it.
                known = True
                lane.restart()
                if isinstance(error, Fenced) and error.epoch is not None:
                    lane.epoch = max(lane.epoch, error.epoch + 1)
                if restarts == RESTARTS:
                    raise
            except ClientError as error:
                known = is_unapplied(error)
                raise
            finally:
                if not known:
                    lane.restart()
        raise AssertionError("unreachable")

    async def _take(self, url: str) -> Lane:
        while True:
            version = self._freed.version
            with self._mutex:
                lane = self._book.of(url).take()
            if lane is not None:
                return lane
            await self._freed.wait(version)
