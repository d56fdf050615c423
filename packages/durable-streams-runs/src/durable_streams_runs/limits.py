"""The bounds of runs."""

import msgspec

__all__ = ["Limits"]

MIB = 1024 * 1024


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds with safe defaults. Sizes are bytes of encoded output, times seconds."""

    running: int = 10_000
    """Runs of one worker at a time. Beyond it, ``start`` raises ``RunsUnavailable``, and runs of
    dead workers that could be restarted end as interrupted."""
    run_bytes: int = 64 * MIB
    """Output of one run; it fails beyond it."""
    item_bytes: int = 8 * MIB
    """One item of a source; the run fails beyond it."""
    gather: float = 0.02
    """How long output is gathered into one append. The first after a pause is sent at once."""
    gather_bytes: int = 64 * 1024
    """Gathered output of this size is sent at once."""
    pending_bytes: int = 1 * MIB
    """The source waits while this much output is not stored yet."""
    restarts: int = 3
    """How often a run is restarted; it ends as interrupted when its worker dies once more."""
    args_bytes: int = 16 * 1024
    """Arguments of a task, as JSON: every process keeps those of all running runs."""
    patience: float = 5.0
    """How long a source may take to end after it was cancelled. After that it is left alone, and
    writes nothing."""
