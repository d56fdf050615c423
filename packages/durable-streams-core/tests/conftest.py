"""A store as small as the contract allows, and a runner at which operations are decided on it."""

from collections import Counter
from itertools import count

import msgspec
import pytest
from hypothesis import HealthCheck, settings

from durable_streams_core.drafts import Draft
from durable_streams_core.entities import (
    LIVE,
    Applied,
    Change,
    Conflicted,
    Facts,
    Slice,
)
from durable_streams_core.errors import ProtocolError
from durable_streams_core.offsets import NO_TIMELINE, later_timeline
from durable_streams_core.operations import Unconfirmed
from durable_streams_core.store import PromptStore

settings.register_profile(
    "core",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("core")

NOW = 1_800_000_000_000


class Entity:
    def __init__(self, head):
        self.head = head
        self.fields = {}
        self.data = b""


class Shelf:
    """What outlives a store, and what several share."""

    def __init__(self):
        self.entities = {}
        self.last_timeline = NO_TIMELINE
        self.results = {}
        self.watchers = []
        self.untold = []
        self.telling = False


class TinyStore(PromptStore):
    """Obvious rather than fast. Its steps are methods, so that tests can break each of them."""

    api = 1

    def __init__(self, shelf=None):
        self.shelf = shelf or Shelf()

    async def open(self):
        pass

    async def close(self):
        pass

    def now(self):
        return NOW

    def facts(self, entity, fields):
        return Facts(
            entity.head, {key: entity.fields.get(key) for key in fields}, self.counts(entity)
        )

    def counts(self, entity):
        return Counter(key[0] for key in entity.fields)

    def peek(self, path, fields=()):
        entity = self.shelf.entities.get(path)
        return None if entity is None else self.facts(entity, fields)

    def commit_nowait(self, batch):
        outcomes = self.apply_all(batch)
        self.tell()
        return outcomes

    def apply_all(self, batch):
        return [self.apply(commit) for commit in batch]

    def tell(self):
        shelf = self.shelf
        if not shelf.telling:
            shelf.telling = True
            while shelf.untold:
                changes, shelf.untold = shelf.untold, []
                for watcher in [*shelf.watchers]:
                    watcher(changes)
            shelf.telling = False

    def apply(self, commit):
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

    def recall(self, commit):
        return self.shelf.results.get(commit.id)

    def conflict(self, entity, commit):
        if entity is None:
            return Conflicted(None)
        return Conflicted(self.facts(entity, [*commit.guard.fields, *commit.delta.fields]))

    def meets(self, entity, guard):
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

    def change(self, path, entity, delta):
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

    def changes(self, path, before, delta):
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

    def slice(self, path, incarnation, start, limit):
        entity = self.shelf.entities.get(path)
        if entity is None or entity.head.incarnation != incarnation:
            return None
        begin = start - entity.head.start
        return Slice(entity.head, entity.data[begin : begin + limit])

    async def scan(self, path, incarnation, kind, after, limit):
        entity = self.shelf.entities.get(path)
        if entity is None or entity.head.incarnation != incarnation:
            return []
        rows = sorted(entity.fields.items())
        return [(key, value) for key, value in rows if key[0] == kind and key > after][:limit]

    async def list(self, prefix, after, limit):
        rows = sorted(self.shelf.entities.items())
        found = [(path, e.head) for path, e in rows if path.startswith(prefix) and path > after]
        return found[:limit]

    async def due(self, before, limit):
        entities = self.shelf.entities.items()
        rows = sorted((e.head.deadline, path) for path, e in entities if e.head.deadline)
        return [path for deadline, path in rows if deadline <= before][:limit]

    def watch(self, watcher):
        watchers = self.shelf.watchers
        watchers.append(watcher)

        def stop():
            if watcher in watchers:
                watchers.remove(watcher)

        return stop


class Runner:
    """Decides operations on a tiny store, several in one draft if they come together.

    ``now`` stands still unless it is moved.
    """

    def __init__(self, path="path"):
        self.store = TinyStore()
        self.path = path
        self.now = NOW
        self._ids = count()

    def new_id(self):
        return str(next(self._ids))

    def draft(self, *operations, path=None):
        """A draft of these operations, and what they answered or raised."""
        fields = [key for operation in operations for key in operation.fields]
        path = path or self.path
        draft = Draft(path, self.store.peek(path, fields))
        return draft, [self.answer(operation, draft) for operation in operations]

    def answer(self, operation, draft):
        try:
            return operation.decide(draft, self.now)
        except (ProtocolError, Unconfirmed) as error:
            return error

    def commit(self, draft):
        """The outcome of a draft's commit, None if it changes nothing."""
        if not draft.changes:
            return None
        outcomes = []
        self.store.submit([draft.commit(self.new_id)], outcomes.extend)
        return outcomes[0]

    def do(self, *operations, path=None):
        """The answers of operations that are decided in one draft and committed."""
        draft, answers = self.draft(*operations, path=path)
        outcome = self.commit(draft)
        if outcome is not None:
            assert outcome.tail == draft.tail
            answers = [moved_to(outcome.timeline, draft, answer) for answer in answers]
        return answers[0] if len(answers) == 1 else answers

    def facts(self, *fields, path=None):
        return self.store.peek(path or self.path, fields)

    def head(self, path=None):
        facts = self.facts(path=path)
        return None if facts is None else facts.head

    def data(self, path=None):
        head = self.head(path)
        return self.store.slice(path or self.path, head.incarnation, head.start, 1 << 30).data


def moved_to(timeline, draft, answer):
    """An answer on the timeline that the store chose."""
    if getattr(answer, "timeline", None) == draft.timeline:
        return msgspec.structs.replace(answer, timeline=timeline)
    return answer


@pytest.fixture
def tiny_store():
    return TinyStore


@pytest.fixture
def runner():
    return Runner()


@pytest.fixture
def new_runner():
    return Runner
