"""While the store is away, or refuses, every run still gets its end, and nothing is left behind."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import httpx
import pytest
from sources import Held, text, with_counting, yielding

from durable_streams_client import AsyncAsgiTransport, AsyncClient, RetryPolicy
from durable_streams_runs import Limits, NotARun, RunInfo, Runs, RunsUnavailable, Status
from durable_streams_runs.engine_streams import EngineWriter
from durable_streams_runs.records import Ended, Record
from durable_streams_runs.registry import Registry
from durable_streams_server import Engine, InvalidRequest, Unavailable, create_asgi

HOUR = 3600
"""A lease in which nobody is found dead: runs are taken over only from those that shut down."""


class Troubled(Engine):
    """An engine that fails for the stream ``a`` as often as it is told to."""

    def __init__(self, store: Any = "memory:") -> None:
        super().__init__(store)
        self.away: Counter[str] = Counter()
        """How often each method still finds the store away."""
        self.refuses = False
        """Whether it refuses appends."""

    def _check(self, method: str, path: str) -> None:
        if path == "a" and self.away[method]:
            self.away[method] -= 1
            raise Unavailable("the store at 10.0.0.1 is away")

    async def create(self, path: str, **options: Any) -> Any:
        self._check("create", path)
        return await super().create(path, **options)

    async def head(self, path: str) -> Any:
        self._check("head", path)
        return await super().head(path)

    async def read(self, path: str, *args: Any, **options: Any) -> Any:
        self._check("read", path)
        return await super().read(path, *args, **options)

    async def append(self, path: str, *args: Any, **options: Any) -> Any:
        self._check("append", path)
        if path == "a" and self.refuses:
            raise InvalidRequest("The store takes no such data.")
        return await super().append(path, *args, **options)


@pytest.fixture
async def engine() -> AsyncIterator[Troubled]:
    async with Troubled() as started:
        yield started


async def leave(streams: Any, successor: Callable[[], Awaitable[None]] | None = None) -> None:
    """Start a run that can be restarted, and shut down once it has written "012"."""
    async with Runs(streams, lease=HOUR) as first:
        run = await first.start("a", with_counting(first, Held()), args={"to": 3})
        got = ""
        async for part in run.follow():
            got += part.text
            if got == "012":
                break
        if successor is not None:
            await successor()


async def recorded(runs: Runs) -> RunInfo:
    """The run as the registry knows it, once that says that it ended."""
    while (found := (await runs.list())[0]).status is Status.RUNNING:
        await asyncio.sleep(0)
    return found


async def until_written(run: Any) -> None:
    async for part in run.follow():
        if part.items:
            break


@pytest.mark.parametrize("method", ["read", "append"])
async def test_a_restart_waits_while_the_store_is_away(engine: Troubled, method: str) -> None:
    async with Runs(engine, lease=HOUR) as second:
        with_counting(second, Held())

        async def trouble() -> None:
            engine.away[method] = 2

        await leave(engine, trouble)
        assert await text(await second.start("a", yielding([]))) == ("012", "done")


async def test_a_restart_that_its_task_refuses_ends_the_run(
    engine: Troubled, caplog: pytest.LogCaptureFixture
) -> None:
    async with Runs(engine, lease=HOUR) as second:

        @second.task(restart=True)
        def counting(written: str) -> Any:
            """Takes other arguments than the version of the program that started the run."""

        await leave(engine)
        assert (await second.wait("a")).status is Status.INTERRUPTED
        assert (await recorded(second)).status is Status.INTERRUPTED
        assert "cannot be restarted" in caplog.text


async def test_a_run_whose_stream_takes_no_end_ends_in_the_registry(engine: Troubled) -> None:
    async with Runs(engine, lease=HOUR) as second:
        with_counting(second, Held())

        async def trouble() -> None:
            engine.refuses = True

        await leave(engine, trouble)
        assert (await recorded(second)).status is Status.INTERRUPTED


async def test_an_owner_whose_stream_takes_no_end_ends_its_run_in_the_registry(
    engine: Troubled,
) -> None:
    async with Runs(engine, lease=HOUR) as runs:
        held = Held()
        await runs.start("a", held.stream())
        engine.refuses = True
        held.finish()
        assert (await recorded(runs)).status is Status.INTERRUPTED


async def test_an_end_that_cannot_be_recorded_gives_the_writer_back(
    engine: Troubled, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released = asyncio.Event()
    post = Registry.post_nowait

    async def release(_writer: EngineWriter) -> None:
        released.set()

    def refuse_ends(registry: Registry, record: Record) -> Any:
        if isinstance(record, Ended):
            raise TypeError("This cannot be encoded.")
        return post(registry, record)

    monkeypatch.setattr(EngineWriter, "release", release)
    monkeypatch.setattr(Registry, "post_nowait", refuse_ends)
    async with Runs(engine, lease=HOUR) as runs:
        run = await runs.start("a", yielding(["x"]))
        assert (await run.wait()).status is Status.DONE
        await released.wait()
    assert "was not recorded" in caplog.text


async def test_a_restart_finds_no_place_beyond_the_limit(engine: Troubled) -> None:
    async with Runs(engine, lease=HOUR, limits=Limits(running=1)) as second:
        with_counting(second, Held())
        await second.start("b", Held().stream())
        await leave(engine)
        assert (await second.wait("a")).status is Status.INTERRUPTED


async def test_starts_at_once_have_no_more_places_than_the_limit(engine: Troubled) -> None:
    async with Runs(engine, lease=HOUR, limits=Limits(running=2)) as runs:
        found = await asyncio.gather(
            *(runs.start(f"{n}", Held().stream()) for n in range(5)), return_exceptions=True
        )
        assert [type(each) for each in found[2:]] == [RunsUnavailable] * 3
        assert len(await runs.list()) == 2
        # A place is free again after a start that failed.
        await runs.stop("0")
        engine.away["create"] = 1
        with pytest.raises(Unavailable):
            await runs.start("a", Held().stream())
        assert (await runs.start("b", Held().stream())).started


async def test_a_stop_waits_for_the_end_that_it_finds_while_the_store_is_away(
    shared: Callable[[], Engine],
) -> None:
    reached, ended = asyncio.Event(), asyncio.Event()

    class Late(Troubled):
        async def append(self, path: str, *args: Any, **options: Any) -> Any:
            if path == "a":
                reached.set()
                await ended.wait()
                self.away["read"] = 2
            return await super().append(path, *args, **options)

    held = Held()
    async with shared() as streams, Late(shared().store) as late:
        async with Runs(streams, lease=HOUR) as owner, Runs(late, lease=HOUR) as other:
            run = await owner.start("a", held.stream())
            stopping = asyncio.create_task(other.stop("a"))
            await reached.wait()
            held.finish()
            await run.wait()
            ended.set()
            assert (await stopping).status is Status.DONE


async def test_a_creation_that_a_proxy_repeats_starts_the_run() -> None:
    class Repeated(Engine):
        async def create(self, path: str, **options: Any) -> Any:
            if path == "a":
                await super().create(path, **options)
            return await super().create(path, **options)

    async with Repeated("memory:") as streams, Runs(streams, lease=HOUR) as runs:
        assert await text(await runs.start("a", yielding(["x"]))) == ("x", "done")


@pytest.mark.parametrize("method", ["head", "create"])
async def test_a_stream_of_somebody_else_is_not_ended_while_the_store_is_away(
    engine: Troubled, method: str
) -> None:
    await engine.create("a", content_type="text/plain; charset=utf-8")
    engine.away[method] = 1
    async with Runs(engine, lease=HOUR) as runs:
        with pytest.raises((Unavailable, NotARun)):
            await runs.start("a", yielding(["x"]))
        while await runs.list():
            await asyncio.sleep(0)
    assert not (await engine.head("a")).closed
    assert (await engine.read("a")).data == b""


async def test_an_entry_that_is_cancelled_leaves_no_tasks() -> None:
    reached = asyncio.Event()

    class Stuck(Engine):
        async def create(self, path: str, **options: Any) -> Any:
            reached.set()
            await asyncio.Event().wait()

    async with Stuck("memory:") as streams:
        before = asyncio.all_tasks()
        entering = asyncio.create_task(Runs(streams, lease=HOUR).__aenter__())
        await reached.wait()
        entering.cancel()
        await asyncio.wait([entering])
        assert asyncio.all_tasks() == before


async def test_a_shutdown_that_is_cancelled_leaves_no_tasks(engine: Troubled) -> None:
    before = asyncio.all_tasks()
    runs = await Runs(engine, lease=HOUR).__aenter__()
    held = Held()
    await runs.start("a", held.stream())
    await held.begun.wait()
    engine.away["append"] = 1_000
    leaving = asyncio.create_task(runs.__aexit__(None, None, None))
    while engine.away["append"] == 1_000:
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    assert held.cancelled.is_set()
    assert asyncio.all_tasks() == before


async def test_a_shutdown_while_the_store_is_away_leaves_no_tasks(engine: Troubled) -> None:
    before = asyncio.all_tasks()
    async with Runs(engine, lease=0.5) as runs:
        held = Held()
        await runs.start("a", held.stream())
        await held.begun.wait()
        engine.away["append"] = 1_000
    assert held.cancelled.is_set()
    assert asyncio.all_tasks() == before


class Late(Engine):
    """Streams whose appends to "a" arrive when the test says so."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.reached, self.arrives = asyncio.Event(), asyncio.Event()

    async def append(self, path: str, *args: Any, **options: Any) -> Any:
        if path == "a":
            self.reached.set()
            await self.arrives.wait()
        return await super().append(path, *args, **options)


