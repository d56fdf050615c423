"""Store time goes on at its own pace, whatever is done to the machine's clock."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_core.entities import Commit, Delta, Guard, Head
from durable_streams_server.stores.clock import Clock
from durable_streams_server.stores.file import FileStore
from durable_streams_server.stores.memory import MemoryStore

HOUR = 3_600_000


class Machine:
    """A machine whose wall clock can be set."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000_000
        self.uptime = 50.0

    def pass_time(self, milliseconds: int) -> None:
        self.wall += milliseconds
        self.uptime += milliseconds / 1000

    def clock(self, floor: int = 0) -> Clock:
        return Clock(floor, lambda: self.wall, lambda: self.uptime)

    def store(self, path: Path) -> FileStore:
        return FileStore(path, clock=lambda: self.wall, monotonic=lambda: self.uptime)


def test_time_goes_on_at_its_own_pace_when_the_wall_clock_is_set_back() -> None:
    machine = Machine()
    clock = machine.clock()
    before = clock.now()
    machine.wall -= HOUR
    assert clock.now() == before
    machine.pass_time(6000)
    assert clock.now() == before + 6000
    assert clock.ahead == HOUR


def test_time_follows_the_wall_clock_forward() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall += HOUR
    assert clock.now() == machine.wall


def test_time_follows_the_wall_clock_again_when_that_has_caught_up() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall -= HOUR
    machine.pass_time(1000)
    machine.wall += 2 * HOUR
    assert clock.now() == machine.wall
    machine.pass_time(1000)
    assert clock.now() == machine.wall


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(-2 * HOUR, 2 * HOUR)), min_size=1),
    st.integers(-HOUR, HOUR),
)
def test_time_never_goes_back_and_never_slower_than_it_passes(
    steps: list[tuple[int, int]], floor_ahead: int
) -> None:
    machine = Machine()
    clock = machine.clock(machine.wall + floor_ahead)
    last = clock.now()
    assert last >= machine.wall + min(0, floor_ahead)
    for passed, wall_set_by in steps:
        machine.pass_time(passed)
        machine.wall += wall_set_by
        now = clock.now()
        # Milliseconds from a float of seconds: one may be lost to rounding at each step forward.
        assert now >= last + passed - 1
        assert now >= machine.wall
        last = now


async def test_the_time_of_a_store_goes_on_over_restarts_when_the_wall_clock_is_set_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine()
    store = machine.store(tmp_path)
    await store.open()
    await store.commit([Commit("c", "a", Guard(None), Delta(create=Head("i", b"")))])
    machine.pass_time(1000)
    before = store.now()
    machine.wall -= HOUR
    await store.close()
    for _ in range(3):
        store = machine.store(tmp_path)
        with caplog.at_level(logging.WARNING):
            await store.open()
        assert store.now() == before
        assert "the clock is 3,600.0 s behind the time last recorded" in caplog.text
        machine.uptime += 5
        before += 5000
        machine.wall += 5000
        assert store.now() == before
        # Nothing is written, and yet the next start knows.
        await store.close()


def test_the_time_of_a_memory_store_does_not_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setattr("time.time_ns", lambda: machine.wall * 1_000_000)
    store = MemoryStore()
    before = store.now()
    machine.wall -= HOUR
    assert before <= store.now() < before + HOUR
