"""The report of a start: what was found in the directory, and what was done to it."""

import msgspec


class Report(msgspec.Struct):
    """The findings and the work of a start."""

    streams: int = 0
    groups: int = 0
    commits: int = 0
    torn_bytes: int = 0
    rewritten_files: int = 0
    cut_files: int = 0
    removed_files: int = 0
    set_aside: list[str] = msgspec.field(default_factory=list)
    clock_behind: int = 0
    """Milliseconds by which the clock was behind the time last recorded."""
    seconds: float = 0.0

    def __str__(self) -> str:
        parts = [
            f"{self.streams:,} streams recovered in {self.seconds:.2f} s",
            f"{self.commits:,} commits in {self.groups:,} groups replayed",
            f"{self.torn_bytes:,} bytes of a torn tail cut",
        ]
        if self.rewritten_files:
            parts.append(f"{self.rewritten_files:,} data files completed from the journal")
        if self.cut_files or self.removed_files:
            parts.append(
                f"{self.cut_files:,} data files cut and {self.removed_files:,} removed that nothing holds"
            )
        if self.clock_behind:
            parts.append(
                f"the clock is {self.clock_behind / 1000:,.1f} s behind the time last recorded; "
                "going on from there"
            )
        parts.extend(f"set aside: {each}" for each in self.set_aside)
        return "; ".join(parts)
