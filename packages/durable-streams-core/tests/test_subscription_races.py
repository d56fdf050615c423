"""Leases against a model: random clocks, crashes, and workers that act on what they saw long ago.

A decision may be made on facts and committed later, when others have committed meanwhile; as in an
engine's commit queue it is then decided again. A crash forgets decisions that were not sent. The
model knows only which wake may be acted on until when, and how far each stream is done with.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_streams_core.entities import Applied, Head
from durable_streams_core.errors import ProtocolError
from durable_streams_core.offsets import NO_TIMELINE, Offset
from durable_streams_core.subscriptions.leases import Changes, Lease, decode_lease
from durable_streams_core.subscriptions.operations import (
    AckedStream,
    Claim,
    Finish,
    Step,
    Subscribe,
    Tail,
    Unsubscribe,
    WakeRef,
)
from durable_streams_core.subscriptions.records import (
    CURSOR,
    LEASE,
    BaseUrl,
    Cursor,
    decode_cursor,
    parse_config,
)

TTL = 1000
STREAMS = ("e/1", "e/2")
WISHES = {
    "webhook": {"webhook": {"url": "https://w/"}},
    "pull-wake": {"wake_stream": "w"},
}
ACTIONS = (
    "append", "append", "tick", "wake", "wake", "claim", "claim", "accept", "fail", "again",
    "expire", "drop", "finish", "finish", "finish", "finish", "finish", "delay", "land", "crash", "recreate",
)  # fmt: skip


def acked(stream: Any, position: Any, tail: Any) -> Any:
    return AckedStream(stream, Offset(NO_TIMELINE, position), Head("s", b"", tail=tail))


class World:
    """The stored subscription, the streams it is about, and what the model says of them."""

    def __init__(self, runner: Any, kind: Any, data: Any) -> None:
        self.runner = runner
        self.kind = kind
        self.draw = data.draw
        self.config = parse_config(
            {"type": kind, "pattern": "e/*", "lease_ttl_ms": TTL, **WISHES[kind]}
        )
        self.tails = dict.fromkeys(STREAMS, 0)
        self.incarnations = 0
        self.wakes = 0
        self.seen = []
        """Every wake that anybody was ever told of, as (incarnation, generation, wake id)."""
        self.delayed = []
        self.subscribe()

    def subscribe(self) -> None:
        self.incarnations += 1
        tails = [Tail(path, "s", tail) for path, tail in self.tails.items() if tail]
        self.runner.do(Subscribe(self.incarnation, self.config, BaseUrl("", "/"), tails))
        self.done = {tail.path: tail.position for tail in tails}
        self.generation = 0
        self.live = None
        """The wake that may be acted on, and until when (None: no end)."""

    @property
    def incarnation(self) -> Any:
        return f"i{self.incarnations}"

    def lease(self) -> Any:
        return decode_lease(self.runner.facts(LEASE).fields[LEASE])

    def pending(self) -> Any:
        return [path for path, tail in self.tails.items() if tail > self.done.get(path, 0)]

    def new_id(self) -> Any:
        self.wakes += 1
        return f"w{self.wakes}"

    # What anybody may try. Each gives an operation.

    def operation(self, action: Any) -> Any:
        lease = self.lease()
        if action == "wake":
            return Step(self.incarnation, "wake", changes=Changes(wake_id=self.new_id()))
        if action == "claim":
            return Claim(self.draw(st.sampled_from("ab")), self.new_id())
        if action == "finish":
            return self.finish()
        until = self.runner.now + self.draw(st.integers(1, 2 * TTL))
        wake_id = self.draw(st.sampled_from([lease.wake_id, *(s[2] for s in self.seen[-3:])]))
        return Step(self.incarnation, action, wake_id, Changes(until=until))

    def finish(self) -> Any:
        incarnation, generation, wake_id = self.draw(
            st.sampled_from(
                [*self.seen[-1:] * 4, *self.seen[-3:-1], (self.incarnation, self.generation, "w0")]
            )
        )
        acks = [
            acked(path, self.draw(st.integers(0, self.tails[path] + 1)), self.tails[path])
            for path in self.draw(st.sets(st.sampled_from(STREAMS)))
        ]
        step = self.draw(st.sampled_from(["ack", "ack", "done", "release"]))
        ref = WakeRef(incarnation, generation, generation, wake_id)
        return Finish(ref, step, acks, snapshot=self.draw(st.booleans()))

    # Committing, at once or late.

    def land(self, operation: Any, draft: Any, answer: Any) -> None:
        """Commit what was decided, deciding again until nothing came between."""
        while draft.changes and self.runner.commit(draft) != Applied(draft.tail):
            draft, (answer,) = self.runner.draft(operation)
        if not isinstance(answer, ProtocolError) and draft.changes:
            self.check(operation, answer)

    def check(self, operation: Any, lease: Any) -> None:
        """The model's opinion on a change that was committed."""
        now = self.runner.now
        if isinstance(operation, Finish):
            self.check_finish(operation, lease, now)
        if lease.generation != self.generation:
            assert lease.generation == self.generation + 1
            assert self.live is None or self.live[1] <= now
            assert isinstance(operation, Claim) or operation.step == "wake"
            self.generation = lease.generation
            self.seen.append((self.incarnation, lease.generation, lease.wake_id))
        self.live = None
        if lease.phase != "idle":
            ends = lease.phase in ("waking", "held")
            self.live = (lease.wake_id, lease.until if ends else float("inf"))
        else:
            assert (lease.wake_id, lease.holder) == ("", "")

    def check_finish(self, operation: Any, lease: Any, now: Any) -> None:
        ref = operation.ref
        assert self.live is not None
        assert (ref.incarnation, ref.generation) == (self.incarnation, self.generation)
        assert ref.wake_id == self.live[0]
        assert now < self.live[1]
        for ack in operation.acks:
            position = ack.offset.position
            moved = position <= ack.head.tail and position >= self.done.get(ack.path, 0)
            assert moved or operation.snapshot
            if moved:
                self.done[ack.path] = position

    def act(self, action: Any) -> None:
        if action == "append":
            self.tails[self.draw(st.sampled_from(STREAMS))] += self.draw(st.integers(1, 3))
        elif action == "tick":
            self.runner.now += self.draw(st.integers(0, TTL))
        elif action == "land":
            if self.delayed:
                late = self.draw(st.integers(0, len(self.delayed) - 1))
                self.land(*self.delayed.pop(late))
        elif action == "crash":
            self.delayed.clear()
        elif action == "recreate":
            if self.draw(st.integers(0, 3)) == 0:
                self.runner.do(Unsubscribe())
                self.subscribe()
        else:
            late = action == "delay"
            if late:
                action = self.draw(st.sampled_from(["wake", "claim", "fail", "expire", "finish"]))
            operation = self.operation(action)
            draft, (answer,) = self.runner.draft(operation)
            if late:
                self.delayed.append((operation, draft, answer))
            else:
                self.land(operation, draft, answer)

    def compare(self) -> None:
        lease = self.lease()
        assert self.runner.head().deadline == lease.until
        assert lease.generation == self.generation
        fields = [CURSOR + path for path in STREAMS]
        stored = self.runner.facts(*fields).fields
        for path in STREAMS:
            cursor = decode_cursor(stored[CURSOR + path]) or Cursor("s")
            assert cursor.position == self.done.get(path, 0) <= self.tails[path]

    def come_to_rest(self) -> None:
        """A driver and a worker that do their duty leave nothing pending."""
        for _ in range(10):
            lease = self.lease()
            if lease.phase == "idle":
                if not self.pending():
                    return
                self.act_as_driver(Step(self.incarnation, "wake", changes=Changes(self.new_id())))
            elif lease.expired(self.runner.now):
                self.act_as_driver(Step(self.incarnation, "expire"))
            elif lease.phase == "waiting":
                self.act_as_driver(Claim("me", self.new_id()))
            elif lease.phase == "retrying":
                self.act_as_driver(Step(self.incarnation, "again", lease.wake_id))
            elif self.seen[-1] == (self.incarnation, lease.generation, lease.wake_id):
                # This worker got the wake: it has done its work and says so.
                ref = WakeRef(self.incarnation, lease.generation, lease.generation, lease.wake_id)
                acks = [acked(p, self.tails[p], self.tails[p]) for p in self.pending()]
                self.act_as_driver(Finish(ref, "done", acks))
        pytest.fail("it never came to rest")

    def act_as_driver(self, operation: Any) -> None:
        draft, (answer,) = self.runner.draft(operation)
        self.land(operation, draft, answer)


@pytest.mark.parametrize("kind", sorted(WISHES))
@settings(max_examples=100)
@given(actions=st.lists(st.sampled_from(ACTIONS), min_size=10, max_size=50), data=st.data())
def test_no_race_and_no_crash_breaks_fencing_or_loses_work(
    new_runner: Any, kind: Any, actions: Any, data: Any
) -> None:
    world = World(new_runner("__ds/subscriptions/s"), kind, data)
    for action in actions:
        world.act(action)
        world.compare()
    for late in world.delayed:
        world.land(*late)
    world.compare()
    world.come_to_rest()
    assert not world.pending()
    assert world.lease() == Lease("idle", world.generation, attempts=world.lease().attempts)
