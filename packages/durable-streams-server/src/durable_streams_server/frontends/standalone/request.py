"""A request whose head is complete."""

from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.messages import RequestHead, Response


class Request:
    """What it began, and what has come of its body."""

    __slots__ = (
        "begun", "bodiless", "chunks", "direct", "due", "expects", "head", "keep_alive", "length",
        "limit", "old", "size",
    )  # fmt: skip

    def __init__(self, begun: Response | Exchange, *, keep_alive: bool = True) -> None:
        self.begun = begun
        self.keep_alive = keep_alive
        self.head: RequestHead | None = begun.head if isinstance(begun, Exchange) else None
        self.old = self.bodiless = self.expects = False
        self.direct = False
        """The rest of the body goes past the parser: it is long, or its head was not parsed."""
        self.due = False
        """Something is to be said before the body is read, once it is this request's turn."""
        self.chunks: list[bytes] = []
        self.length = self.size = self.limit = 0

    @property
    def body(self) -> bytes:
        chunks = self.chunks
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    @property
    def wants_body(self) -> bool:
        """Whether its body will be used, as far as is known."""
        begun = self.begun
        return isinstance(begun, Exchange) and begun.takes_body and begun.verdict is None

    @property
    def is_live_read(self) -> bool:
        head = self.head
        return head is not None and head.method == "GET" and "live=" in head.query
