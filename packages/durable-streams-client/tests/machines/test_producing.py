"""The producer's machine against any order of events: nothing is lost, doubled or reordered."""

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from durable_streams_client.errors import SequenceGap, TooLarge, Unavailable
from durable_streams_client.producing import (
    FULL,
    Outgoing,
    ProducerLimits,
    ProducerMachine,
    TracedMachine,
)


class Server:
    """A server's knowledge of one producer."""

    def __init__(self, largest: int) -> None:
        self.epoch = -1
        self.last = -1
        self.largest = largest
        self.stored: list[bytes] = []
        self.closed = False

    def receive(self, batch: Outgoing, epoch: int) -> str:
        if len(batch.parts) > self.largest:
            return "large"
        if epoch > self.epoch:
            assert batch.seq == 0, "an epoch begins with 0"
            self.epoch, self.last = epoch, -1
        if batch.seq <= self.last:
            return "duplicate"
        if batch.seq > self.last + 1:
            return "gap"
        self.last = batch.seq
        assert not self.closed
        self.stored += batch.parts
        self.closed = batch.close
        return "stored"


@given(
    count=st.integers(1, 40),
    limits=st.builds(
        ProducerLimits,
        batch_items=st.integers(1, 5),
        in_flight=st.integers(1, 5),
        linger=st.just(0.0),
        queue_items=st.integers(1, 20),
    ),
    largest=st.integers(1, 5),
    close=st.booleans(),
    choose=st.data(),
)
@settings(max_examples=300, deadline=None)
def test_whatever_is_lost_and_whoever_overtakes(
    count: int, limits: ProducerLimits, largest: int, close: bool, choose: st.DataObject
) -> None:
    machine = ProducerMachine(limits, 0, False, lambda: 0.0)
    server = Server(largest)
    sending: list[tuple[Outgoing, int]] = []
    accepted = 0
    asked_to_close = False
    for _ in range(5000):
        if accepted < count and machine.add(b"%d" % accepted) is not FULL:
            accepted += 1
            continue
        if accepted == count and not asked_to_close:
            asked_to_close = True
            machine.close([b"end"]) if close else machine.flush()
        step = machine.next()
        if isinstance(step, Outgoing):
            sending.append((step, machine.epoch))
            assert len(sending) <= limits.in_flight
            continue
        if not sending:
            break
        at = choose.draw(st.integers(0, len(sending) - 1), label="which arrives")
        batch, epoch = sending[at]
        fate = choose.draw(st.sampled_from(["ok", "ok", "lost", "ignored"]), label="fate")
        if fate == "ignored":
            batch.uncertain = True
            continue  # sent again by who sent it
        outcome = server.receive(batch, epoch)
        if fate == "lost":
            batch.uncertain = outcome != "large"
            continue
        sending.pop(at)
        if outcome == "gap":
            machine.gap(batch, server.last + 1, SequenceGap("gap"))
        elif outcome == "large":
            machine.too_large(batch, TooLarge("large"))
        else:
            machine.stored(
                batch, duplicate=outcome == "duplicate", seq=server.last, epoch=epoch, offset=""
            )
    stored = server.stored
    wanted = [b"%d" % n for n in range(count)] + ([b"end"] if close else [])
    assert machine.failure is None
    assert stored == wanted
    assert machine.acknowledged == len(wanted)
    assert machine.idle
    assert server.closed == close
    assert machine.duplicates == 0


@given(fails_at=st.integers(0, 10), count=st.integers(1, 20), in_flight=st.integers(1, 3))
def test_a_failure_names_everything_that_is_not_there(
    fails_at: int, count: int, in_flight: int
) -> None:
    limits = ProducerLimits(batch_items=1, linger=0, in_flight=in_flight)
    machine = ProducerMachine(limits, 0, False, lambda: 0.0)
    for n in range(count):
        machine.add(b"%d" % n)
    stored = 0
    while isinstance(batch := machine.next(), Outgoing):
        if batch.seq == fails_at:
            machine.refused(Unavailable("no"))
        else:
            stored += 1
            machine.stored(batch, duplicate=False, seq=None, epoch=None, offset="")
    if fails_at < count:
        assert machine.failure is not None
        assert machine.failure.items == [b"%d" % n for n in range(stored, count)]
    else:
        assert stored == count


def clock_of(times: list[float]) -> Callable[[], float]:
    return lambda: times[0]


def test_linger_counts_from_the_first_item() -> None:
    times = [10.0]
    machine = ProducerMachine(ProducerLimits(linger=1.0), 0, False, clock_of(times))
    assert machine.next() is None
    machine.add(b"1")
    times[0] = 10.4
    machine.add(b"2")
    wait = machine.next()
    assert isinstance(wait, float)
    assert abs(wait - 0.6) < 1e-9
    times[0] = 11.0
    batch = machine.next()
    assert isinstance(batch, Outgoing)
    assert batch.parts == [b"1", b"2"]


def test_a_gap_below_what_was_acknowledged_is_a_loss() -> None:
    machine = ProducerMachine(ProducerLimits(batch_items=1), 0, False, lambda: 0.0)
    machine.add(b"1")
    machine.add(b"2")
    first = machine.next()
    assert isinstance(first, Outgoing)
    assert machine.next() is None, "the first of an epoch goes alone"
    machine.stored(first, duplicate=False, seq=0, epoch=0, offset="1")
    second = machine.next()
    assert isinstance(second, Outgoing)
    machine.gap(second, 0, SequenceGap("lost"))
    assert machine.failure is not None
    assert machine.failure.items == [b"2"]


@dataclass(frozen=True)
class SpanOf:
    span_id: int


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=30),
    spans=st.data(),
    limits=st.builds(
        ProducerLimits,
        batch_bytes=st.integers(1, 12),
        batch_items=st.integers(1, 5),
        queue_items=st.integers(1, 20),
    ),
)
@settings(max_examples=200, deadline=None)
def test_each_batch_knows_the_spans_of_its_items_and_no_other(
    sizes: list[int], spans: st.DataObject, limits: ProducerLimits
) -> None:
    current = SpanOf(0)
    machine = TracedMachine(limits, 0, False, lambda: 0.0, current=lambda: current)

    def store_all() -> None:
        machine.flush()
        while isinstance(batch := machine.next(), Outgoing):
            assert set(batch.parents) == {part[0] for part in batch.parts}
            machine.stored(batch, duplicate=False, seq=batch.seq, epoch=0, offset="")

    for size in sizes:
        current = SpanOf(spans.draw(st.integers(0, 3)))
        part = bytes([current.span_id]) * size
        while machine.add(part) is FULL:
            store_all()
    current = SpanOf(4)
    machine.close([b"\x04"])
    store_all()
    assert machine.closed
    assert machine.acknowledged == len(sizes) + 1
