"""The PyPI client `durable-streams`, measured as far as it goes: it has no producer; see run.py."""

import json
import secrets
import sys
import threading
import time
from queue import Empty, Queue

import durable_streams
import httpx
from ours import message, spread


def main() -> None:
    base = sys.argv[1]
    client = httpx.Client(timeout=None)  # noqa: S113
    value = message(100)

    def fresh() -> durable_streams.DurableStream:
        return durable_streams.DurableStream.create(
            base + secrets.token_hex(4), content_type="application/json", client=client
        )

    result: dict[str, object] = {}
    stream = fresh()
    times = []
    for _ in range(1000):
        start = time.perf_counter()
        stream.append(value)
        times.append(time.perf_counter() - start)
    result["append_ms"] = spread(times)

    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        offset, size, done = "-1", 0, False
        while not done:  # a read without `live` fetches one page
            with durable_streams.stream(
                base + "100mb", offset=offset, live=False, client=client
            ) as response:
                size += len(response.read_bytes())
                offset, done = response.offset, response.up_to_date
        best = max(best, size / 1e6 / (time.perf_counter() - start))
        assert size == 100_000_000
    result["catch_up"] = best

    stream = fresh()
    arrived: Queue[float] = Queue()

    def read() -> None:
        with durable_streams.stream(stream.url, live="sse", client=client) as response:
            for _ in response.iter_json():
                arrived.put(time.perf_counter())

    threading.Thread(target=read, daemon=True).start()
    stream.append(value)
    try:
        arrived.get(timeout=5)
    except Empty:  # it does not hand out what comes over SSE as it comes
        print(json.dumps(result), flush=True)
        return
    times = []
    for turn in range(510):
        start = time.perf_counter()
        stream.append(value)
        end = max(arrived.get(timeout=10), time.perf_counter())
        if turn >= 10:
            times.append(end - start)
    result["round_trip_ms"] = spread(times)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
