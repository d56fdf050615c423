"""The states, ends and parts of runs."""

from enum import StrEnum
from typing import Any, Final

import msgspec

__all__ = ["End", "Part", "RunInfo", "Status"]

MAX_ERROR: Final = 1_000
"""Characters of the sentence that says why a run failed."""


class Status(StrEnum):
    """The state of a run: running, then exactly one of the others."""

    RUNNING = "running"
    DONE = "done"
    """Its source ended."""
    FAILED = "failed"
    """Its source raised, yielded what the run cannot hold, or exceeded a limit."""
    STOPPED = "stopped"
    """Somebody stopped it."""
    INTERRUPTED = "interrupted"
    """Its worker shut down or died, or lost the stream."""


class End(msgspec.Struct, frozen=True):
    """How a run ended.

    ``error`` is a sentence for users, set only if the run failed. It is kept to
    1,000 characters, and characters that UTF-8 cannot hold become question marks.
    """

    status: Status
    error: str | None = None

    def __post_init__(self) -> None:
        if self.error is not None:
            # Streams and the registry hold it, so it must neither be refused nor fill them.
            sentence = self.error[:MAX_ERROR].encode(errors="replace").decode()
            msgspec.structs.force_setattr(self, "error", sentence)


class RunInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run as ``status`` and ``list`` describe it."""

    id: str
    """The path of its stream."""
    url: str
    """Where clients read its stream."""
    status: Status
    error: str | None = None
    """A sentence for users, if the run failed."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Some output of a run, as ``follow`` yields it."""

    items: list[Any]
    """Messages of a JSON run; of a text run at most one ``str``."""
    offset: str
    """Where to go on once this part was handled. Safe to store."""
    end: End | None = None
    """How the run ended, in the last part alone."""

    @property
    def text(self) -> str:
        """The text of this part of a text run."""
        return "".join(self.items)
