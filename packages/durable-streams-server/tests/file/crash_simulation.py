"""A seeded life of a store with crashes in it, compared with a model at every step.

One seed is several generations on one disk. In each, tasks change streams as the engine would, by
the rules of core; every outcome and every read is compared with a memory store to which the same
commits go in the order in which they became durable. Then the power goes, or the process dies, or
the disk fails. The next generation has to find, for every path, what the model has after all that
was acknowledged, and of what was under way then a beginning in order, nothing else. Every commit
that was under way is sent again, and has to be answered as if it had been answered the first time.
Some appends go without a commit; those rest on the facts that they were given.
"""

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any

from faulty_disk import FaultyDisk
from inline_worker import InlineWorker

from durable_streams_core.drafts import Draft
from durable_streams_core.entities import (
    DELETED,
    Applied,
    Commit,
    Conflicted,
    Facts,
    Refused,
    Unknown,
)
from durable_streams_core.errors import ProtocolError, Unavailable
from durable_streams_core.operations import (
    Append,
    Body,
    Confirm,
    Create,
    Delete,
    Expire,
    Hold,
    Link,
    ProducerClaim,
    Reap,
    Touch,
    Unconfirmed,
    Unlink,
)
from durable_streams_core.streams import (
    PRODUCER,
    CreationRequest,
    ForkLink,
    Origin,
    birth_of,
    decode_link,
    decode_producer,
)
from durable_streams_server.stores.file import FileStore, commit_group, data_files
from durable_streams_server.stores.memory import MemoryStore

GENERATIONS = 5
TYPE = "application/octet-stream"


