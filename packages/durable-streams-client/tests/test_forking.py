"""A client, a stream, a reader or a producer made before ``fork()``, and used in the child."""

import subprocess
import sys
from pathlib import Path

import pytest
from hostile import Hostile

JSON = "application/json"

FORK = """
import asyncio, os, sys
from durable_streams_client import (
    AsyncClient, Client, ClientError, NotUsableHere, ProducerLimits, RetryPolicy
)
url = sys.argv[1]

def in_child(work):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
"""


def run(tmp_path: Path, server: Hostile, story: str) -> str:
    """The output of a program that ends well, in a process of its own."""
    script = tmp_path / "story.py"
    script.write_text(FORK + story)
    # A fork beside other threads is what is tested; some Pythons warn of it.
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", str(script)]
    done = subprocess.run(
        [*command, server.url], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def stored(server: Hostile) -> list[int]:
    return sorted(int(message) for message in server.streams["/a"].messages)


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_a_child_has_append_identities_of_its_own(
    tmp_path: Path, server: Hostile, used: bool
) -> None:
    server.put("a", content_type=JSON)
    story = f"""
client = Client(url)
stream = client.stream("a", content_type="{JSON}")
if {used}:
    stream.append(0)
for child in range(4):
    in_child(lambda: [stream.append(10 * child + n) for n in range(1, 10)])
stream.append(100)
client.close()
"""
    run(tmp_path, server, story)
    wanted = [10 * child + n for child in range(4) for n in range(1, 10)]
    assert stored(server) == [*([0] if used else []), *wanted, 100]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_child_of_an_async_client_has_append_identities_of_its_own(
    tmp_path: Path, server: Hostile, loop: str
) -> None:
    server.put("a", content_type=JSON)
    story = f"""
import {loop} as loops
client = AsyncClient(url)
stream = client.stream("a", content_type="{JSON}")

async def write(*numbers):
    for n in numbers:
        await stream.append(n)

async def child(*numbers):
    await write(*numbers)
    await client.aclose()

async def parent():
    other = AsyncClient(url)
    await other.stream("a").head()
    await other.aclose()  # leaves a connection that is closed and still known
    await write(0, 1)
    await asyncio.to_thread(in_child, lambda: loops.run(child(10, 11)))
    await write(2, 3)
    await client.aclose()

in_child(lambda: loops.run(child(20, 21)))
loops.run(parent())
"""
    run(tmp_path, server, story)
    assert stored(server) == [0, 1, 2, 3, 10, 11, 20, 21]


def test_a_child_has_connections_of_its_own(tmp_path: Path, server: Hostile) -> None:
    server.put("a", content_type=JSON)
    story = """
client = Client(url)
client.stream("a").head()
in_child(lambda: [client.stream("a").head() for _ in range(3)])
client.stream("a").head()
client.close()
"""
    run(tmp_path, server, story)
    assert len({asked.peer for asked in server.asked}) == 2


def test_a_connection_ends_when_the_parent_closes_it(tmp_path: Path, server: Hostile) -> None:
    """A child that lives on does not hold it open."""
    server.put("a", content_type=JSON)
    story = """
client = Client(url)
client.stream("a").head()
there, here = os.pipe()
child = os.fork()
if not child:
    os.close(here)
    os.read(there, 1)
    os._exit(0)
client.close()
print("closed", flush=True)
sys.stdin.readline()
os.write(here, b"x")
os.waitpid(child, 0)
"""
    script = tmp_path / "story.py"
    script.write_text(FORK + story)
    with subprocess.Popen(
        [sys.executable, str(script), server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "closed\n"
        server.wait_until(lambda: server.connections == 0)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(60) == 0


def test_a_producer_refuses_to_work_in_a_child(tmp_path: Path, server: Hostile) -> None:
    server.put("a", content_type=JSON)
    story = """
def refused(call):
    try:
        call()
    except NotUsableHere as error:
        print(error.code, "child" in str(error))
    else:
        raise AssertionError("accepted")

def child():
    for producer in producers:
        refused(lambda: producer.append(7))
        refused(producer.flush)
        refused(producer.close_stream)
        producer.close()

client = Client(url)
slow = ProducerLimits(linger=60, queue_items=2)
producers = [client.stream("a").producer(), client.stream("a").producer(limits=slow)]
in_child(child)
for n, producer in enumerate(producers):
    producer.append(n)
in_child(child)
for producer in producers:
    producer.close()
client.close()
"""
    assert run(tmp_path, server, story) == "not-usable-here True\n" * 12
    assert stored(server) == [0, 1]


def test_a_reader_goes_on_in_a_child_and_in_its_parent(tmp_path: Path, server: Hostile) -> None:
    server.put("a", b"1", b"2", b"3", content_type=JSON)
    server.page = 1
    story = """
client = Client(url)
reader = client.stream("a").follow(live="sse")
for batch in reader:
    if batch.up_to_date:
        break
client.stream("a", content_type="application/json").append(4)
print(*next(reader))
in_child(lambda: (client.stream("a").close_stream(5), print(*next(reader))))
print(*next(reader))
client.close()
"""
    assert run(tmp_path, server, story) == "4\n5\n5\n"


def test_an_http_client_handed_in_stays_with_the_parent(tmp_path: Path, server: Hostile) -> None:
    """Its connections are not ours to leave behind."""
    server.put("a", content_type=JSON)
    story = """
import httpx
http = httpx.Client()
client = Client(url, http=http)

def child():
    try:
        client.stream("a").head()
    except NotUsableHere as error:
        print(error.code)

client.stream("a").head()
in_child(child)
http.close()
"""
    assert run(tmp_path, server, story) == "not-usable-here\n"
