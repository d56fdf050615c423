"""A store as small as the contract allows, and a runner at which operations are decided on it."""

from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec
import pytest

from durable_streams_core.drafts import Draft
from durable_streams_core.entities import (
    LIVE,
    Applied,
    Change,
    Conflicted,
    Delta,
    Facts,
    Slice,
)
from durable_streams_core.errors import ProtocolError
from durable_streams_core.offsets import NO_TIMELINE, later_timeline
from durable_streams_core.operations import Unconfirmed
from durable_streams_core.store import ImmediateStore

NOW = 1_800_000_000_000


class Entity:
    def __init__(self, head: Any) -> None:
        self.head = head
        self.fields = {}
        self.data = b""


class Shelf:
    """What outlives a store, and what several share."""

    def __init__(self) -> None:
        self.entities = {}
        self.last_timeline = NO_TIMELINE
        self.results = {}
        self.watchers = []
        self.untold = []
        self.telling = False


class TinyStore(ImmediateStore):
    """Obvious rather than fast. Its steps are methods, so that tests can break each of them."""

    api = 1

    def __init__(self, shelf: Any = None) -> None:
        self.shelf = shelf or Shelf()

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def now(self) -> Any:
        return NOW

    def facts(self, entity: Any, fields: Any) -> Any:
        return Facts(
            entity.head, {key: entity.fields.get(key) for key in fields}, self.counts(entity)
        )

    def counts(self, entity: Any) -> Any:
        return Counter(key[0] for key in entity.fields)

    def peek(self, path: Any, fields: Any = ()) -> Any:
        entity = self.shelf.entities.get(path)
        return None if entity is None else self.facts(entity, fields)

    def commit_nowait(self, batch: Any) -> Any:
        outcomes = self.apply_all(batch)
        self.tell()
        return outcomes

    def append_nowait(self, path: Any, head: Any, data: Any, fields: Any) -> Any:
        entity = self.shelf.entities.get(path)
        if entity is None or entity.head is not head:
            return False
        delta = Delta(data=data, fields=fields)
        self.change(path, entity, delta)
        self.shelf.untold += self.changes(path, head, delta)
        self.tell()
        return True

    def submit_append(self, path: Any, facts: Any, data: Any, fields: Any, done: Any) -> Any:
        there = self.peek(path, tuple(facts.fields))
        if there is None or there.head is not facts.head or there.fields != facts.fields:
            done(Conflicted(there))
        else:
            self.append_nowait(path, facts.head, data, fields)
            done(Applied(facts.head.tail + len(data), facts.head.timeline))
        return True

    def apply_all(self, batch: Any) -> Any:
        return [self.apply(commit) for commit in batch]

    def tell(self) -> None:
        shelf = self.shelf
        if not shelf.telling:
            shelf.telling = True
            while shelf.untold:
                changes, shelf.untold = shelf.untold, []
                for watcher in [*shelf.watchers]:
                    watcher(changes)
            shelf.telling = False

    def apply(self, commit: Any) -> Any:
        known = self.recall(commit)
        if known is not None:
            return known
        entity = self.shelf.entities.get(commit.path)
        if not self.meets(entity, commit.guard):
            return self.conflict(entity, commit)
        before = entity and entity.head
        applied = self.change(commit.path, entity, commit.delta)
        self.shelf.untold += self.changes(commit.path, before, commit.delta)
        self.shelf.results[commit.id] = applied
        return applied

    def recall(self, commit: Any) -> Any:
        return self.shelf.results.get(commit.id)

    def conflict(self, entity: Any, commit: Any) -> Any:
        if entity is None:
            return Conflicted(None)
        return Conflicted(self.facts(entity, [*commit.guard.fields, *commit.delta.fields]))

    def meets(self, entity: Any, guard: Any) -> Any:
        if entity is None or guard.incarnation is None:
            return entity is None and guard.incarnation is None
        head = entity.head
        return (
            guard.incarnation == head.incarnation
            and guard.state in (None, head.state)
            and not (guard.open and head.closed)
            and guard.tail in (None, head.tail)
            and guard.deadline in (None, head.deadline)
            and all(entity.fields.get(key) == value for key, value in guard.fields.items())
            and not any(key[0] in guard.none_of for key in entity.fields)
        )

    def change(self, path: Any, entity: Any, delta: Any) -> Any:
        if delta.remove:
            del self.shelf.entities[path]
        if delta.create is not None:
            head = delta.create
            if delta.timeline is not None:
                timeline = later_timeline(delta.timeline, self.shelf.last_timeline)
                head = msgspec.structs.replace(head, timeline=timeline)
            self.shelf.last_timeline = max(self.shelf.last_timeline, head.timeline)
            entity = self.shelf.entities[path] = Entity(head)
        elif delta.remove:
            return Applied(0)
        entity.data += delta.data
        entity.head = entity.head.apply(delta)
        for key, value in delta.fields.items():
            entity.fields[key] = value
            if value is None:
                del entity.fields[key]
        return Applied(entity.head.tail, entity.head.tail_timeline)

    def changes(self, path: Any, before: Any, delta: Any) -> Iterator[Any]:
        if delta.remove:
            timeline = before.tail_timeline
            yield Change(
                path, before.incarnation, before.tail, before.closed, True, timeline=timeline
            )
        entity = self.shelf.entities.get(path)
        if entity is not None:
            head = entity.head
            data = delta.data if len(delta.data) <= 1024 else None
            gone, timeline = head.state != LIVE, head.tail_timeline
            yield Change(path, head.incarnation, head.tail, head.closed, gone, data, timeline)

    def slice(self, path: Any, incarnation: Any, start: Any, limit: Any) -> Any:
        entity = self.shelf.entities.get(path)
        if entity is None or entity.head.incarnation != incarnation:
            return None
        begin = start - entity.head.start
        return Slice(entity.head, entity.data[begin : begin + limit])

    async def scan(self, path: Any, incarnation: Any, kind: Any, after: Any, limit: Any) -> Any:
        entity = self.shelf.entities.get(path)
        if entity is None or entity.head.incarnation != incarnation:
            return []
        rows = sorted(entity.fields.items())
        return [(key, value) for key, value in rows if key[0] == kind and key > after][:limit]

    async def list(self, prefix: Any, after: Any, limit: Any) -> Any:
        rows = sorted(self.shelf.entities.items())
        found = [(path, e.head) for path, e in rows if path.startswith(prefix) and path > after]
        return found[:limit]

    async def due(self, before: Any, limit: Any) -> Any:
        entities = self.shelf.entities.items()
        rows = sorted((e.head.deadline, path) for path, e in entities if e.head.deadline)
        return [path for deadline, path in rows if deadline <= before][:limit]

    def watch(self, watcher: Any) -> Any:
        watchers = self.shelf.watchers
        watchers.append(watcher)

        def stop() -> None:
            if watcher in watchers:
                watchers.remove(watcher)

        return stop


