"""Measures one client that holds many live readers.

    python benchmarks/client/live_readers.py [--sync] [--readers 2000]

Starts our server, in memory, lets that many readers of one client follow a stream over SSE, and
prints one JSON object: the seconds until every reader is live, the memory that a reader costs in
KiB, and for `head()` and `append()` beside the readers the CPU of a call in milliseconds and the
connections that twenty calls opened. Linux.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import durable_streams_client as ds

CALLS = 200
JSON = "application/json"


def memory_kib() -> int:
    """Resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def own_ports() -> set[int]:
    """Local TCP ports of this process, as a number for each connection."""
    inodes = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[9] in inodes}


async def measure_async(url: str, readers: int) -> dict[str, Any]:
    async with ds.AsyncClient(url) as client:
        plain = client.stream("plain", content_type=JSON)
        await plain.create()
        followed = client.stream("followed", content_type=JSON)
        await followed.create()
        live = 0
        everyone = asyncio.Event()

        async def follow() -> None:
            nonlocal live
            async for batch in followed.follow(live="sse"):
                if batch.items():
                    live += 1
                    if live == readers:
                        everyone.set()

        before = memory_kib()
        start, cpu = time.perf_counter(), time.process_time()
        tasks = [asyncio.create_task(follow()) for _ in range(readers)]
        while sum(1 for task in tasks if not task.done()) < readers or len(own_ports()) < readers:
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        await plain.append(0)
        await followed.append(0)
        async with asyncio.timeout(300):
            await everyone.wait()
        result: dict[str, Any] = {
            "start_s": round(time.perf_counter() - start - 1, 2),
            "start_cpu_s": round(time.process_time() - cpu, 2),
            "kib_per_reader": round((memory_kib() - before) / readers, 1),
        }
        for name, call in (("head", plain.head), ("append", lambda: plain.append(1))):
            cpu = time.process_time()
            for _ in range(CALLS):
                await call()
            result[f"{name}_cpu_ms"] = round((time.process_time() - cpu) * 1000 / CALLS, 3)
            before_them = own_ports()
            seen = set(before_them)
            for _ in range(20):
                await call()
                seen |= own_ports()
            result[f"{name}_opened"] = len(seen - before_them)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return result


def measure_sync(url: str, readers: int) -> dict[str, Any]:
    with ds.Client(url) as client:
        plain = client.stream("plain", content_type=JSON)
        plain.create()
        followed = client.stream("followed", content_type=JSON)
        followed.create()
        count = threading.Semaphore(0)
        opened = [followed.follow(live="sse") for _ in range(readers)]

        def follow(reader: ds.Reader[Any]) -> None:
            try:
                for batch in reader:
                    if batch.items():
                        count.release()
            except ds.Cancelled:
                return

        before = memory_kib()
        start, cpu = time.perf_counter(), time.process_time()
        threads = [threading.Thread(target=follow, args=(reader,)) for reader in opened]
        for thread in threads:
            thread.start()
        while len(own_ports()) < readers:
            time.sleep(0.1)
        time.sleep(1)
        plain.append(0)
        followed.append(0)
        for _ in range(readers):
            count.acquire(timeout=300)
        result: dict[str, Any] = {
            "start_s": round(time.perf_counter() - start - 1, 2),
            "start_cpu_s": round(time.process_time() - cpu, 2),
            "kib_per_reader": round((memory_kib() - before) / readers, 1),
        }
        for name, call in (("head", plain.head), ("append", lambda: plain.append(1))):
            cpu = time.process_time()
            for _ in range(CALLS):
                call()
            result[f"{name}_cpu_ms"] = round((time.process_time() - cpu) * 1000 / CALLS, 3)
            before_them = own_ports()
            seen = set(before_them)
            for _ in range(20):
                call()
                seen |= own_ports()
            result[f"{name}_opened"] = len(seen - before_them)
        for reader in opened:
            reader.cancel()
        for thread in threads:
            thread.join()
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a client with many live readers.")
    parser.add_argument("--readers", type=int, default=2000)
    parser.add_argument("--sync", action="store_true")
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    command = [sys.executable, "-m", "durable_streams_server", "--store", "memory:", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = next(word for word in server.stdout.readline().split() if word.startswith("http"))
        try:
            if options.sync:
                result = measure_sync(url, options.readers)
            elif options.uvloop:
                import uvloop

                result = uvloop.run(measure_async(url, options.readers))
            else:
                result = asyncio.run(measure_async(url, options.readers))
        finally:
            server.terminate()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
