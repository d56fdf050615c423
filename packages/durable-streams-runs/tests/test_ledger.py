"""The ledger folds the records of the registry."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_runs import ledger as ledger_module
from durable_streams_runs.ledger import MISSED_BEATS, Ledger
from durable_streams_runs.records import (
    Beat,
    Drop,
    Ended,
    Forget,
    Join,
    Leave,
    Record,
    Start,
    Sync,
    Take,
    decode_records,
    encode_record,
)
from durable_streams_runs.states import Status


def folded(*records: Record) -> Ledger:
    ledger = Ledger()
    for record in records:
        ledger.apply(record)
    return ledger


def joined(*workers: str) -> list[Record]:
    return [Join(w=worker, n=1, process=worker) for worker in workers]


def test_the_first_start_of_an_id_owns_it() -> None:
    ledger = folded(*joined("v", "w"))
    assert ledger.apply(Start(w="w", n=2, id="a", format="text"))
    assert not ledger.apply(Start(w="v", n=2, id="a", format="text"))
    assert ledger.entries["a"].worker == "w"


def test_a_record_that_comes_twice_counts_once() -> None:
    ledger = folded(*joined("w"))
    start = Start(w="w", n=2, id="a", format="text")
    assert ledger.apply(start)
    assert ledger.apply(Ended(w="w", n=3, id="a", number=1, status=Status.DONE))
    assert not ledger.apply(start)
    assert not ledger.entries


def test_a_take_moves_the_runs_and_silences_the_dead() -> None:
    ledger = folded(*joined("v", "w"), Start(w="w", n=2, id="a", format="text"))
    assert ledger.apply(Take(w="v", n=2, worker="w"))
    assert (ledger.entries["a"].worker, ledger.entries["a"].owners) == ("v", 1)
    assert not ledger.apply(Ended(w="w", n=3, id="a", number=1, status=Status.DONE))
    assert not ledger.apply(Take(w="w", n=4, worker="v"))


def test_a_worker_is_dead_to_those_whose_beats_it_let_pass() -> None:
    ledger = folded(*joined("v", "w"))
    for n in range(MISSED_BEATS):
        assert not ledger.silent("v")
        ledger.apply(Beat(w="v", n=n + 2))
    assert ledger.silent("v") == ["w"]
    assert not ledger.silent("w")
    ledger.apply(Beat(w="w", n=2))
    assert not ledger.silent("v")


def test_arguments_of_running_runs_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "MAX_ARGS_BYTES", 9)
    ledger = folded(*joined("w"))

    def start(n: int) -> Start:
        return Start(w="w", n=n, id=str(n), format="text", task="t", args={"x": 123})

    assert [ledger.apply(start(n)) for n in (2, 3)] == [True, False]
    ledger.apply(Ended(w="w", n=4, id="2", number=1, status=Status.DONE))
    assert ledger.apply(start(5))


def test_a_worker_that_leaves_without_runs_is_forgotten_and_one_with_runs_is_not() -> None:
    ledger = folded(*joined("v", "w"), Start(w="w", n=2, id="a", format="text"))
    ledger.apply(Leave(w="v", n=2))
    ledger.apply(Leave(w="w", n=3))
    assert {member.worker: member.left for member in ledger.members.values()} == {"w": True}


def test_an_ended_run_is_forgotten_and_a_running_one_is_not() -> None:
    ledger = folded(*joined("w"), Start(w="w", n=2, id="a", format="text"))
    assert not ledger.apply(Forget(w="w", n=3, id="a"))
    ledger.apply(Ended(w="w", n=4, id="a", number=1, status=Status.DONE))
    assert ledger.apply(Forget(w="w", n=5, id="a"))
    assert ledger.apply(Start(w="w", n=6, id="a", format="text"))


def test_a_late_end_of_an_earlier_run_leaves_the_new_one_of_its_id_running() -> None:
    ledger = folded(*joined("v", "w"), Start(w="w", n=2, id="a", format="text"))
    ledger.apply(Ended(w="v", n=2, id="a", number=1, status=Status.STOPPED))
    ledger.apply(Forget(w="v", n=3, id="a"))
    assert ledger.apply(Start(w="v", n=4, id="a", format="text"))
    assert not ledger.apply(Ended(w="w", n=3, id="a", number=1, status=Status.STOPPED))
    assert ledger.is_running("a", 2)
    assert not ledger.apply(Drop(w="v", n=5, id="a", number=1))
    assert ledger.apply(Ended(w="w", n=4, id="a", number=2, status=Status.DONE))


KINDS = [Join, Beat, Sync, Leave, Start, Ended, Drop, Forget, Take]
STEP = st.tuples(
    st.sampled_from(KINDS),
    st.sampled_from("uvw"),
    st.sampled_from("abc"),
    st.sampled_from("uvw"),
    st.integers(1, 4),
    st.booleans(),
)


def history_of(steps: list[Any]) -> list[Record]:
    """Records as workers number them, some of them twice."""
    made: list[Record] = []
    numbers = dict.fromkeys("uvw", 0)
    for kind, worker, run_id, other, number, twice in steps:
        numbers[worker] += 1
        more: dict[Any, dict[str, Any]] = {
            Join: {"process": worker, "local": True},
            Start: {"id": run_id, "format": "text", "task": "t", "args": {"x": 1}},
            Ended: {"id": run_id, "number": number, "status": Status.FAILED, "error": "e"},
            Drop: {"id": run_id, "number": number},
            Forget: {"id": run_id},
            Take: {"worker": other},
        }
        made += [kind(w=worker, n=numbers[worker], **more.get(kind, {}))] * (1 + twice)
    return made


HISTORIES = st.lists(STEP, max_size=40).map(history_of)


def state(ledger: Ledger) -> Any:
    return (ledger.members, ledger.entries, ledger.ended, ledger.args_bytes, ledger.started)


@given(HISTORIES, st.integers(0, 80))
def test_a_snapshot_continues_as_the_records_before_it_would(
    history: list[Record], cut: int
) -> None:
    before, after = history[:cut], history[cut:]
    snapshot = encode_record(folded(*before).snapshot())
    fresh = folded(*decode_records(b"[" + snapshot + b"]"), *after)
    assert state(fresh) == state(folded(*history))


@given(HISTORIES)
def test_every_running_run_has_a_worker_that_is_known(history: list[Record]) -> None:
    ledger = Ledger()
    for record in history:
        ledger.apply(record)
        assert {entry.worker for entry in ledger.entries.values()} <= {*ledger.members}
        assert not {*ledger.entries} & {*ledger.ended}
        assert all(entry.epoch % 2 == 0 for entry in ledger.entries.values())
