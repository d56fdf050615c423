"""Output is gathered into few appends, the first of them at once, and each stored once."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sources import SHORT_LEASE, Held, text, yielding

from durable_streams_runs import Limits, Runs, Status
from durable_streams_server import Engine, Unavailable


class Recording(Engine):
    """An engine that records what is appended to the run ``a``, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__("memory:")
        self.appended: list[bytes] = []
        self.failures: list[tuple[bool, Exception]] = []
        """For each next append: whether it is stored all the same, and what is raised."""

    async def append(self, path: str, data: Any, **options: Any) -> Any:
        if path != "a":
            return await super().append(path, data, **options)
        self.appended.append(data)
        stored, error = self.failures.pop(0) if self.failures else (True, None)
        result = await super().append(path, data, **options) if stored else None
        if error is not None:
            raise error
        return result


@pytest.fixture
async def engine() -> AsyncIterator[Recording]:
    async with Recording() as started:
        yield started


END = b'\x1e{"type":"run-end","status":"done"}\n'


async def test_the_first_item_is_sent_at_once_and_the_rest_with_the_end(engine: Recording) -> None:
    async with Runs(engine, lease=SHORT_LEASE, limits=Limits(gather=3600)) as runs:
        run = await runs.start("a", yielding(["one ", "two ", "three"]))
        assert (await run.wait()).status is Status.DONE
        assert engine.appended == [b"one ", b"two three" + END]


async def test_output_is_sent_once_it_is_large_enough(engine: Recording) -> None:
    limits = Limits(gather=3600, gather_bytes=8)
    async with Runs(engine, lease=SHORT_LEASE, limits=limits) as runs:
        run = await runs.start("a", yielding(["one ", "two ", "four", "five"]))
        await run.wait()
        assert engine.appended == [b"one ", b"two four", b"five" + END]


async def test_output_after_a_pause_is_sent_while_the_source_goes_on(engine: Recording) -> None:
    held = Held()
    async with Runs(engine, lease=SHORT_LEASE, limits=Limits(gather=0.001)) as runs:
        run = await runs.start("a", held.stream())
        held.give("one", "two")
        got = ""
        async for part in run.follow():
            got += part.text
            if got == "onetwo":
                held.finish()
        assert part.end is not None


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("failing", [1, 3])
async def test_an_append_whose_outcome_is_lost_is_stored_once(
    engine: Recording, stored: bool, failing: int
) -> None:
    code = "outcome-unknown" if stored else "unavailable"
    engine.failures = [(stored, Unavailable("away", code=code)) for _ in range(failing)]
    async with Runs(engine, lease=SHORT_LEASE) as runs:
        run = await runs.start("a", yielding(["one ", "two"]))
        assert await text(run) == ("one two", "done")
        assert engine.appended[0] == engine.appended[failing] == b"one "


async def test_an_end_whose_outcome_is_lost_is_stored_once(engine: Recording) -> None:
    async with Runs(engine, lease=SHORT_LEASE) as runs:
        engine.failures = [(True, Unavailable("away", code="outcome-unknown"))]
        run = await runs.start("a", yielding([]))
        assert await text(run) == ("", "done")
        assert (await engine.read("a")).data == END
