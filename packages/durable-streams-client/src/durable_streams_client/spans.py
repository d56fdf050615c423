"""The span of a call, as the parts of the client use it.

``Span`` records nothing: it is that of a client without tracing. ``tracing`` has the other kind.
"""

from types import TracebackType
from typing import Final, Self

from durable_streams_client.errors import ClientError


class Span:
    """The span of one call: a block in which the call sends its requests.

    Leaving the block ends it. An exception that leaves the block is why the call failed.
    """

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def end(self) -> None:
        """End it before its block does."""

    def failed(self, error: BaseException) -> None:
        """End it because of ``error``."""

    def carried(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The header fields of a request of the call, with those that name the span."""
        return headers

    def responded(self, status: int) -> None:
        """Note the status of a response."""

    def retried(self, error: ClientError, delay: float) -> None:
        """Note that a request failed and is sent again after ``delay`` seconds."""


UNTRACED: Final = Span()
