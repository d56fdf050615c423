"""A store on a small volume, through full disks, kills and losses of power: it always opens, keeps
what it acknowledged, can always be emptied, and takes no more room than it has to.
"""

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from faulty_disk import PowerLoss
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from inline_worker import InlineWorker
from small_volume import BLOCK, SmallVolume

from durable_streams_core.entities import Applied, Commit, Delta, Guard, Head, Outcome, Refused
from durable_streams_server.stores.file import FileStore
from durable_streams_server.stores.file.errors import DISK_FULL

MIB = 1024 * 1024
CAPACITY = 16 * MIB
MARGIN = 10 * MIB
"""Beside the streams' bytes and the journal: a segment filled ahead, the reserve, two snapshots."""

Result = TypeVar("Result")


class SmallVolumeMachine(RuleBasedStateMachine):
    """``kept`` is what each stream must hold."""

    save_bytes = 256 * 1024

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()

    @initialize(seed=st.integers(0, 2**32), checkpoint=st.sampled_from([MIB, 64 * MIB]))
    def begin(self, seed: int, checkpoint: int) -> None:
        self.rng = random.Random(seed)
        self.checkpoint_bytes = checkpoint
        self.disk = SmallVolume(self.rng, CAPACITY)
        self.disk.on_death = self.stop_workers
        self.workers: list[InlineWorker] = []
        self.death = asyncio.Event()
        self.kept: dict[str, bytes] = {}
        self.births: dict[str, int] = {}
        self.ids = 0
        self.start()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.disk.crash_in = None
            self.run(self.store.close())
        self.loop.close()

    # Running.

    def run(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """The outcome, None if the machine stopped before that."""
        return self.loop.run_until_complete(self.unless_dead(work))

    async def unless_dead(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        task = asyncio.ensure_future(work)
        death = asyncio.ensure_future(self.death.wait())
        await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
        for each in task, death:
            if not each.done():
                each.cancel()
        if not self.death.is_set():
            return task.result()
        with contextlib.suppress(asyncio.CancelledError, PowerLoss):
            await task
        return None

    async def until_idle(self) -> None:
        """Let a checkpoint that is under way end."""
        turns = 0
        while turns < 20:
            turns = turns + 1 if all(worker.idle for worker in self.workers) else 0
            await asyncio.sleep(0)

    def worker(self, _: str) -> InlineWorker:
        self.workers.append(InlineWorker(self.rng))
        return self.workers[-1]

    def stop_workers(self) -> None:
        self.death.set()
        for worker in self.workers:
            worker.dead = True

    def start(self, crash_in: int | None = None) -> None:
        """Open the store; where the machine stops meanwhile, again."""
        while True:
            self.death.clear()
            self.workers = []
            self.store = FileStore(
                "simulated",
                segment_bytes=256 * 1024,
                checkpoint_bytes=self.checkpoint_bytes,
                save_bytes=self.save_bytes,
                disk=self.disk,
                worker=self.worker,
                clock=lambda: 1_000_000_000_000,
                monotonic=lambda: 0.0,
                draw=self.rng.randbytes,
            )
            self.disk.crash_in = crash_in
            self.run(self.store.open())
            self.disk.crash_in = crash_in = None
            if not self.death.is_set():
                return
            self.disk.restart()

    def commit(self, path: str, guard: str | None, delta: Delta) -> Outcome | None:
        self.ids += 1
        commit = Commit(f"c{self.ids}", path, Guard(guard), delta)
        outcomes = self.run(self.store.commit([commit]))
        return None if outcomes is None else outcomes[0]

    def incarnation(self, path: str) -> str:
        return f"{path}-{self.births[path]}"

    def change(self, path: str, after: bytes | None, guard: str | None, delta: Delta) -> bool:
        """Commit; then what the stream must hold is known, whatever came of it. Whether it was
        applied.
        """
        outcome = self.commit(path, guard, delta)
        if outcome is None:
            # It was under way when the machine stopped: it is there as a whole or not at all.
            before = self.kept.get(path)
            self.start_again(power=False)
            there = self.there(path)
            assert there in (before, after)
            self.keep(path, there)
        elif isinstance(outcome, Applied):
            self.keep(path, after)
        else:
            assert isinstance(outcome, Refused)
            assert outcome.code == "storage-full"
            assert delta.data or delta.create, "a full disk can always be emptied"
        return isinstance(outcome, Applied)

    def keep(self, path: str, content: bytes | None) -> None:
        if content is None:
            self.kept.pop(path, None)
        else:
            self.kept[path] = content

    def there(self, path: str) -> bytes | None:
        facts = self.store.peek(path)
        if facts is None:
            return None
        found = self.store.slice(path, facts.head.incarnation, 0, CAPACITY)
        assert found is not None
        return found.data

    def start_again(self, *, power: bool, crash_in: int | None = None) -> None:
        """End the process, or the machine, wherever it is, and open the store again."""
        self.stop_workers()
        if power:
            self.disk.power_off()
        else:
            self.disk.restart()
        self.start(crash_in)

    # What happens.

    paths = st.sampled_from([f"s{number}" for number in range(6)])
    crashes = st.none() | st.integers(0, 30)

    def add(self, path: str, size: int) -> bool:
        data = self.rng.randbytes(1) * size
        if path not in self.kept:
            self.births[path] = self.births.get(path, 0) + 1
            create = Head(self.incarnation(path), b"")
            return self.change(path, data, None, Delta(create=create, data=data))
        after = self.kept[path] + data
        return self.change(path, after, self.incarnation(path), Delta(data=data))

    @rule(path=paths, size=st.integers(1, 2 * MIB), crash_in=crashes)
    def append(self, path: str, size: int, crash_in: int | None) -> None:
        self.disk.crash_in = crash_in
        self.add(path, size)
        self.disk.crash_in = None

    @rule(path=paths, size=st.integers(MIB // 8, MIB), kept=st.integers(1, 4))
    def append_and_delete_for_long(self, path: str, size: int, kept: int) -> None:
        """Little is live, and more is written than the volume holds."""
        for number in range(2 * CAPACITY // size):
            self.add(path, size)
            if number % kept == 0:
                self.delete(path, None)

    @rule(path=paths)
    def append_until_the_disk_is_full(self, path: str) -> None:
        while self.add(path, MIB // 4):
            pass

    @rule(path=paths, crash_in=crashes)
    def delete(self, path: str, crash_in: int | None) -> None:
        if path in self.kept:
            self.disk.crash_in = crash_in
            self.change(path, None, self.incarnation(path), Delta(remove=True))
            self.disk.crash_in = None

    @rule(path=paths)
    def a_probe_that_finds_no_fault_is_right(self, path: str) -> None:
        if self.run(self.store.probe()) is None:
            assert self.add(path, 1024)

    @rule()
    def checkpoint(self) -> None:
        self.run(self.store.checkpoint())

    @rule(left=st.none() | st.integers(0, MIB))
    def others_fill_the_disk_or_make_room(self, left: int | None) -> None:
        self.disk.foreign = 0
        if left is not None:
            self.disk.foreign = max(0, self.disk.free - left)

    @rule(end=st.sampled_from(["close", "kill", "power"]), crash_in=crashes)
    def start_anew(self, end: str, crash_in: int | None) -> None:
        if end == "close":
            self.run(self.store.close())
        self.start_again(power=end == "power", crash_in=crash_in)

    # What holds.

    @invariant()
    def everything_acknowledged_is_there(self) -> None:
        for path in self.births:
            assert self.there(path) == self.kept.get(path)

    @invariant()
    def little_room_is_taken(self) -> None:
        self.run(self.until_idle())
        live = sum(len(content) + BLOCK for content in self.kept.values())
        assert self.disk.used <= live + 2 * self.checkpoint_bytes + MARGIN, self.disk.sizes()


def machine(checkpoint: int = 64 * MIB, save_bytes: int = MIB // 4) -> SmallVolumeMachine:
    """A store on an empty volume, to be led by hand."""
    state = SmallVolumeMachine()
    state.save_bytes = save_bytes
    state.begin(seed=1, checkpoint=checkpoint)
    return state


def test_what_is_deleted_makes_room_for_appends_on_a_volume_that_was_written_full() -> None:
    state = machine()
    for number in range(4 * CAPACITY // MIB):
        path = f"s{number % 2}"
        if path in state.kept:
            state.delete(path, None)
        assert state.add(path, MIB)
    state.everything_acknowledged_is_there()
    state.teardown()


@pytest.mark.parametrize("power", [False, True])
def test_a_store_that_was_killed_on_a_full_disk_opens_to_read_and_delete(power: bool) -> None:
    state = machine()
    state.append_until_the_disk_is_full("s0")
    state.others_fill_the_disk_or_make_room(0)
    for _ in range(3):
        state.start_again(power=power)
        state.everything_acknowledged_is_there()
    state.delete("s0", None)
    assert "s0" not in state.kept
    assert state.add("s1", MIB)
    state.teardown()


def test_bytes_that_no_data_file_has_room_for_at_a_start_stay_in_memory() -> None:
    state = machine(save_bytes=8 * MIB)
    for _ in range(24):
        assert state.add("s0", MIB // 8)
    state.others_fill_the_disk_or_make_room(0)
    state.start_again(power=False)
    assert state.disk.sizes().get("streams/0/1", 0) < 3 * MIB
    state.everything_acknowledged_is_there()
    state.others_fill_the_disk_or_make_room(None)
    state.checkpoint()
    assert state.disk.sizes()["streams/0/1"] == 3 * MIB
    state.start_again(power=True)
    state.everything_acknowledged_is_there()
    state.teardown()


def test_large_appends_fill_a_volume_and_not_half_of_it() -> None:
    state = machine()
    while state.add("s0", MIB // 2):
        pass
    assert len(state.kept["s0"]) > CAPACITY * 3 // 4
    state.everything_acknowledged_is_there()
    state.start_again(power=True)
    state.everything_acknowledged_is_there()
    state.teardown()


def test_a_disk_that_another_program_fills_is_noticed_without_a_write_and_so_is_its_end() -> None:
    state = machine()
    assert state.add("s0", MIB)
    assert state.run(state.store.probe()) is None
    state.others_fill_the_disk_or_make_room(0)
    assert state.run(state.store.probe()) == DISK_FULL
    state.others_fill_the_disk_or_make_room(None)
    assert state.run(state.store.probe()) is None
    state.teardown()


def test_a_probe_makes_room_on_a_full_disk_as_an_append_does() -> None:
    """Else a server to which nobody writes, because it is not ready, would never become ready."""
    state = machine()
    for _ in range(24):
        state.add("s0", MIB // 8)
        state.delete("s0", None)
    state.others_fill_the_disk_or_make_room(0)
    assert state.run(state.store.probe()) is None
    assert state.add("s0", 1024)
    state.teardown()


def test_the_journal_stays_bounded_over_restarts() -> None:
    state = machine(checkpoint=MIB)
    for number in range(12):
        state.add("s0", 3 * MIB // 4)
        state.delete("s0", None)
        state.start_anew("close" if number % 2 else "kill", None)
        state.run(state.until_idle())
        journal = sum(
            size for name, size in state.disk.sizes().items() if name.startswith("journal/")
        )
        assert journal < 3 * MIB
    state.teardown()


SmallVolumeMachine.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestSmallVolume = SmallVolumeMachine.TestCase
