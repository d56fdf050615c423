"""Measures the cost of runs against appends alone: CPU for each token, time to the first, memory.

    python benchmarks/runs.py
    python benchmarks/runs.py --rounds 9 --tokens 20000

Each comparison alternates its two sides in one process, and prints medians of CPU time. Loopback
and network are not in it.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count

from durable_streams_runs import JSON, Runs
from durable_streams_server import Engine

TOKEN = "token "
names = count()


async def at_once(tokens: int) -> AsyncIterator[str]:
    for n in range(tokens):
        if not n % 100:
            await asyncio.sleep(0)
        yield TOKEN


async def paced(tokens: int) -> AsyncIterator[str]:
    """50 tokens a second, as models write."""
    for _ in range(tokens):
        await asyncio.sleep(0.02)
        yield TOKEN


async def cpu(work: Awaitable[object]) -> float:
    began = time.process_time()
    await work
    return time.process_time() - began


async def through_run(runs: Runs, source: AsyncIterator[str]) -> None:
    await runs.wait((await runs.start(f"run/{next(names)}", source)).id)


async def through_append(streams: Engine, source: AsyncIterator[str]) -> None:
    path = f"append/{next(names)}"
    await streams.create(path, content_type="text/plain")
    async for token in source:
        await streams.append(path, token)
    await streams.close_stream(path)


async def through_nothing(source: AsyncIterator[str]) -> None:
    async for _ in source:
        pass


async def compare(
    title: str, tokens: int, rounds: int, sides: dict[str, Callable[[], Awaitable[object]]]
) -> None:
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            spent = await cpu(side())
            if turn:
                seen[name].append(spent / tokens * 1e6)
    medians = {name: statistics.median(each) for name, each in seen.items()}
    print(f"{title}: " + ", ".join(f"{name} {each:.2f} µs" for name, each in medians.items()))


async def tokens(streams: Engine, runs: Runs, store: str, number: int, rounds: int) -> None:
    await compare(
        f"{store}, CPU for a token, as fast as it goes",
        number,
        rounds,
        {
            "run": lambda: through_run(runs, at_once(number)),
            "append alone": lambda: through_append(streams, at_once(number)),
            "source alone": lambda: through_nothing(at_once(number)),
        },
    )
    many, each = 100, 50
    await compare(
        f"{store}, CPU for a token, {many} answers of 50 tokens a second",
        many * each,
        max(1, rounds // 2),
        {
            "run": lambda: asyncio.gather(*(through_run(runs, paced(each)) for _ in range(many))),
            "append alone": lambda: asyncio.gather(
                *(through_append(streams, paced(each)) for _ in range(many))
            ),
            "source alone": lambda: asyncio.gather(
                *(through_nothing(paced(each)) for _ in range(many))
            ),
        },
    )


async def first_token(streams: Engine, runs: Runs, store: str, rounds: int) -> None:
    """From the call to the first token in a reader's hands."""
    seen: dict[str, list[float]] = {"run": [], "append alone": []}
    for _ in range(rounds * 20):
        began = time.perf_counter()
        run = await runs.start(f"first/{next(names)}", at_once(1))
        async for part in run.follow():
            if part.items:
                break
        seen["run"].append(time.perf_counter() - began)
        began = time.perf_counter()
        path = f"first/{next(names)}"
        await streams.create(path, content_type="text/plain")
        await streams.append(path, TOKEN)
        async for batch in streams.follow(path):
            if batch.data:
                break
        seen["append alone"].append(time.perf_counter() - began)
    medians = ", ".join(
        f"{name} {statistics.median(each) * 1e3:.2f} ms" for name, each in seen.items()
    )
    print(f"{store}, time to the first token: {medians}")


async def memory(number: int) -> None:
    async def waiting() -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield ""

    async with Engine("memory:") as streams, Runs(streams) as runs:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for n in range(number):
            await streams.create(f"plain/{n}", content_type="text/plain")
        between = tracemalloc.get_traced_memory()[0]
        for n in range(number):
            await runs.start(f"waiting/{n}", waiting())
        await asyncio.sleep(0.1)
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        plain, run = (between - before) / number, (after - between) / number
        print(f"memory of {number} running runs: {run:.0f} bytes each; a stream alone {plain:.0f}")
        size = sum(info.size for info in await streams.list("runs/registry/"))
        print(f"registry after their start: {size / number:.0f} bytes each")


async def sizes() -> None:
    async with Engine("memory:") as streams, Runs(streams) as runs:
        words = [f"w{n % 1000:03} " for n in range(2000)]

        async def source(json: bool) -> AsyncIterator[object]:
            for word in words:
                yield {"token": word} if json else word

        for form, name in ((None, "text"), (JSON, "json")):
            run = await (
                runs.start(name, source(False))
                if form is None
                else runs.start(name, source(True), output=form)
            )
            await run.wait()
            print(
                f"2,000 tokens of {len(''.join(words))} bytes as {name}: {(await streams.head(name)).size} bytes"
            )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for store in ("memory:", f"file:{directory}"):
            name = store.partition(":")[0]
            async with Engine(store) as streams, Runs(streams) as runs:
                await tokens(streams, runs, name, options.tokens, options.rounds)
                await first_token(streams, runs, name, options.rounds)
    await sizes()
    await memory(10_000)


if __name__ == "__main__":
    asyncio.run(main())
