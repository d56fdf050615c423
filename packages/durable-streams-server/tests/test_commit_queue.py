"""Commits belong to the stream and not to the caller: batches, cancelling, outcomes, bounds."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from remote import Fate, RemoteStore, always_arrives, commits_of
from tokens import NOT_REACHED, position

from durable_streams_core.entities import Conflicted, Refused, Unknown
from durable_streams_core.errors import ProtocolError
from durable_streams_core.operations import Append, Body
from durable_streams_core.registry import create_store
from durable_streams_core.store import Store, Watcher
from durable_streams_server import Conflict, Engine, StreamClosed, TailMoved, Unavailable
from durable_streams_server.stores.memory import MemoryStore


async def started(call: Any) -> Any:
    """A call that has got as far as it can without the store."""
    task = asyncio.create_task(call)
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def test_what_gathers_during_a_commit_becomes_one_commit(
    engines: Callable[..., object], remote: RemoteStore
) -> None:
    streams = await engines(remote)
    await streams.create("a")
    remote.committing.shut()
    first = await started(streams.append("a", "1"))
    await remote.committing.reached.wait()
    rest = [await started(streams.append("a", str(n))) for n in range(2, 8)]
    remote.committing.open()
    offsets = [result.offset for result in await asyncio.gather(first, *rest)]
    assert [position(offset) for offset in offsets] == list(range(1, 8))
    assert [commit.delta.data for commit in remote.sent[1:]] == [b"1", b"234567"]


async def test_streams_do_not_wait_for_each_other(
    engines: Callable[..., object], remote: RemoteStore
) -> None:
    streams = await engines(remote)
    await streams.create("a")
    await streams.create("b")
    remote.fate = lambda commit: Fate.LOST if commit.path == "a" else Fate.ARRIVES
    stuck = await started(streams.append("a", "x"))
    assert position((await streams.append("b", "x")).offset) == 1
    assert not stuck.done()
    remote.fate = lambda _: Fate.ARRIVES
    assert position((await stuck).offset) == 1


async def test_one_refusal_in_a_batch_leaves_the_others_alone(
    engines: Callable[..., object], remote: RemoteStore
) -> None:
    streams = await engines(remote)
    await streams.create("a")
    remote.committing.shut()
    first = await started(streams.append("a", "1"))
    good = await started(streams.append("a", "2"))
    bad = await started(streams.append("a", "x", expected=NOT_REACHED))
    closing = await started(streams.append("a", "3", close=True))
    late = await started(streams.append("a", "4"))
    remote.committing.open()
    assert position((await good).offset) == 2
    assert (await closing).closed
    with pytest.raises(TailMoved):
        await bad
    with pytest.raises(StreamClosed) as caught:
        await late
    assert position(caught.value.offset) == 3
    await first
    assert (await streams.read("a")).data == b"123"


# Cancelling.


@pytest.mark.parametrize("turns", range(12))
async def test_a_caller_that_goes_away_at_any_await_leaves_a_stream_that_works(
    engines: Callable[..., object], remote: RemoteStore, turns: Any
) -> None:
    streams = await engines(remote)
    await streams.create("a")
    task = asyncio.create_task(streams.append("a", "x"))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    result = await streams.append("a", "y")
    data = (await streams.read("a")).data
    assert data in (b"y", b"xy")
    assert position(result.offset) == len(data)


@pytest.mark.parametrize("turns", range(30))
async def test_a_creator_of_a_fork_that_goes_away_at_any_await_leaves_it_whole_or_not_at_all(
    engines: Callable[..., object], remote: RemoteStore, turns: Any
) -> None:
    streams = await engines(remote)
    await streams.create("source", data="shared")
    task = asyncio.create_task(streams.fork("fork", "source"))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await streams.fork("fork", "source")
    await streams.delete("source")
    assert (await streams.read("fork")).data == b"shared"
    await streams.delete("fork")
    assert await remote.list("", "", 10) == []


async def test_a_commit_goes_on_without_its_caller(
    engines: Callable[..., object], remote: RemoteStore
) -> None:
    streams = await engines(remote)
    await streams.create("a")
    remote.committing.shut()
    task = await started(streams.append("a", "x"))
    await remote.committing.reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    remote.committing.open()
    assert position((await streams.append("a", "y")).offset) == 2
    assert (await streams.read("a")).data == b"xy"


@pytest.mark.parametrize("call", ["read", "head", "delete", "close_stream"])
@pytest.mark.parametrize("turns", range(6))
async def test_any_call_may_be_cancelled(
    engines: Callable[..., object], remote: RemoteStore, call: str, turns: Any
) -> None:
    streams = await engines(remote)
    await streams.create("a", ttl=10, data="x")
    task = asyncio.create_task(getattr(streams, call)("a"))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await streams.create("b")
    assert await streams.head("b")


# Outcomes.


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.ANSWER_LOST, OSError("the network is down")])
async def test_an_unknown_outcome_is_found_out_under_the_same_id(
    engines: Callable[..., object], remote: RemoteStore, fate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Not doubled, not lost."""
    streams = await engines(remote)
    await streams.create("a")
    fates = iter([fate, fate])
    remote.fate = lambda _: next(fates, Fate.ARRIVES)
    assert position((await streams.append("a", "x")).offset) == 1
    assert (await streams.read("a")).data == b"x"
    ids = commits_of(remote, "a")[1:]
    assert len(ids) == 3
    assert len(set(ids)) == 1


