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


class _Lanes:
    """The identities that the appends of one client use in one process and event loop."""

    def __init__(self) -> None:
        self.mutex = runtime.Mutex()
        self.book = LaneBook(f"py-{secrets.token_hex(8)}")
        self.freed = runtime.Notifier()


class AsyncAppends:
    """The appends of one client."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls
        # Not shared with a forked child: the server would take the child's appends for repeats.
        self._lanes = runtime.Local(_Lanes)

    async def forget(self, url: str) -> None:
        """The stream is gone, and with it what the server knew of our identities."""
        lanes = await self._lanes.get()
        with lanes.mutex:
            lanes.book.drop(url)

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
        lanes = await self._lanes.get()
        total = self._calls.options.timeouts.total
        async with (
            runtime.Limit(total, f"Earlier appends took longer than {total} seconds."),
            runtime.Scope(self._calls.transport.scopes),
        ):
            lane = await self._take(lanes, url)
        try:
            return await self._append_in(
                lane, url, content, content_type=content_type, close=close, seq=seq, extra=extra
            )
        finally:
            with lanes.mutex:
                lanes.book.of(url).give_back(lane)
            lanes.freed.notify()

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

    @staticmethod
    async def _take(lanes: _Lanes, url: str) -> Lane:
        while True:
            version = lanes.freed.version
            with lanes.mutex:
                lane = lanes.book.of(url).take()
            if lane is not None:
                return lane
            await lanes.freed.wait(version)
