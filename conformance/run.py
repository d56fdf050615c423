"""Runs the official server suite against servers that it starts and stops itself.

    python conformance/run.py --store memory: --front-end aiohttp [-- VITEST-ARGUMENT ...]

Several stores or front ends are run at the same time: the suite waits more than it computes.

Run it with the Python that has `durable-streams-server` installed, after `npm ci` in this
directory. `--front-end reference` starts the protocol's own server from npm instead, as a control:
a test that fails there as well shows no fault of ours.

It fails when a test does, when the server's log holds a traceback, when the server does not stop
within five seconds of SIGTERM, and when fewer tests ran than the suite is known to hold.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path

from balancer import balancing

HERE = Path(__file__).resolve().parent
REPORTS = HERE.parent / "build" / "reports"
FRONT_ENDS = ("standalone", "aiohttp", "asgi-uvicorn", "reference")

LONG_POLL_SECONDS = 0.5
START_SECONDS = 60
STOP_SECONDS = 30

# What version 0.3.6 of the suite holds: with fewer, something kept tests from running.
TESTS = 338


class Fault(Exception):
    """Something about the server that the suite itself does not look at."""


def free_port() -> int:
    """A port that the system gives to nobody else, as `--public-url` must name it beforehand.

    A socket holds it to the end of this process. A server still gets it, because such sockets and
    listening ones may share a port if they allow addresses to be reused, as all our servers do.
    """
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port: int = holder.getsockname()[1]
    holder.detach()
    return port


def server_command(front_end: str, store: str, port: int, public: str) -> list[str]:
    """A command that prints the server's URL when it accepts connections."""
    at_port = ["--port", str(port)]
    long_poll = ["--long-poll-timeout", str(LONG_POLL_SECONDS)]
    python = [sys.executable, "-m"]
    if front_end == "reference":
        return ["node", "reference.mjs", "--subscriptions", *at_port, *long_poll]
    if front_end == "asgi-uvicorn":
        # By default uvicorn closes idle connections so soon that a client's next request may be
        # on its way: `fetch` then reports a failure that no server could answer.
        patience = ["--timeout-graceful-shutdown", "2", "--timeout-keep-alive", "75"]
        return [*python, "uvicorn", "asgi_app:app", "--no-access-log", *at_port, *patience]
    server = [*python, "durable_streams_server", "--front-end", front_end, "--store", store]
    # Its receivers of webhooks are on this machine, which a public URL rules out by default.
    return [*server, *at_port, *long_poll, "--public-url", public, "--webhook-localhost"]


def wait_until_ready(server: subprocess.Popen[bytes], log: Path, url: str) -> None:
    """The server names its URL when it accepts connections."""
    deadline = time.monotonic() + START_SECONDS
    while url not in log.read_text(errors="replace"):
        if server.poll() is not None:
            raise Fault(f"the server ended with status {server.returncode} before it was ready")
        if time.monotonic() > deadline:
            raise Fault(f"the server printed no line with {url} within {START_SECONDS} s")
        time.sleep(0.05)


def stop(server: subprocess.Popen[bytes], *, by_signal_is_fine: bool) -> None:
    if server.poll() is not None:
        raise Fault(f"the server ended by itself with status {server.returncode}")
    server.send_signal(signal.SIGTERM)
    try:
        status = server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        raise Fault(f"the server was still running {STOP_SECONDS} s after SIGTERM") from None
    if status != 0 and not (by_signal_is_fine and status == -signal.SIGTERM):
        raise Fault(f"the server ended with status {status} on SIGTERM")