async def test_a_streams_queue_waits_until_an_outcome_is_known(
    engines: Callable[..., object], remote: RemoteStore
) -> None:
    streams = await engines(remote)
    await streams.create("a")
    remote.fate = lambda _: Fate.LOST
    first = await started(streams.append("a", "1"))
    second = await started(streams.append("a", "2"))
    remote.fate = lambda _: Fate.ARRIVES
    await second
    await first
    assert (await streams.read("a")).data == b"12"


async def test_an_outcome_that_stays_unknown_is_told_and_still_found_out(
    engines: Callable[..., object], remote: RemoteStore
) -> None:
    streams = await engines(remote, unknown_outcome=0.01)
    await streams.create("a")
    remote.fate = lambda _: Fate.LOST
    with pytest.raises(Unavailable) as caught:
        await streams.append("a", "x")
    assert (caught.value.status, caught.value.code) == (504, "outcome-unknown")
    assert "Retry-After" not in caught.value.headers
    remote.fate = lambda _: Fate.ARRIVES
    assert position((await streams.append("a", "y")).offset) == 2
    assert (await streams.read("a")).data == b"xy"


async def test_an_unknown_outcome_is_told_in_time_though_the_store_hangs(
    engines: Callable[..., object], remote: RemoteStore
) -> None:
    streams = await engines(remote, unknown_outcome=0.2)
    await streams.create("a")
    remote.fate = lambda _: remote.committing.shut() or Fate.LOST
    with pytest.raises(Unavailable) as caught:
        await streams.append("a", "x")
    assert caught.value.status == 504
    remote.fate = lambda _: Fate.ARRIVES
    remote.committing.open()
    await streams.append("a", "y")


async def test_what_was_told_as_unknown_and_was_not_applied_is_not_applied_later(
    engines: Callable[..., object], remote: RemoteStore, memory: MemoryStore
) -> None:
    """Its caller may have looked, found nothing and sent it anew."""
    streams = await engines(remote, unknown_outcome=0.01)
    other = await engines(memory)
    created = await streams.create("a", data="0")
    remote.fate = lambda _: Fate.LOST
    with pytest.raises(Unavailable):
        await streams.append("a", "x", expected=created.offset)
    await other.append("a", "1")
    remote.fate = lambda _: Fate.ARRIVES
    await streams.append("a", "2")
    assert (await streams.read("a")).data == b"012"


async def test_a_refusal_says_that_nothing_was_applied(
    engines: Callable[..., object], remote: RemoteStore
) -> None:
    streams = await engines(remote)
    await streams.create("a")
    remote.fate = lambda _: Refused("unavailable", "The store restarts.")
    with pytest.raises(Unavailable) as caught:
        await streams.append("a", "x")
    assert (caught.value.status, caught.value.code) == (503, "unavailable")
    assert caught.value.headers["Retry-After"]
    remote.fate = lambda _: Refused("storage-full", "No space is left.")
    with pytest.raises(Unavailable) as caught:
        await streams.append("a", "x")
    assert (caught.value.status, caught.value.code) == (507, "storage-full")
    remote.fate = lambda _: Fate.ARRIVES
    assert position((await streams.append("a", "y")).offset) == 1


async def test_a_store_that_refuses_to_tell_an_outcome_is_asked_again(
    engines: Callable[..., object], remote: RemoteStore
) -> None:
    streams = await engines(remote)
    await streams.create("a")
    fates = iter([Fate.ANSWER_LOST, Refused("unavailable", "It restarts."), Unknown("No answer.")])
    remote.fate = lambda _: next(fates, Fate.ARRIVES)
    assert position((await streams.append("a", "x")).offset) == 1
    assert (await streams.read("a")).data == b"x"