class Life:
    """Everything of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.disk = FaultyDisk(self.rng)
        self.time = 1_000_000_000_000
        self.model = MemoryStore(clock=lambda: self.time)
        self.ids = 0
        self.flying: dict[str, Commit] = {}
        self.resting: dict[str, Facts] = {}
        """The facts of the changes under way that went without a commit, by the model's id."""
        self.paths = [f"s{number}" for number in range(self.rng.randrange(2, 9))]
        self.segment_bytes = self.rng.choice([600, 3000, 20_000, 1_000_000])
        self.checkpoint_bytes = self.rng.choice([1000, 10_000, 100_000])
        self.save_bytes = self.rng.choice([300, 2000, 100_000])
        self.sync = "off" if self.rng.random() < 0.15 else "commit"
        self.dead = asyncio.Event()
        self.commits = 0
        self.crashes = 0
        self.workers: list[InlineWorker] = []
        # Often enough many files are synced in one call.
        data_files.ONE_BY_ONE = self.rng.choice([0, 3, 64])
        commit_group.DIRECT = self.rng.choice([1, 100, 5000, 256 * 1024])
        self.disk.on_death = self.stop_everything

    def draw(self, count: int) -> bytes:
        return self.rng.randbytes(count)

    def new_id(self) -> str:
        self.ids += 1
        return f"c{self.ids}"

    def new_store(self) -> FileStore:
        return FileStore(
            "simulated",
            sync=self.sync,
            segment_bytes=self.segment_bytes,
            checkpoint_bytes=self.checkpoint_bytes,
            save_bytes=self.save_bytes,
            disk=self.disk,
            worker=lambda _: self.new_worker(),
            clock=lambda: self.time,
            monotonic=lambda: 0.0,
            draw=self.draw,
        )

    def new_worker(self) -> InlineWorker:
        self.workers.append(InlineWorker(self.rng))
        return self.workers[-1]

    # One generation.

    async def run(self) -> None:
        for _ in range(GENERATIONS):
            await self.generation()
            if self.sync == "off" and self.rng.random() < 0.3:
                await self.lose_the_end()
                return
        store = self.new_store()
        await store.open()
        await self.settle(store)
        await store.close()

    async def generation(self) -> None:
        rng, disk = self.rng, self.disk
        while True:
            # The machine may also crash while it recovers from a crash.
            self.dead.clear()
            if rng.random() < 0.3:
                disk.crash_in = rng.randrange(40)
            store = self.new_store()
            if await self.unless_dead(store.open()):
                break
            self.end_of_process()
        disk.crash_in = rng.randrange(5, 400) if rng.random() < 0.8 else None
        disk.full_in = rng.randrange(200) if rng.random() < 0.3 else None
        disk.failing_in = rng.randrange(100) if rng.random() < 0.1 else None
        if not await self.unless_dead(self.settle(store)):
            self.end_of_process()
            return
        disk.short_in = rng.randrange(200) if rng.random() < 0.3 else None
        stop = asyncio.Event()
        workers = [self.client(store, rng.randrange(5, 60)) for _ in range(rng.randrange(1, 6))]
        workers.append(self.checkpoints(store, stop))

        async def live() -> None:
            tasks = [asyncio.ensure_future(worker) for worker in workers]
            try:
                await asyncio.gather(*tasks[:-1])
                stop.set()
                await tasks[-1]
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            if rng.random() < 0.3:
                await store.close()

        await self.unless_dead(live())
        self.end_of_process()

    async def lose_the_end(self) -> None:
        """Without syncs a loss of power may take the latest, but leaves a sound store."""
        self.disk.power_off()
        store = self.new_store()
        await store.open()
        for path in self.paths:
            self.state(store, path)
        await store.close()

    async def unless_dead(self, work: Any) -> bool:
        """Do it; False if the machine stopped before it was done."""
        task = asyncio.ensure_future(work)
        death = asyncio.ensure_future(self.dead.wait())
        await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
        if self.dead.is_set():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return False
        death.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await death
        task.result()
        return True

    def end_of_process(self) -> None:
        self.crashes += 1
        self.stop_everything()
        self.workers = []
        if self.rng.random() < 0.7 and self.sync == "commit":
            self.disk.power_off()
        else:
            self.disk.restart()

    def stop_everything(self) -> None:
        self.dead.set()
        for worker in self.workers:
            worker.dead = True

    # Comparing.

    async def settle(self, store: FileStore) -> None:
        """See what became of the commits under way, and send them again."""
        flying = defaultdict(list)
        for commit in self.flying.values():
            flying[commit.path].append(commit)
        for path, commits in flying.items():
            there = self.state(store, path)
            while self.state(self.model, path) != there:
                assert commits, difference(path, there, self.state(self.model, path))
                commit = commits.pop(0)
                if self.holds(commit):
                    await self.model.commit([commit])
        # Nobody sends these again.
        for commit_id in self.resting:
            self.flying.pop(commit_id, None)
        self.resting.clear()
        again = list(self.flying.values())
        for commit in again:
            (mine,) = await store.commit([commit])
            if type(mine) is Refused:
                self.flying.pop(commit.id)
                continue
            assert type(mine) is not Unknown or store_failed(store)
            if type(mine) is Unknown:
                return
            (theirs,) = await self.model.commit([commit])
            assert mine == theirs, f"sent again: {mine}, not {theirs}"
            self.flying.pop(commit.id)
        await self.compare_all(store)

    def holds(self, commit: Commit) -> bool:
        """Whether the model has the facts on which an append without a commit rests."""
        facts = self.resting.get(commit.id)
        if facts is None:
            return True
        there = self.model.peek(commit.path, tuple(facts.fields))
        return there is not None and (there.head, there.fields) == (facts.head, facts.fields)

    def state(self, store: FileStore | MemoryStore, path: str) -> Any:
        facts = store.peek(path)
        if facts is None:
            return None
        head = facts.head
        fields: dict[str, bytes] = {}
        for kind in facts.counts:
            fields |= at_once(store.scan(path, head.incarnation, kind, "", 1000))
        try:
            found = store.slice(path, head.incarnation, head.start, 1 << 30)
        except Unavailable:  # no descriptor was free, once
            found = store.slice(path, head.incarnation, head.start, 1 << 30)
        assert found is not None
        return head, fields, dict(facts.counts), found.data

    async def compare_all(self, store: FileStore) -> None:
        for path in self.paths:
            mine, theirs = self.state(store, path), self.state(self.model, path)
            assert mine == theirs, difference(path, mine, theirs)
        assert await store.list("", "", 1000) == await self.model.list("", "", 1000)
        far = self.time + 10**12
        assert sorted(await store.due(far, 1000)) == sorted(await self.model.due(far, 1000))

    async def compare_read(self, store: FileStore, path: str) -> None:
        facts = store.peek(path)
        if facts is None:
            return
        head = facts.head
        start = self.rng.randint(head.start, head.tail)
        limit = self.rng.randrange(1, 5000)
        try:
            mine = await store.read(path, head.incarnation, start, limit)
        except Unavailable:  # no descriptor was free, once
            return
        theirs = await self.model.read(path, head.incarnation, start, limit)
        assert mine == theirs

    # The work.

    async def checkpoints(self, store: FileStore, stop: asyncio.Event) -> None:
        while not stop.is_set():
            for _ in range(self.rng.randrange(10, 200)):
                await asyncio.sleep(0)
            await store.checkpoint()

    async def client(self, store: FileStore, count: int) -> None:
        for _ in range(count):
            self.time += self.rng.randrange(2000)
            if self.rng.random() < 0.2:
                await self.compare_read(store, self.rng.choice(self.paths))
            else:
                await self.change(store)

    async def change(self, store: FileStore) -> None:
        rng = self.rng
        path = rng.choice(self.paths)
        facts = store.peek(path)
        if facts is None:
            await self.apply(store, path, self.creation(f"i{self.new_id()}"))
        elif facts.head.state == DELETED:
            await self.unlink_some(store, path)
            await self.apply(store, path, Reap())
        else:
            luck = rng.random()
            if luck < 0.7:
                await self.apply(store, path, self.append(store, path))
            elif luck < 0.76:
                await self.apply(store, path, Delete())
            elif luck < 0.82:
                await self.apply(store, path, Touch())
            elif luck < 0.86:
                await self.apply(store, path, Expire())
            elif luck < 0.94:
                await self.fork(store, path)
            else:
                # Creation over what may have expired: removal and creation in one commit.
                await self.apply(store, path, self.creation(f"i{self.new_id()}"))

    def creation(self, incarnation: str) -> Create:
        rng = self.rng
        ttl = rng.choice([None, None, 5, 60])
        body = Body(self.data()) if rng.random() < 0.5 else Body(b"")
        return Create(
            incarnation, CreationRequest(TYPE, ttl), TYPE, ttl, None, rng.random() < 0.05, body
        )

    def data(self) -> bytes:
        size = self.rng.choice([1, 10, 100, 100, 1000, 1000, 20_000])
        return self.rng.randbytes(1) * self.rng.randrange(1, size + 1)

    def append(self, store: FileStore, path: str) -> Append:
        rng = self.rng
        producer = None
        if rng.random() < 0.5:
            name = rng.choice("abc")
            key = PRODUCER + name
            facts = store.peek(path, (key,))
            entry = None if facts is None else decode_producer(facts.fields[key])
            producer = ProducerClaim(
                name, entry.epoch if entry else 0, entry.seq + 1 if entry else 0
            )
        seq = b"%020d" % self.time if rng.random() < 0.2 else None
        return Append(Body(self.data()), close=rng.random() < 0.03, seq=seq, producer=producer)

    async def fork(self, store: FileStore, path: str) -> None:
        facts = store.peek(path)
        fork = self.rng.choice(self.paths)
        if facts is None or fork == path or store.peek(fork) is not None:
            return
        head = facts.head
        position = self.rng.randint(head.start, head.tail)
        incarnation = f"i{self.new_id()}"
        link = ForkLink(incarnation, position)
        if not await self.apply(store, path, Link(fork, head.incarnation, link)):
            return
        origin = Origin(path, head.incarnation)
        creation = Create(
            incarnation, CreationRequest(TYPE), TYPE, origin=origin, start=position, body=Body(b"")
        )
        created = await self.apply(store, fork, creation)
        if (
            created is not None
            and created.new
            and await self.apply(store, path, Hold(fork, incarnation))
        ):
            await self.apply(store, fork, Confirm(incarnation))

    async def unlink_some(self, store: FileStore, path: str) -> None:
        facts = store.peek(path)
        if facts is None:
            return
        for key, _ in await store.scan(path, facts.head.incarnation, "f", "", 10):
            fork = store.peek(key[1:])
            origin = None if fork is None else birth_of(fork.head).origin
            if origin is None or origin.path != path:
                link = await self.link_of(store, path, key)
                if link is not None:
                    await self.apply(store, path, Unlink(key[1:], link))

    async def link_of(self, store: FileStore, path: str, key: str) -> str | None:
        facts = store.peek(path, (key,))
        link = None if facts is None else decode_link(facts.fields[key])
        return None if link is None else link.incarnation

    async def apply(self, store: FileStore, path: str, operation: Any) -> Any:
        """Decide, commit, compare; what the operation answered, None if it came to nothing."""
        facts = store.peek(path, tuple(operation.fields))
        draft = Draft(path, facts)
        try:
            answer = operation.decide(draft, store.now())
        except (ProtocolError, Unconfirmed):
            answer = None
        if not draft.changes:
            return answer
        commit = draft.commit(self.new_id)
        self.flying[commit.id] = commit
        done = asyncio.get_running_loop().create_future()

        def settled(outcome: Any) -> None:
            # At once, so that the model sees commits in the order in which they became durable.
            try:
                self.settled(store, commit, outcome)
            except AssertionError as error:
                if not done.done():
                    done.set_exception(error)
            if not done.done():
                done.set_result(outcome)

        added = None
        if facts is not None and type(operation) is Append and self.rng.random() < 0.6:
            added = operation.added_to(facts, self.time)
        if facts is not None and added is not None:
            self.resting[commit.id] = facts
        if facts is None or added is None or not store.submit_append(path, facts, *added, settled):
            self.resting.pop(commit.id, None)
            store.submit([commit], lambda outcomes: settled(*outcomes))
        outcome = await done
        return answer if type(outcome) is Applied else None

    def settled(self, store: FileStore, commit: Commit, outcome: Any) -> None:
        if self.dead.is_set():
            return
        if type(outcome) is Unknown:
            assert store_failed(store)
            return
        del self.flying[commit.id]
        rested = self.resting.pop(commit.id, None)
        if type(outcome) is Conflicted and rested is not None:
            there = outcome.facts
            assert there is None or (there.head, there.fields) != (rested.head, rested.fields)
            return
        if type(outcome) is Refused:
            return
        self.commits += 1
        heard: list[Any] = []
        self.model.submit([commit], heard.extend)
        assert heard == [outcome], f"{commit} came to {outcome}, not {heard}"
        if any(commit.path == other.path for other in self.flying.values()):
            return  # the store may have more of this path already
        mine, theirs = self.state(store, commit.path), self.state(self.model, commit.path)
        assert mine == theirs, difference(commit.path, mine, theirs)


def at_once(scan: Coroutine[Any, Any, Any]) -> Any:
    """The result of a method that does not wait in local stores."""
    try:
        scan.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def store_failed(store: FileStore) -> bool:
    return store.failure is not None


def difference(path: str, mine: Any, theirs: Any) -> str:
    """What differs between two states, without all their bytes."""
    if mine is None or theirs is None:
        shown = mine or theirs
        return f"{path} is {'there' if mine else 'not there'}: {shown[0]}"
    parts = [f"{a} and not {b}" for a, b in zip(mine[:3], theirs[:3], strict=True) if a != b]
    if mine[3] != theirs[3]:
        parts.append(f"{len(mine[3])} bytes, not {len(theirs[3])}, or others")
    return f"{path} has {'; '.join(parts)}"


def simulate(seed: int) -> Life:
    """Live one life; raises what went wrong."""

    async def live() -> Life:
        life = Life(seed)
        await life.run()
        return life

    sizes = data_files.ONE_BY_ONE, commit_group.DIRECT
    try:
        return asyncio.run(live())
    finally:
        # Each life draws its own, and other tests of this process have the usual ones.
        data_files.ONE_BY_ONE, commit_group.DIRECT = sizes
