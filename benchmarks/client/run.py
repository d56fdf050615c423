"""Measures Python and TypeScript clients against one server, one after the other.

    python benchmarks/client/run.py --url http://127.0.0.1:4437/v1/stream/ [--only NAME ...]
    python benchmarks/client/run.py                # starts our server, in memory, by itself

Clients that are not installed are left out: `pip install durable-streams httpx2` brings the other
Python ones; `--npm DIRECTORY` names one that holds node_modules/@durable-streams/client.

Each client runs in a process of its own and prints one JSON object:

- append_ms: median and 99th percentile of 1,000 appends of a 100-byte JSON message, one by one
- producer_100, producer_1000: messages a second through the producer, JSON of that many bytes
- catch_up: MB/s of reading a stream of 100 MB
- round_trip_ms: median and 99th percentile, from the start of an append to its arrival at a
  reader over SSE, 500 times
"""

import argparse
import json
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CATCH_UP_BYTES = 100_000_000
PIECE = 1_000_000

CLIENTS = {
    "ours, sync": [sys.executable, str(HERE / "ours.py"), "--sync"],
    "ours, async": [sys.executable, str(HERE / "ours.py"), "--async"],
    "ours, async, uvloop": [sys.executable, str(HERE / "ours.py"), "--async", "--uvloop"],
    "ours, sync, httpx2": [sys.executable, str(HERE / "ours.py"), "--sync", "--httpx2"],
    "ours, async, httpx2": [sys.executable, str(HERE / "ours.py"), "--async", "--httpx2"],
    "durable-streams (PyPI), sync": [sys.executable, str(HERE / "upstream.py")],
    "@durable-streams/client": ["node", str(HERE / "typescript.mjs")],
}


@contextmanager
def serving(url: str | None) -> Iterator[str]:
    """The URL given, or that of a server of ours."""
    if url is not None:
        yield url
        return
    port = 4599
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "durable_streams_server", "--store", "memory:"),
            *("--port", str(port), "--log-level", "error"),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        server.stdout.readline()
        yield f"http://127.0.0.1:{port}/v1/stream/"
    finally:
        server.terminate()
        server.wait()


def fill(url: str) -> None:
    """Make the stream that catch-up reads."""
    kind = {"Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=kind)).read()
    piece = secrets.token_bytes(PIECE)
    for _ in range(CATCH_UP_BYTES // PIECE):
        urllib.request.urlopen(
            urllib.request.Request(url, method="POST", headers=kind, data=piece)
        ).read()


def shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return " / ".join(f"{each:.2f}" for each in value)
    return f"{value:,.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure clients against one server.")
    parser.add_argument("--url", help="where streams live; without it a server is started")
    parser.add_argument("--only", action="append", choices=list(CLIENTS))
    parser.add_argument("--npm", default=str(HERE), help="directory that holds node_modules")
    options = parser.parse_args()
    rows = []
    with serving(options.url) as url:
        base = f"{url}bench-{secrets.token_hex(4)}-"
        fill(base + "100mb")
        for name, command in CLIENTS.items():
            if options.only and name not in options.only:
                continue
            extra = [options.npm] if command[0] == "node" else []
            done = subprocess.run(
                [*command, base, *extra], stdout=subprocess.PIPE, text=True, check=False
            )
            if done.returncode != 0:
                print(f"{name}: left out", file=sys.stderr)
                continue
            rows.append((name, json.loads(done.stdout.splitlines()[-1])))
            print(name, rows[-1][1], file=sys.stderr)
    keys = ["append_ms", "producer_100", "producer_1000", "catch_up", "round_trip_ms"]
    print("| client | append ms, p50 / p99 | 100 B msg/s | 1 KB msg/s | catch-up MB/s |", end="")
    print(" round trip ms, p50 / p99 |\n|---|---|---|---|---|---|")
    for name, row in rows:
        print(f"| {name} | " + " | ".join(shown(row.get(key)) for key in keys) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