async def test_a_conflict_is_decided_again_on_what_is_there_now(
    engines: Callable[..., object], remote: RemoteStore, memory: MemoryStore
) -> None:
    streams = await engines(remote)
    other = await engines(memory)
    await streams.create("a", content_type="text/plain")
    await streams.append("a", "1")
    await other.close_stream("a")
    with pytest.raises(StreamClosed):
        await streams.append("a", "2")
    await other.delete("a")
    await other.create("a", content_type="application/json")
    with pytest.raises(Conflict) as caught:
        await streams.append("a", "2", content_type="text/plain")
    assert caught.value.code == "content-type-mismatch"


async def test_a_conflict_after_an_unknown_outcome_is_decided_again(
    engines: Callable[..., object], remote: RemoteStore, memory: MemoryStore
) -> None:
    streams = await engines(remote)
    other = await engines(memory)
    await streams.create("a")
    lost = iter([Fate.LOST])
    remote.fate = lambda _: next(lost, Fate.ARRIVES)
    task = await started(streams.append("a", "x"))
    await other.close_stream("a", "end")
    with pytest.raises(StreamClosed) as caught:
        await task
    assert position(caught.value.offset) == 3


async def test_a_stream_that_never_stops_changing_is_given_up(
    engines: Callable[..., object], remote: RemoteStore, memory: MemoryStore
) -> None:
    streams = await engines(remote)
    await streams.create("a")
    remote.fate = lambda _: Conflicted(memory.peek("a"))
    with pytest.raises(Unavailable) as caught:
        await streams.append("a", "x")
    assert caught.value.code == "contended"


