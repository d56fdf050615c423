"""The cost of a stream does not grow with the number of streams."""

import gc
from pathlib import Path

from durable_streams_core.entities import Applied, Commit, Delta, Guard, Head
from durable_streams_server.stores.file import FileStore


def looked_through() -> int:
    """How many objects and references the garbage collector visits in a full round, about."""
    gc.collect()
    tracked = gc.get_objects()
    held = sum(len(each) for each in tracked if isinstance(each, dict | list | set | tuple))
    return len(tracked) + held


async def test_the_garbage_collector_has_no_more_to_look_through_with_more_streams(
    tmp_path: Path,
) -> None:
    store = FileStore(tmp_path, sync="off", save_bytes=10_000)
    await store.open()

    async def create(begin: int, end: int) -> None:
        batch = [
            Commit(f"c{n}", f"s{n}", Guard(None), Delta(create=Head(f"i{n}", b""), data=b"x" * 100))
            for n in range(begin, end)
        ]
        assert all(isinstance(outcome, Applied) for outcome in await store.commit(batch))

    await create(0, 10)
    await store.list("", "", 10)
    before = looked_through()
    await create(10, 2010)
    await store.list("", "", 10)
    for _ in range(20):
        # Until what is being written to files is there.
        if looked_through() - before < 500:
            break
        await create(0, 1)
    else:
        raise AssertionError(looked_through() - before)
    await store.close()
