"""Request bodies that are being received."""

from collections.abc import Callable

from durable_streams_server.frontends.standalone.request_head import ReceivedHead
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.messages import Response

MAX_DRAINED = 64 * 1024
"""A body of up to this size is read to its end, though not wanted, to keep the connection."""


class Incoming:
    """A request whose body has not all come with its head."""

    __slots__ = ("_pieces", "begun", "head", "size")

    def __init__(self, head: ReceivedHead, begun: Response | Exchange) -> None:
        self.head = head
        self.begun = begun
        """The handler's response to the head, or the exchange that it began."""
        self.size = 0
        """Bytes of the body that have come."""
        self._pieces: list[bytes] = []

    @property
    def wanted(self) -> bool:
        """Whether the body will be used, as far as is known."""
        begun = self.begun
        return isinstance(begun, Exchange) and begun.takes_body and begun.verdict is None

    @property
    def limit(self) -> int:
        """How large the body may be."""
        return self.begun.max_body if self.wanted else MAX_DRAINED  # type: ignore[union-attr]

    def add(self, piece: bytes) -> None:
        """Keep a piece of the body."""
        self._pieces.append(piece)

    def take_body(self) -> bytes:
        """The whole body, which is not kept any longer."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Bodies:
    """Bounds the bytes of all bodies that are being received.

    The connection that holds most gives way, so that large bodies that come slowly cannot keep
    small ones out.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._total = 0
        self._sizes: dict[Callable[[], None], int] = {}

    @property
    def total(self) -> int:
        """Bytes that are held now."""
        return self._total

    def add(self, give_way: Callable[[], None], size: int) -> None:
        """Count bytes that a connection holds; ``give_way`` makes it release them."""
        self._sizes[give_way] = self._sizes.get(give_way, 0) + size
        self._total += size
        while self._total > self._limit:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            self.release(largest)
            largest()

    def release(self, give_way: Callable[[], None]) -> None:
        """Count them no longer; safe to call again."""
        self._total -= self._sizes.pop(give_way, 0)