@pytest.mark.parametrize(
    "fate",
    [Refused("storage-full", "The disk is full."), Unknown("Nobody knows."), RuntimeError("bug")],
    ids=["refused", "unknown", "failed"],
)
async def test_each_caller_of_a_failed_flight_gets_an_error_of_its_own(
    engines: Callable[..., object], remote: RemoteStore, fate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    streams = await engines(remote, unknown_outcome=0.01)
    await streams.create("a")
    remote.committing.shut()
    first = await started(streams.append("a", "1"))
    await remote.committing.reached.wait()
    together = [await started(streams.append("a", "2")) for _ in range(3)]
    await asyncio.sleep(0)
    fates = iter([Fate.ARRIVES])
    remote.fate = lambda _: next(fates, fate)
    remote.committing.open()
    await first
    errors = await asyncio.gather(*together, return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in errors)
    assert len({id(error) for error in errors}) == len(errors)
    remote.fate = always_arrives


async def test_nobody_waits_for_ever_behind_an_outcome_that_never_comes(
    engines: Callable[..., object], remote: RemoteStore
) -> None:
    streams = await engines(remote, unknown_outcome=0.01)
    await streams.create("a")
    remote.fate = lambda _: Fate.LOST
    stuck = await started(streams.append("a", "1"))
    behind = await started(streams.append("a", "2"))
    with pytest.raises(Unavailable) as caught:
        await stuck
    assert caught.value.code == "outcome-unknown"
    for waiting in (behind, streams.append("a", "3")):
        with pytest.raises(Unavailable) as caught:
            await waiting
        assert caught.value.code == "unavailable"
    remote.fate = always_arrives
    await streams.append("a", "4")
    assert (await streams.read("a")).data == b"14"


async def test_a_final_offset_counts_what_others_appended_meanwhile(
    engines: Callable[..., object], remote: RemoteStore, memory: MemoryStore
) -> None:
    streams = await engines(remote)
    other = await engines(memory)
    await streams.create("a")
    remote.committing.shut()
    first = await started(streams.append("a", "1"))
    await remote.committing.reached.wait()
    closing = await started(streams.append("a", "end", close=True))
    late = await started(streams.append("a", "late"))

    async def another(commit: Any) -> None:
        if commit.delta.close:
            remote.before_commit = None
            await other.append("a", "12345")

    remote.before_commit = another
    remote.committing.open()
    await first
    assert position((await closing).offset) == 9
    with pytest.raises(StreamClosed) as caught:
        await late
    assert position(caught.value.offset) == 9


async def test_a_store_that_cannot_be_asked_is_an_error_of_that_call_only(
    engines: Callable[..., object], remote: RemoteStore, caplog: pytest.LogCaptureFixture
) -> None:
    streams = await engines(remote)
    await streams.create("a")
    await streams.delete("a")
    remote.load_error = OSError("the network is down")
    with pytest.raises(Unavailable) as caught:
        await streams.create("a")
    assert caught.value.status == 503
    remote.load_error = None
    assert (await streams.create("a")).created


async def test_a_bug_in_a_decision_is_an_answer_and_not_a_hang(
    engines: Callable[..., object], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    streams = await engines(store)
    await streams.create("a")

    class Broken:
        fields = ()

        def decide(self, draft: Any, now: Any) -> None:
            raise ZeroDivisionError

    with pytest.raises(Exception, match="The server failed"):
        await streams.perform("a", Broken())
    assert await streams.append("a", "x")
    assert "deciding Broken failed" in caplog.text


async def test_a_completion_that_fails_harms_nobody_else(
    engines: Callable[..., object], store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    from durable_streams_core.operations import Append, Body

    streams = await engines(store)
    await streams.create("a")

    def broken(_answer: Any) -> None:
        raise RuntimeError("a bug in a front end")

    streams.submit("a", Append(Body(b"1")), broken)
    assert position((await streams.append("a", "2")).offset) == 2
    assert "a caller's completion failed" in caplog.text


# Bounds.


async def test_the_operations_that_wait_for_a_stream_are_bounded(
    engines: Callable[..., object], remote: RemoteStore
) -> None:
    streams = await engines(remote, max_queued=2)
    await streams.create("a")
    remote.committing.shut()
    waiting = [await started(streams.append("a", "x"))]
    await remote.committing.reached.wait()
    waiting += [await started(streams.append("a", "x")) for _ in range(2)]
    with pytest.raises(Unavailable) as caught:
        await streams.append("a", "x")
    assert (caught.value.status, caught.value.code) == (503, "overloaded")
    remote.committing.open()
    await asyncio.gather(*waiting)
    assert position((await streams.append("a", "x")).offset) == 4


@pytest.mark.parametrize("call", ["append", "create"])
async def test_the_bytes_that_wait_to_be_stored_are_bounded(
    engines: Callable[..., object], remote: RemoteStore, call: str
) -> None:
    streams = await engines(remote, max_queued_bytes=10)
    await streams.create("a")
    remote.committing.shut()
    waiting = await started(streams.append("a", b"x" * 50))
    await remote.committing.reached.wait()
    with pytest.raises(Unavailable) as caught:
        await (streams.append("a", b"x") if call == "append" else streams.create("b", data=b"x"))
    assert caught.value.code == "overloaded"
    remote.committing.open()
    assert position((await waiting).offset) == 50
    assert position((await streams.append("a", b"x" * 50)).offset) == 100


async def test_a_flight_is_bounded_but_takes_one_of_any_size(
    engines: Callable[..., object], remote: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_streams_server.engine.commit_queue.MAX_FLIGHT_BYTES", 10)
    streams = await engines(remote)
    await streams.create("a")
    await asyncio.gather(*(streams.append("a", b"x" * size) for size in (50, 4, 4, 4)))
    assert [len(commit.delta.data) for commit in remote.sent[1:]] == [50, 8, 4]


async def test_batches_on_their_way_are_bounded(
    engines: Callable[..., object], remote: RemoteStore
) -> None:
    streams = await engines(remote)
    for number in range(20):
        await streams.create(f"a/{number}")
    remote.committing.shut()
    tasks = [await started(streams.append(f"a/{number}", "x")) for number in range(20)]
    remote.committing.open()
    await asyncio.gather(*tasks)
    assert len(remote.sent) == 40


async def test_commit_queues_of_quiet_streams_are_forgotten(
    engines: Callable[..., object], remote: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_streams_server.engine.commit_queue.MAX_REMEMBERED_QUEUES", 50)
    streams = await engines(remote)
    for number in range(120):
        await streams.create(f"a/{number}")
    assert position((await streams.append("a/0", "x")).offset) == 1


# The end.


async def test_stopping_lets_what_was_begun_finish(store: Store) -> None:
    streams = Engine(store)
    await streams.start()
    await streams.create("a")
    appends = [asyncio.create_task(streams.append("a", "x")) for _ in range(10)]
    await asyncio.sleep(0)
    await streams.stop()
    results = await asyncio.gather(*appends)
    assert position(results[-1].offset) == 10


async def test_stopping_follows_a_cascade_to_its_end(remote: RemoteStore) -> None:
    streams = Engine(remote)
    await streams.start()
    await streams.create("a", data="x")
    await streams.fork("b", "a")
    await streams.fork("c", "b")
    await streams.delete("a")
    await streams.delete("b")
    deleting = await started(streams.delete("c"))
    deleting.cancel()
    await asyncio.gather(deleting, return_exceptions=True)
    await streams.stop()
    assert await remote.list("", "", 10) == []


async def test_stopping_leaves_nobody_waiting_for_an_outcome_that_never_comes(
    memory: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    remote = RemoteStore(memory)
    from durable_streams_server import Limits

    streams = Engine(remote, limits=Limits(drain=0.02))
    await streams.start()
    await streams.create("a")
    remote.committing.shut()
    flying = await started(streams.append("a", "x"))
    await remote.committing.reached.wait()
    queued = await started(streams.append("a", "y"))
    await streams.stop()
    with pytest.raises(Unavailable) as caught:
        await flying
    assert caught.value.code == "outcome-unknown"
    with pytest.raises(Unavailable) as caught:
        await queued
    assert caught.value.code == "not-started"
    assert not remote.opened
    assert "did not finish" in caplog.text


# A store that is done when the call returns.


class Reluctant(MemoryStore):
    """An immediate store that refuses its first commits, and counts what it is asked."""

    def __init__(self, *refusals: Any) -> None:
        super().__init__()
        self.outcomes = list(refusals)
        self.asked = 0

    def commit_nowait(self, batch: Any) -> Any:
        self.asked += 1
        if self.outcomes and batch[0].delta.data:
            return [self.outcomes.pop(0)]
        return super().commit_nowait(batch)

    def append_nowait(self, path: Any, head: Any, data: Any, fields: Any) -> bool:
        return False


async def test_an_immediate_store_is_asked_once_for_an_append(
    engines: Callable[..., object],
) -> None:
    store = Reluctant()
    streams = await engines(store)
    await streams.create("a")
    store.asked = 0
    assert position((await streams.append("a", "x")).offset) == 1
    assert store.asked == 1


async def test_what_an_immediate_store_does_not_do_at_once_takes_its_turn_in_the_commit_queue(
    engines: Callable[..., object],
) -> None:
    streams = await engines(Reluctant(Refused("storage-full", "Full."), Conflicted(None)))
    await streams.create("a")
    assert position((await streams.append("a", "x")).offset) == 1
    assert (await streams.read("a")).data == b"x"


async def test_an_immediate_store_that_stays_full_says_so(engines: Callable[..., object]) -> None:
    full = Refused("storage-full", "The store is full.")
    streams = await engines(Reluctant(full, full))
    await streams.create("a")
    with pytest.raises(Unavailable) as caught:
        await streams.append("a", "x")
    assert (caught.value.status, caught.value.code) == (507, "storage-full")
    assert position((await streams.append("a", "y")).offset) == 1


async def test_an_append_begun_by_the_notification_of_another_is_stored_after_it(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    streams = await engines(memory)
    await streams.create("a")
    answers = []

    def follow(changes: Any) -> None:
        if changes and changes[-1].data == b"first":
            operation = Append(Body(b"second"))
            answers.append(streams.perform_nowait("a", operation))

    stop = memory.watch(follow)
    assert position((await streams.append("a", "first")).offset) == 5
    stop()
    assert [answer.tail for answer in answers] == [11]
    assert (await streams.read("a")).data == b"firstsecond"


async def test_a_bug_in_a_decision_is_the_same_answer_at_once(
    engines: Callable[..., object], memory: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(Append):
        def decide(self, draft: Any, now: Any) -> None:
            raise ValueError("a bug")

    class WrongBody(Body):
        def stored(self, kind: Any, *, creating: bool = False) -> bytes:
            raise ValueError("a bug")

    streams = await engines(memory)
    await streams.create("a")
    for operation in (Wrong(Body(b"x")), Append(WrongBody(b"x"))):
        with pytest.raises(ProtocolError):
            streams.perform_nowait("a", operation)
        assert f"deciding {type(operation).__name__} failed" in caplog.text
    assert position((await streams.append("a", "x")).offset) == 1


async def test_an_outcome_that_an_immediate_store_does_not_know_is_not_tried_again(
    engines: Callable[..., object],
) -> None:
    """It was taken for a refusal, and the append was stored twice."""
    store = Reluctant()

    def lose(batch: Any) -> Any:
        MemoryStore.commit_nowait(store, batch)
        return [Unknown("lost")]

    streams = await engines(store)
    await streams.create("a")
    store.commit_nowait = lose
    with pytest.raises(Unavailable) as caught:
        await streams.append("a", "x")
    assert caught.value.code == "outcome-unknown"
    del store.commit_nowait
    assert (await streams.read("a")).data == b"x"


@pytest.mark.parametrize("call", ["append", "close_stream", "create"])
async def test_an_immediate_store_that_raises_blocks_no_stream(
    engines: Callable[..., object],
    memory: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    """Its commit queue stayed busy for ever."""
    streams = await engines(memory)
    await streams.create("a", content_type="text/plain")

    def fail(*_: Any) -> None:
        raise OSError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(memory, "commit_nowait", fail)
        patched.setattr(memory, "append_nowait", fail)
        with pytest.raises(Unavailable) as caught:
            if call == "create":
                await streams.create("b")
            else:
                await getattr(streams, call)("a", "x")
    assert caught.value.code == "outcome-unknown"
    assert "the store failed in a commit" in caplog.text
    await streams.create("b")
    assert position((await streams.append("a", "x")).offset) == 1


@pytest.mark.parametrize("call", ["append", "close_stream", "create"])
@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_a_local_store_that_cannot_be_looked_at_blocks_no_stream(
    engines: Callable[..., object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    kind: str,
    call: str,
) -> None:
    """Its commit queue stayed busy for ever."""
    store = MemoryStore() if kind == "memory" else create_store(f"file:{tmp_path}/data")
    streams = await engines(store)
    await streams.create("a", content_type="text/plain")

    def fail(*_: Any) -> None:
        raise OSError("a bug")

    path = "b" if call == "create" else "a"
    arguments = () if call == "create" else ("x",)
    with monkeypatch.context() as patched:
        patched.setattr(store, "peek", fail)
        with pytest.raises(Unavailable) as caught:
            await getattr(streams, call)(path, *arguments)
        # One that waits behind another fares no worse.
        both = (getattr(streams, call)(path, *arguments) for _ in range(2))
        for error in await asyncio.gather(*both, return_exceptions=True):
            assert isinstance(error, Unavailable)
    assert caught.value.status == 503
    assert "the store failed in a commit" in caplog.text
    await streams.create("b")
    assert position((await streams.append("a", "x")).offset) == 1


@pytest.mark.parametrize("call", ["append", "close_stream"])
async def test_a_file_store_that_raises_blocks_no_stream(
    engines: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store = create_store(f"file:{tmp_path}/data")
    streams = await engines(store)
    await streams.create("a", content_type="text/plain")

    def fail(*_: Any) -> None:
        raise OSError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(store, "submit", fail)
        patched.setattr(store, "submit_append", fail)
        with pytest.raises(Unavailable) as caught:
            await getattr(streams, call)("a", "x")
    assert caught.value.code == "outcome-unknown"
    assert position((await streams.append("a", "x")).offset) == 1


def count_watchers(memory: MemoryStore) -> set[object]:
    """The watchers of a store, as they come and go."""
    watching: set[object] = set()
    watch = memory.watch

    def counted(watcher: Watcher) -> Callable[[], None]:
        token = object()
        watching.add(token)
        stop = watch(watcher)

        def stopped() -> None:
            watching.discard(token)
            stop()

        return stopped

    memory.watch = counted  # type: ignore[method-assign]
    return watching


@pytest.mark.parametrize("shared", [True, False])
async def test_an_engine_that_could_not_start_leaves_nothing_behind(
    memory: MemoryStore, remote: RemoteStore, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """It watched the store twice after the next try."""
    watching = count_watchers(memory)
    streams = Engine(remote if shared else memory)
    seen = 0

    async def fail() -> None:
        nonlocal seen
        seen = len(watching)
        raise OSError("no")

    with monkeypatch.context() as patched:
        patched.setattr(streams.subscriptions.driver, "scan", fail)
        with pytest.raises(OSError, match="no"):
            await streams.start()
    assert seen
    assert not watching
    with pytest.raises(Unavailable):
        await streams.append("a", "x")
    async with streams:
        await streams.create("a")
        assert len(watching) == seen
    assert not watching


async def test_a_stop_that_is_cancelled_closes_the_store(memory: MemoryStore) -> None:
    watching = count_watchers(memory)
    streams = Engine(memory)
    await streams.start()
    assert watching
    stopping = asyncio.create_task(streams.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    assert not watching
