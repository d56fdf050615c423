"""Runs our servers and their peers side by side and writes a table, a plot and the raw figures.

    python benchmarks/run.py [--servers ours,node] [--workloads append-200,read-200] [--rounds 5]

All servers are pinned to one core and the load to the others. Rounds are interleaved: one of each
server, then the next of each; what is shown is the median. CPU per request, from /proc, is the
steadiest figure on a machine that others use too. Only 2xx answers count; a round with others says
so. Linux only. `npm ci` in conformance/ brings the Node peers, `pip install rakaia-streams` the
Python one, `cargo install` the Rust ones, `go build` the Caddy plugin's `cmd/caddy` as `ds-caddy`.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
from pathlib import Path

import uvloop
from load import allow_many_sockets
from report import plot, table
from servers import KINDS, Server, available
from workloads import WORKLOADS, Measure

HERE = Path(__file__).resolve().parent


async def one_round(
    server: Server, workload: str, options: argparse.Namespace
) -> dict[str, float] | None:
    try:
        async with asyncio.timeout(options.seconds + 150):
            measure: Measure = await WORKLOADS[workload].run(server, options.seconds, options.wrk)
    except (OSError, RuntimeError, TimeoutError, asyncio.IncompleteReadError) as error:
        print(f"  {server.name}: {workload} failed: {error!r}", file=sys.stderr)
        return None
    load = measure.load
    return {
        "ok": load.ok,
        "failed": load.failed,
        "per second": load.ok / load.seconds if load.seconds else 0.0,
        "cpu": measure.cpu / load.ok * 1e6 if load.ok else 0.0,
        "p50": load.percentile(0.5),
        "p99": load.percentile(0.99),
        "memory": measure.memory / 1024 / 1024,
        **measure.extra,
    }


async def compare(options: argparse.Namespace) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Rounds by workload and server."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for workload in options.workloads:
        rounds = found[workload] = {name: [] for name in options.servers}
        # Fresh servers for each workload: none pays for the streams that another left.
        servers = [Server(KINDS[name], options.core) for name in options.servers]
        try:
            for turn in range(options.rounds):
                for server in servers:
                    result = await one_round(server, workload, options)
                    if result is None:
                        continue
                    rounds[server.name].append(result)
                    print(
                        f"{workload:20} {turn + 1}/{options.rounds} {server.name:14}"
                        f" {result['cpu']:9.2f} us {result['per second']:10.0f}/s"
                        f" p99 {result['p99']:8.2f} ms  failed {result['failed']:.0f}  "
                        + "  ".join(
                            f"{key} {value:.1f}"
                            for key, value in result.items()
                            if key not in ("ok", "failed", "per second", "cpu", "p50", "p99")
                        ),
                        flush=True,
                    )
        finally:
            for server in servers:
                server.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare servers of the protocol.")
    parser.add_argument("--servers", default=",".join(KINDS))
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--core", type=int, default=0, help="the core of the servers")
    parser.add_argument("--wrk", action="store_true", help="wrk for the loads that it can make")
    parser.add_argument("--out", type=Path, default=HERE.parent / "build" / "benchmarks")
    options = parser.parse_args()
    options.workloads = options.workloads.split(",")
    wanted = options.servers.split(",")
    options.servers = [name for name in wanted if available(name)]
    for name in wanted:
        if name not in options.servers:
            print(f"{name} is not installed and left out", file=sys.stderr)

    allow_many_sockets()
    others = os.sched_getaffinity(0) - {options.core}
    if others:
        os.sched_setaffinity(0, others)
    conditions = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "load before": os.getloadavg()[0],
        "rounds": options.rounds,
        "seconds": options.seconds,
        "load generator": "wrk" if options.wrk else "own",
    }
    found = uvloop.run(compare(options))
    conditions["load after"] = os.getloadavg()[0]
    options.out.mkdir(parents=True, exist_ok=True)
    raw = {"conditions": conditions, "rounds": found}
    (options.out / "results.json").write_text(json.dumps(raw, indent=1))
    text = table(raw, {name: WORKLOADS[name].what for name in found})
    (options.out / "results.md").write_text(text)
    (options.out / "results.svg").write_text(plot(raw))
    print(text)


if __name__ == "__main__":
    main()
