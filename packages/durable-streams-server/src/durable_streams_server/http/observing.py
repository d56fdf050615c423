"""The seam through which a front end reports each request once it is finished.

A handler has one observer, or None: then nothing is measured and nothing is kept. Whatever the
observer wants to know beside the numbers it asks the caller for, so only those pay who ask.
"""

from typing import Final, Protocol

from durable_streams_server.http.exchange import Exchange

CLIENT_CLOSED_REQUEST: Final = 499
"""The status of a request whose client went away before its response; no client ever gets it."""
OTHER: Final = "other"
"""The action of what was answered before its action was known."""


class Caller(Protocol):
    """The one who sent a request, as the front end knows them."""

    @property
    def exchange(self) -> Exchange | None:
        """The request's exchange; None where it was answered before there was one."""

    @property
    def method(self) -> str:
        """The request's method; empty for bytes that made no request."""

    @property
    def target(self) -> str:
        """The path and query as they were sent; empty for bytes that made no request."""

    @property
    def peer(self) -> str:
        """The address at the other end of the connection; empty for a Unix socket."""

    def header(self, name: bytes) -> bytes | None:
        """A header of the request by its lower-case name; several are joined by commas."""


class Observer(Protocol):
    """Learns of each finished request, exactly once. It must not raise."""

    def finished(
        self,
        caller: Caller,
        status: int,
        received: int,
        sent: int,
        began: float,
    ) -> None:
        """Take note that a request is over.

        Args:
            caller: who sent it; to be asked before this returns.
            status: the status that was sent, or :data:`CLIENT_CLOSED_REQUEST`.
            received: bytes of its body.
            sent: bytes of the response's body.
            began: :func:`time.perf_counter` when its head had come.

        """


class Observers:
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def finished(self, caller: Caller, status: int, received: int, sent: int, began: float) -> None:
        """Tell each of them."""
        for observer in self._observers:
            observer.finished(caller, status, received, sent, began)