async def test_a_late_stop_of_an_earlier_run_leaves_the_new_one_of_its_id_running(
    shared: Callable[[], Engine],
) -> None:
    old, new = Held(), Held()
    async with shared() as streams, Late(shared().store) as late:
        async with Runs(streams, lease=HOUR) as owner, Runs(late, lease=HOUR) as other:
            run = await owner.start("a", old.stream())
            stopping = asyncio.create_task(other.stop("a"))
            await late.reached.wait()
            old.finish()
            await run.wait()
            await recorded(owner)
            await streams.delete("a")
            run = await owner.start("a", new.stream())
            assert run.started
            new.give("x")
            await until_written(run)
            late.arrives.set()
            assert (await stopping).status is Status.INTERRUPTED
            new.finish()
            assert await text(run) == ("x", "done")


async def test_a_late_append_of_an_earlier_run_is_not_in_the_new_one_of_its_id(
    shared: Callable[[], Engine],
) -> None:
    old, new = Held(), Held()
    async with shared() as streams, Late(shared().store) as late:
        limits = Limits(patience=0.05)
        async with Runs(late, lease=HOUR, limits=limits) as zombie, Runs(streams) as other:
            await zombie.start("a", old.stream())
            old.give("old")
            await late.reached.wait()
            assert (await other.stop("a")).status is Status.STOPPED
            await streams.delete("a")
            run = await other.start("a", new.stream())
            new.give("new")
            await until_written(run)
            late.arrives.set()
            await old.cancelled.wait()
            new.finish()
            assert await text(run) == ("new", "done")
            assert (await zombie.status("a")).status is Status.DONE


