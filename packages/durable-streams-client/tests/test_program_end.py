"""What becomes of a producer that is still open when its program ends."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from hostile import Fault, Hostile, refuse

PREAMBLE = """
import asyncio, multiprocessing, os, sys
from durable_streams_client import *
url = sys.argv[1]
quick = RetryPolicy(initial=0.001, maximum=0.01, attempts=2)
"""

Run = Callable[[str], tuple[int, str]]


@pytest.fixture
def run(server: Hostile) -> Run:
    """Run a program against the server: its exit status, and what it wrote to stderr."""
    server.put("a", content_type="application/json")

    def run(program: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", PREAMBLE + program, server.url],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stderr

    return run


def stored(server: Hostile) -> list[int]:
    return [int(message) for message in server.streams["/a"].messages]


UNCLOSED = """
producer = Client(url).stream("a").producer()
for n in range(500):
    producer.append(n)
"""


@pytest.mark.parametrize(
    "ending", ["", "sys.exit(0)", "raise SystemExit", "del producer", "producer = [producer]"]
)
def test_the_end_of_a_sync_program_stores_everything(
    server: Hostile, run: Run, ending: str
) -> None:
    assert run(UNCLOSED + ending) == (0, "")
    assert stored(server) == list(range(500))


def test_an_exception_that_ends_a_program_loses_nothing(server: Hostile, run: Run) -> None:
    status, told = run(UNCLOSED + "1 / 0")
    assert status == 1
    assert "ZeroDivisionError" in told
    assert stored(server) == list(range(500))


def test_a_linger_longer_than_the_program_loses_nothing(server: Hostile, run: Run) -> None:
    program = UNCLOSED.replace("producer()", "producer(limits=ProducerLimits(linger=60))")
    assert run(program) == (0, "")
    assert stored(server) == list(range(500))


def test_items_that_cannot_be_stored_are_counted_on_stderr_once(server: Hostile, run: Run) -> None:
    server.faults = lambda asked: refuse(403) if asked.method == "POST" else None
    status, told = run(
        """
producer = Client(url, retry=quick).stream("a").producer()
producer.append_many(range(7))
"""
    )
    assert status == 0
    assert told.count("7 of 7 items were not stored") == 1
    assert "denied access" in told


def test_an_error_that_the_program_has_seen_is_not_repeated(server: Hostile, run: Run) -> None:
    server.faults = lambda asked: refuse(403) if asked.method == "POST" else None
    program = """
producer = Client(url).stream("a").producer()
producer.append(1)
try:
    producer.flush()
except NotStored:
    pass
"""
    assert run(program) == (0, "")


def test_a_client_closed_before_its_producer_is_told_about(server: Hostile, run: Run) -> None:
    server.faults = lambda asked: refuse(503) if asked.method == "POST" else None
    status, told = run(
        """
with Client(url) as client:
    producer = client.stream("a").producer()
    producer.append(1)
"""
    )
    assert status == 0
    assert "1 of 1 items were not stored" in told


@pytest.mark.parametrize("keep", ["", "global producer"])
@pytest.mark.parametrize("fault", [None, Fault(stall=True)])
def test_an_async_program_that_does_not_close_is_told_what_it_lost(
    server: Hostile, run: Run, keep: str, fault: Fault | None
) -> None:
    """Its event loop has ended by then, so that nothing can be sent any more."""
    server.faults = lambda asked: fault if asked.method == "POST" else None
    status, told = run(
        f"""
async def main():
    {keep or "pass"}
    producer = AsyncClient(url).stream("a").producer(limits=ProducerLimits(linger=60))
    await producer.append_many(range(500))
asyncio.run(main())
"""
    )
    assert status == 0
    assert told.count("500 of 500 items were not stored") == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_of_multiprocessing_stores_everything(
    server: Hostile, run: Run, method: str, tmp_path: object
) -> None:
    """Such a process runs no exit handlers."""
    program = f"""
from pathlib import Path
path = Path({str(tmp_path)!r}) / "child.py"
path.write_text('''
from durable_streams_client import Client
def write(url):
    global producer
    producer = Client(url).stream("a").producer()
    producer.append_many(range(500))
''')
sys.path.insert(0, str(path.parent))
from child import write
child = multiprocessing.get_context({method!r}).Process(target=write, args=[url])
child.start()
child.join()
"""
    assert run(program) == (0, "")
    assert stored(server) == list(range(500))


def test_a_forked_child_leaves_the_parents_producer_alone(server: Hostile, run: Run) -> None:
    program = (
        UNCLOSED
        + """
producer.flush()
producer.append(500)
if os.fork() == 0:
    sys.exit(0)
os.wait()
"""
    )
    assert run(program) == (0, "")
    assert stored(server) == list(range(501))
