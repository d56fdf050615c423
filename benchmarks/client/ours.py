"""One flavour of our client, measured; see run.py."""

import argparse
import asyncio
import inspect
import json
import secrets
import time
from typing import Any

import durable_streams_client as ds

COUNT = {100: 1_000_000, 1000: 200_000}


def message(size: int) -> dict[str, Any]:
    """A JSON message of ``size`` bytes."""
    value = {"id": 123456, "role": "assistant", "text": ""}
    value["text"] = "x" * (size - len(json.dumps(value, separators=(",", ":"))))
    return value


async def settle(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def spread(times: list[float]) -> list[float]:
    times.sort()
    return [times[len(times) // 2] * 1000, times[len(times) * 99 // 100] * 1000]


async def append(stream: Any) -> list[float]:
    value, times = message(100), []
    for _ in range(1000):
        start = time.perf_counter()
        await settle(stream.append(value))
        times.append(time.perf_counter() - start)
    return spread(times)


def produce(stream: ds.Stream, size: int) -> float:
    value, count = message(size), COUNT[size]
    start = time.perf_counter()
    with stream.producer() as producer:
        add = producer.append
        for _ in range(count):
            add(value)
    return count / (time.perf_counter() - start)


async def produce_async(stream: ds.AsyncStream, size: int) -> float:
    value, count = message(size), COUNT[size]
    start = time.perf_counter()
    async with stream.producer() as producer:
        add = producer.append
        for _ in range(count):
            await add(value)
    return count / (time.perf_counter() - start)


async def catch_up(stream: Any) -> float:
    best = 0.0
    for _ in range(5):
        size = 0
        start = time.perf_counter()
        reader = stream.read()
        if hasattr(reader, "__aiter__"):
            async for batch in reader:
                size += len(batch.data)
        else:
            for batch in reader:
                size += len(batch.data)
        best = max(best, size / 1e6 / (time.perf_counter() - start))
        assert size == 100_000_000
    return best


def round_trips(stream: ds.Stream) -> list[float]:
    value, times = message(100), []
    with stream.follow(ds.NOW, live="sse") as reader:
        next(reader)
        for turn in range(510):
            start = time.perf_counter()
            stream.append(value)
            next(reader)
            if turn >= 10:
                times.append(time.perf_counter() - start)
    return spread(times)


async def round_trips_async(stream: ds.AsyncStream) -> list[float]:
    value, times = message(100), []
    async with stream.follow(ds.NOW, live="sse") as reader:
        await anext(reader)
        for turn in range(510):
            start = time.perf_counter()
            await stream.append(value)
            await anext(reader)
            if turn >= 10:
                times.append(time.perf_counter() - start)
    return spread(times)


async def measure(base: str, *, sync: bool, http: Any) -> dict[str, Any]:
    client: Any = (ds.Client if sync else ds.AsyncClient)(http=http, cache_bytes=0)

    async def fresh() -> Any:
        stream = client.stream(base + secrets.token_hex(4))
        await settle(stream.create(content_type="application/json"))
        return stream

    result: dict[str, Any] = {"append_ms": await append(await fresh())}
    for size in COUNT:
        stream = await fresh()
        rate = [
            produce(stream, size) if sync else await produce_async(stream, size) for _ in range(2)
        ]
        result[f"producer_{size}"] = max(rate)
        await settle(stream.delete())
    result["catch_up"] = await catch_up(client.stream(base + "100mb"))
    stream = await fresh()
    result["round_trip_ms"] = round_trips(stream) if sync else await round_trips_async(stream)
    await settle(client.close() if sync else client.aclose())
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("--sync", action="store_true")
    parser.add_argument("--async", action="store_true")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--httpx2", action="store_true")
    options = parser.parse_args()
    http = None
    if options.httpx2:
        import httpx2

        http = (httpx2.Client if options.sync else httpx2.AsyncClient)(timeout=None)
    run = asyncio.run
    if options.uvloop:
        import uvloop

        run = uvloop.run
    print(json.dumps(run(measure(options.base, sync=options.sync, http=http))))


if __name__ == "__main__":
    main()