async def test_runs_of_a_registry_that_was_lost_end(engine: Troubled) -> None:
    async with Runs(engine, lease=HOUR) as runs:
        held = Held()
        await runs.start("a", held.stream())
        # Another process, which knows of no run, makes it anew.
        for path in ("runs/registry", "runs/registry/0"):
            await engine.delete(path)
        await engine.create(
            "runs/registry/0", content_type="application/json", data=b'{"t":"snapshot"}'
        )
        await held.cancelled.wait()
        while not (await engine.head("a")).closed:
            await asyncio.sleep(0)
        assert b'"interrupted"' in (await engine.read("a")).data


Scope = MutableMapping[str, Any]


@pytest.mark.parametrize("stored", [False, True], ids=["not stored", "stored"])
async def test_a_restart_over_http_is_repeated_until_the_server_has_it(stored: bool) -> None:
    """``stored`` says whether the server stores appends whose answers are lost."""
    engine = Engine("memory:")
    app = create_asgi(engine)
    lost = 0

    async def proxy(scope: Scope, receive: Any, send: Any) -> None:
        nonlocal lost
        if scope.get("method") != "POST" or scope["path"] != "/a" or not lost:
            await app(scope, receive, send)
            return
        lost -= 1
        if stored:

            async def ignore(message: Any) -> None:
                pass

            await app(scope, receive, ignore)
        await send({"type": "http.response.start", "status": 502, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with engine, httpx.AsyncClient(transport=AsyncAsgiTransport(proxy)) as web:
        async with (
            AsyncClient("http://app/", http=web, retry=RetryPolicy(attempts=1)) as client,
            Runs(client, lease=HOUR) as second,
        ):
            with_counting(second, Held())

            async def trouble() -> None:
                nonlocal lost
                lost = 2

            await leave(client, trouble)
            assert await text(await second.start("a", yielding([]))) == ("012", "done")
            assert (await engine.read("a")).data.count(b"run-restart") == 1
