"""Plain appends that are safe to repeat: each uses a producer identity of the client."""

import secrets

from durable_streams_client import messages
from durable_streams_client._async import runtime
from durable_streams_client._async.calls import AsyncCalls
from durable_streams_client.addresses import origin_of
from durable_streams_client.errors import (
    ClientError,
    Fenced,
    NotSupported,
    SequenceGap,
    is_unapplied,
)
from durable_streams_client.identities import Identity, IdentityCache, StreamIdentities
from durable_streams_client.messages import Appended, Request
from durable_streams_client.options import Extra
from durable_streams_client.spans import Span

RESTARTS = 3


class _Identities:
    """The identities that the appends of one client use in one process and event loop."""

    def __init__(self) -> None:
        self.mutex = runtime.Mutex()
        self.cache = IdentityCache(f"py-{secrets.token_hex(8)}")
        self.freed = runtime.Notifier()


class AsyncAppends:
    """The appends of one client."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls
        # Not shared with a forked child, whose appends the server would take for repeats.
        self._identities = runtime.Local(_Identities)
        self._conditional: set[tuple[str, str | None, int]] = set()
        """The origins of servers that mind ``If-Match``."""

    async def forget(self, url: str) -> None:
        """Forget the identities of a stream that was deleted; the server has forgotten them."""
        identities = await self._identities.get()
        with identities.mutex:
            identities.cache.drop(url)

    async def append(
        self,
        url: str,
        content: bytes,
        *,
        content_type: str | None,
        close: bool,
        seq: str | None,
        expected: str | None,
        extra: Extra,
        span: Span,
    ) -> Appended:
        """Append ``content``, close the stream, or both; exactly once if ``safe_append`` is set."""
        if expected is not None:
            await self._check_conditions(url, extra, span)
        if not self._calls.options.safe_append or not content:
            request = messages.append_request(
                url, content, content_type=content_type, close=close, seq=seq, expected=expected
            )
            # Without producer headers, only closing without data is safe to repeat (§5.2).
            response = await self._calls.call(
                request, extra=extra, span=span, repeatable=not content
            )
            return messages.appended_of(url, response.head, producing=False)
        identities = await self._identities.get()
        total = self._calls.options.timeouts.total
        async with (
            runtime.Limit(total, f"Earlier appends took longer than {total} seconds."),
            self._calls.scope(),
        ):
            owner, identity = await self._take(identities, url)
        try:
            return await self._append_in(
                identity,
                url,
                content,
                content_type=content_type,
                close=close,
                seq=seq,
                expected=expected,
                extra=extra,
                span=span,
            )
        finally:
            with identities.mutex:
                owner.give_back(identity)
            identities.freed.notify()

    async def _check_conditions(self, url: str, extra: Extra, span: Span) -> None:
        """Raise ``NotSupported`` unless the server minds ``If-Match``.

        A server that does not would append all the same. So it is asked once, by a condition that
        no stream meets, on a request that changes nothing.
        """
        origin = origin_of(url)
        if origin in self._conditional:
            return
        request = Request("HEAD", url, {messages.IF_MATCH: '"no-offset"'})
        response = await self._calls.call(request, extra=extra, span=span, accept=(412,))
        if response.head.status != 412:
            raise NotSupported(
                "The server does not mind If-Match, so nothing was appended.",
                method="HEAD",
                url=url,
                status=response.head.status,
                advice="Append without `expected`, or use `seq` to keep writers apart.",
            )
        self._conditional.add(origin)

    async def _append_in(
        self,
        identity: Identity,
        url: str,
        content: bytes,
        *,
        content_type: str | None,
        close: bool,
        seq: str | None,
        expected: str | None,
        extra: Extra,
        span: Span,
    ) -> Appended:
        for restarts in range(RESTARTS + 1):
            request = messages.append_request(
                url,
                content,
                content_type=content_type,
                close=close,
                seq=seq,
                expected=expected,
                producing=identity.producing(),
            )
            known = False
            try:
                response = await self._calls.call(request, extra=extra, span=span)
                known = True
                identity.stored()
                return messages.appended_of(url, response.head, producing=True)
            except (Fenced, SequenceGap) as error:
                # The server has forgotten the identity, or the stream was created again. Either way
                # it has not stored this append.
                known = True
                identity.restart()
                if isinstance(error, Fenced) and error.epoch is not None:
                    identity.epoch = max(identity.epoch, error.epoch + 1)
                if restarts == RESTARTS:
                    raise
                span.retried(error, 0.0)
            except ClientError as error:
                known = is_unapplied(error)
                raise
            finally:
                if not known:
                    identity.restart()
        raise AssertionError("unreachable")

    @staticmethod
    async def _take(identities: _Identities, url: str) -> tuple[StreamIdentities, Identity]:
        """A free identity, and the identities to which it goes back."""
        while True:
            version = identities.freed.version
            with identities.mutex:
                owner = identities.cache.of(url)
                identity = owner.take()
            if identity is not None:
                return owner, identity
            await identities.freed.wait(version)
