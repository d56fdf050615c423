"""The counters of a file store. Its threads add to them too, each to its own."""

from durable_streams_core.metrics import COUNTS, SECONDS, Histogram


class FileMeter:
    """The counters of one file store, over all times that it was open."""

    __slots__ = ("checkpoints", "groups", "syncs", "written")

    def __init__(self) -> None:
        self.groups = Histogram(COUNTS)
        """The commits of each commit group."""
        self.syncs = Histogram(SECONDS)
        """How long each fsync of the journal took."""
        self.written = 0
        """Bytes of all groups written to the journal."""
        self.checkpoints = Histogram(SECONDS)
        """How long each checkpoint took, those that failed included."""