@contextmanager
def serving(front_end: str, store: str, log: Path, public: str = "") -> Iterator[str]:
    """Start the server, yield its base URL, stop it, and see how it did.

    `public` is the URL it is reached under, where that is not its own.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        server = subprocess.Popen(
            server_command(front_end, store, port, public or url),
            cwd=HERE,
            env={
                **os.environ,
                "PYTHONUNBUFFERED": "1",
                "CONFORMANCE_STORE": store,
                "CONFORMANCE_LONG_POLL_SECONDS": str(LONG_POLL_SECONDS),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_ready(server, log, public or url)
        yield url
        # uvicorn ends by the signal that told it to stop.
        stop(server, by_signal_is_fine=front_end == "asgi-uvicorn")
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    if "Traceback (most recent call last)" in log.read_text(errors="replace"):
        raise Fault("the server logged a traceback")


@contextmanager
def serving_together(count: int, front_end: str, store: str, log: Path) -> Iterator[str]:
    """Several processes on one store; each request goes to any of them."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        ports = []
        for number in range(count):
            own = log.with_suffix(f".{number}.log")
            served = stack.enter_context(serving(front_end, store, own, url))
            ports.append(int(served.rpartition(":")[2]))
        balancer = stack.enter_context(balancing(port, ports))
        log.write_text(f"each process has a log of its own beside this one: {ports}\n")
        yield url
        if not all(balancer.chosen.values()):
            raise Fault(f"some process was never asked: {balancer.chosen}")


def run_suite(url: str, report: Path, *, arguments: Sequence[str]) -> int:
    """Exit status of vitest, whose output is printed in one piece at the end."""
    report.unlink(missing_ok=True)
    vitest = HERE / "node_modules" / ".bin" / "vitest"
    if not vitest.exists():
        raise Fault("the suite is not installed: run `npm ci` in conformance/")
    reporters = ["--reporter=default", "--reporter=json", f"--outputFile.json={report}"]
    done = subprocess.run(
        [vitest, "run", *reporters, *arguments],
        cwd=HERE,
        env={
            **os.environ,
            "CONFORMANCE_URL": url,
            "CONFORMANCE_LONG_POLL_MS": str(int(LONG_POLL_SECONDS * 1000)),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(f"{report.stem}:\n{done.stdout}", flush=True)
    return done.returncode


def run(front_end: str, store: str, processes: int, arguments: Sequence[str]) -> int:
    """Exit status of the suite against one kind of server."""
    name = f"conformance-{store.partition(':')[0]}-{front_end}"
    if processes > 1:
        name += f"-{processes}"
    log = REPORTS / f"{name}.log"
    report = REPORTS / f"{name}.json"
    with tempfile.TemporaryDirectory(prefix="durable-streams-") as directory:
        if store == "file:":
            store = f"file:{directory}/data"
        try:
            served = (
                serving(front_end, store, log)
                if processes == 1
                else serving_together(processes, front_end, store, log)
            )
            with served as url:
                status = run_suite(url, report, arguments=arguments)
            result = json.loads(report.read_text())
            ran = result["numPassedTests"] + result["numFailedTests"]
            if ran < TESTS and not arguments:
                raise Fault(f"only {ran} of {TESTS} tests ran")
        except Fault as fault:
            for each in sorted(log.parent.glob(f"{log.stem}*.log")):
                print(each.read_text(errors="replace")[-4000:], file=sys.stderr)
            print(f"{name}: {fault}", file=sys.stderr)
            return 1
    if status != 0:
        print(f"{name}: the server's log is {log}", file=sys.stderr)
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the official server suite.")
    parser.add_argument("--front-end", choices=FRONT_ENDS, action="append", required=True)
    stores = "a store URL; `file:` makes a directory"
    parser.add_argument("--store", action="append", required=True, help=stores)
    parser.add_argument("--processes", type=int, default=1, help="on one store, taking turns")
    parser.add_argument("vitest", nargs="*", help="arguments for vitest, such as `-t NAME`")
    options = parser.parse_args()

    REPORTS.mkdir(parents=True, exist_ok=True)
    kinds = list(product(options.front_end, options.store))
    with ThreadPoolExecutor(len(kinds)) as pool:
        running = [
            pool.submit(run, front_end, store, options.processes, options.vitest)
            for front_end, store in kinds
        ]
        return max(each.result() for each in running)


if __name__ == "__main__":
    sys.exit(main())
