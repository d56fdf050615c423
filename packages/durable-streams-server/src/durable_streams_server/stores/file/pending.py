"""Changes on their way to the journal: what was handed in, and what came of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from durable_streams_core.entities import Applied, Change, Commit, Facts, Outcome, Unknown
from durable_streams_server.stores.file.records import Entry
from durable_streams_server.stores.file.write_behind import Stored
from durable_streams_server.stores.table import appended

OPEN: Final = Unknown("The group is not written yet.")


class PendingCommits(msgspec.Struct, eq=False, gc=False):
    """Commits as they were handed in; ``done`` hears all their outcomes at once."""

    commits: Sequence[Commit]
    done: Callable[[Sequence[Outcome]], None]
    outcomes: list[Outcome] = []

    def end_as(self, outcome: Outcome) -> None:
        """Give every commit this outcome."""
        self.outcomes = [outcome] * len(self.commits)

    def tell(self) -> None:
        """Call back with the outcomes."""
        self.done(self.outcomes)


class PendingAppend(msgspec.Struct, eq=False, gc=False):
    """An append that rests on facts, and is the only change of its group to its path.

    It is small enough to stand in its entry. It has no id, because nobody sends it again.
    """

    path: str
    facts: Facts
    data: bytes
    fields: Mapping[str, bytes | None]
    done: Callable[[Outcome], None]
    outcome: Outcome = OPEN

    def holds(self, entity: Stored | None) -> bool:
        """Whether the entity is still as the facts say."""
        facts = self.facts
        if entity is None or entity.head is not facts.head:
            return False
        known = facts.fields
        return not known or entity.facts(tuple(known)).fields == known

    def entry(self, number: int) -> Entry:
        """The journal's record of it."""
        position, fields = self.facts.head.tail, self.fields
        if fields:
            return (number, "", position, self.data, fields)
        return (number, "", position, self.data)

    def apply_to(self, entity: Stored) -> Change:
        """Change the entity, but for its bytes; returns the notification."""
        head = entity.head.grown(len(self.data))
        entity.head = head
        if self.fields:
            entity.set_fields(self.fields)
        self.outcome = Applied(head.tail, head.timeline)
        return appended(self.path, head, self.data)

    def end_as(self, outcome: Outcome) -> None:
        """Give it this outcome."""
        self.outcome = outcome

    def tell(self) -> None:
        """Call back with the outcome."""
        self.done(self.outcome)


AnyPending = PendingCommits | PendingAppend