class Runner:
    """Decides operations on a tiny store, several in one draft if they come together.

    ``now`` stands still unless it is moved.
    """

    def __init__(self, path: Any = "path") -> None:
        self.store = TinyStore()
        self.path = path
        self.now = NOW
        self._ids = count()

    def new_id(self) -> Any:
        return str(next(self._ids))

    def draft(self, *operations: Any, path: Any = None) -> Any:
        """A draft of these operations, and what they answered or raised."""
        fields = [key for operation in operations for key in operation.fields]
        path = path or self.path
        draft = Draft(path, self.store.peek(path, fields))
        return draft, [self.answer(operation, draft) for operation in operations]

    def answer(self, operation: Any, draft: Any) -> Any:
        try:
            return operation.decide(draft, self.now)
        except (ProtocolError, Unconfirmed) as error:
            return error

    def commit(self, draft: Any) -> Any:
        """The outcome of a draft's commit, None if it changes nothing."""
        if not draft.changes:
            return None
        outcomes = []
        self.store.submit([draft.commit(self.new_id)], outcomes.extend)
        return outcomes[0]

    def do(self, *operations: Any, path: Any = None) -> Any:
        """The answers of operations that are decided in one draft and committed."""
        draft, answers = self.draft(*operations, path=path)
        outcome = self.commit(draft)
        if outcome is not None:
            assert outcome.tail == draft.tail
            answers = [moved_to(outcome.timeline, draft, answer) for answer in answers]
        return answers[0] if len(answers) == 1 else answers

    def facts(self, *fields: Any, path: Any = None) -> Any:
        return self.store.peek(path or self.path, fields)

    def head(self, path: Any = None) -> Any:
        facts = self.facts(path=path)
        return None if facts is None else facts.head

    def data(self, path: Any = None) -> Any:
        head = self.head(path)
        return self.store.slice(path or self.path, head.incarnation, head.start, 1 << 30).data


def moved_to(timeline: Any, draft: Any, answer: Any) -> Any:
    """An answer on the timeline that the store chose."""
    if getattr(answer, "timeline", None) == draft.timeline:
        return msgspec.structs.replace(answer, timeline=timeline)
    return answer


@pytest.fixture
def tiny_store() -> Any:
    return TinyStore


@pytest.fixture
def runner() -> Any:
    return Runner()


@pytest.fixture
def new_runner() -> Any:
    return Runner
