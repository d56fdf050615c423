"""Everything that can go wrong on the way, at every place: what was acknowledged is there exactly
once, and what a reader yields is the stream exactly once."""

import subprocess
import sys
import threading
from pathlib import Path
from random import Random

import pytest
from hostile import Asked, Fault, Hostile, refuse

from durable_streams_client import (
    AsyncClient,
    MemoryCheckpoint,
    NotStored,
    ProducerLimits,
    RetryPolicy,
    Timeouts,
)

JSON = "application/json"
PATIENT = RetryPolicy(
    initial=0.0005, maximum=0.002, attempts=200, read_attempts=200, follow_attempts=1000
)


async def test_a_page_cut_at_every_byte(server: Hostile) -> None:
    server.put("a", b'{"n":1}', b'{"n":2}', content_type=JSON)
    async with AsyncClient(server.url, retry=PATIENT, cache_bytes=0) as client:
        stream = client.stream("a")
        for cut in range(300):
            first = len(server.asked)
            server.faults = lambda asked: (
                Fault(cut=cut)  # noqa: B023 - used before the next turn
                if len(server.asked) == first + 1  # noqa: B023
                else None
            )
            assert await stream.read().read_items() == [{"n": 1}, {"n": 2}]
            if len(server.asked) == first + 1:
                break
        assert cut > 150


@pytest.mark.parametrize(
    "live,content_type",
    [("sse", JSON), ("sse", "application/octet-stream"), ("long-poll", JSON)],
)
async def test_a_live_answer_cut_at_every_byte(
    server: Hostile, live: str, content_type: str
) -> None:
    """Among the places is the one between data and control."""
    server.page = 2 if content_type == JSON else 4
    messages = [b"1", b"22", b"333"]
    whole = messages if content_type == JSON else [b"".join(messages)]
    total = 3 if content_type == JSON else 6
    async with AsyncClient(server.url, retry=PATIENT) as client:
        for cut in range(900):
            server.put("a", content_type=content_type)
            first = len(server.asked)

            def fault(asked: Asked) -> Fault | None:
                if asked.live and len(server.asked) == first + 2:  # noqa: B023
                    held = server.streams["/a"]
                    held.messages += messages
                    held.closed = True
                    return Fault(cut=cut)  # noqa: B023
                return None

            server.faults = fault
            got: list[bytes] = []
            async for batch in client.stream("a").follow(live=live):  # type: ignore[arg-type]
                got += [b"%d" % item for item in batch] if batch.is_json else [batch.data]
            assert (got if content_type == JSON else [b"".join(got)]) == whole
            assert batch.offset == f"{total:08d}"
            if len(server.asked) == first + 2:
                break
        assert cut > 150


async def test_the_answer_to_an_append_cut_at_every_byte(server: Hostile) -> None:
    held = server.put("a")
    async with AsyncClient(server.url, retry=PATIENT) as client:
        stream = client.stream("a", content_type="application/octet-stream")
        for cut in range(300):
            first = len(server.asked)
            server.faults = lambda asked: (
                Fault(cut=cut)  # noqa: B023
                if len(server.asked) == first + 1  # noqa: B023
                else None
            )
            appended = await stream.append(b"%03d" % cut)
            assert appended.offset in ("", f"{held.tail:08d}")
            if len(server.asked) == first + 1:
                break
        assert cut > 100
    assert held.messages == [b"%03d" % n for n in range(cut + 1)]


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_bytes_that_come_one_by_one(server: Hostile, live: str) -> None:
    server.put("a", b"1", b"2", content_type=JSON)
    server.faults = lambda asked: Fault(pieces=1)
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").follow(live=live)  # type: ignore[arg-type]
        got: list[int] = []
        async for batch in reader:
            got += batch
            if len(got) == 2:
                server.write("a", b"3", close=True)
        assert got == [1, 2, 3]


async def test_a_drip_is_ended_by_the_total_limit(server: Hostile) -> None:
    """Each byte comes in time, and still the call ends."""
    server.put("a", b"x" * 100)
    server.faults = lambda asked: Fault(pieces=1, pause=0.05)
    async with AsyncClient(server.url, timeouts=Timeouts(total=0.1)) as client:
        with pytest.raises(TimeoutError):
            await client.stream("a").head()


@pytest.mark.parametrize("seed", range(5))
async def test_a_storm(server: Hostile, seed: int) -> None:
    """A writer and a reader at once, while two of three answers go wrong in any way."""
    chance = Random(seed)
    server.put("a", content_type=JSON)
    server.page = 17
    server.poll = 0.01
    server.rotate = 0.02

    def fault(_: Asked) -> Fault | None:
        return chance.choice(
            [
                None,
                None,
                Fault(cut=chance.randrange(400)),
                Fault(cut=0),
                Fault(apply=False, cut=0),
                refuse(503),
                Fault(status=500),
                refuse(429, Retry_After="0"),
                Fault(pieces=5),
            ]
        )

    server.faults = fault
    limits = ProducerLimits(batch_items=5, linger=0, in_flight=4)
    got: list[int] = []
    async with AsyncClient(server.url, retry=PATIENT) as client:
        stream = client.stream("a")
        checkpoint = MemoryCheckpoint()
        async with stream.producer("storm", limits=limits) as producer:
            for n in range(300):
                await producer.append(n)
            async for batch in stream.follow(checkpoint=checkpoint):
                got += batch
                if batch.offset >= "00000150":
                    break
            await producer.close_stream(300)
        assert producer.duplicates == 0
        # The batch that the first reader broke off in comes again, and nothing else does.
        again = await stream.follow(checkpoint=checkpoint).read_items()
        start = int(checkpoint.offset or 0) - len(again)
        assert got[:start] + again == list(range(301))
    assert [int(message) for message in server.streams["/a"].messages] == list(range(301))


async def test_plain_appends_in_a_storm(server: Hostile) -> None:
    chance = Random(1)
    server.put("a", content_type=JSON)
    server.faults = lambda asked: chance.choice(
        [None, Fault(cut=0), Fault(status=500), refuse(503), Fault(cut=chance.randrange(200))]
    )
    async with AsyncClient(server.url, retry=PATIENT) as client:
        stream = client.stream("a")
        for n in range(100):
            await stream.append(n)
    assert [int(message) for message in server.streams["/a"].messages] == list(range(100))
    assert len(server.streams["/a"].producers) == 1


@pytest.mark.parametrize("live", ["auto", "long-poll"])
async def test_the_server_restarts_under_readers_and_writers(server: Hostile, live: str) -> None:
    server.put("a", content_type=JSON)
    got: list[int] = []
    async with AsyncClient(server.url, retry=PATIENT) as client:
        stream = client.stream("a", content_type=JSON)
        async with stream.producer() as producer:
            async for batch in stream.follow(live=live):  # type: ignore[arg-type]
                got += batch
                if len(got) < 100:
                    server.stop()
                    for n in range(len(got), len(got) + 10):
                        await producer.append(n)
                    threading.Timer(0.01, server.start).start()
                    await producer.flush()
                elif not batch.closed:
                    await producer.close_stream()
    assert got == list(range(100))


async def test_a_producer_given_up_and_another_in_its_place(server: Hostile) -> None:
    """The data that the first had acknowledged is there once; what it says was not stored, the
    second stores; what is uncertain, the end of the stream tells."""
    server.put("a", content_type=JSON)
    server.faults = lambda asked: (
        Fault(cut=0) if asked.method == "POST" and asked.count > 20 else None
    )
    limits = ProducerLimits(batch_items=3, linger=0)
    policy = RetryPolicy(initial=0.001, attempts=2)
    async with AsyncClient(server.url, retry=policy) as client:
        first = client.stream("a").producer("me", limits=limits)
        with pytest.raises(NotStored) as caught:
            for n in range(1000):
                await first.append(n)
            await first.flush()
        await first.aclose(flush=False)
        server.faults = lambda asked: None
        lost = caught.value
        there = [int(message) for message in server.streams["/a"].messages]
        assert there[: first.acknowledged] == list(range(first.acknowledged))
        assert 0 <= len(there) - first.acknowledged <= lost.uncertain
        async with client.stream("a").producer("me") as second:
            for item in lost.items[len(there) - first.acknowledged :]:
                await second.append(item)
    stored = [int(message) for message in server.streams["/a"].messages]
    assert stored == list(range(len(stored)))


WRITER = """
import sys
from durable_streams_client import Client, ProducerLimits
with Client(sys.argv[1]) as client:
    producer = client.stream("a").producer("me", limits=ProducerLimits(batch_items=10, linger=0))
    for n in range(int(sys.argv[2]), 1_000_000):
        producer.append(n)
        if n % 100 == 99:
            producer.flush()
            print(n, flush=True)
"""


async def test_a_producer_is_killed_and_started_again(server: Hostile, tmp_path: Path) -> None:
    server.put("a", content_type=JSON)
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    acknowledged = -1
    for _ in range(3):
        start = len(server.streams["/a"].messages)
        with subprocess.Popen(  # noqa: ASYNC220 - the server has a thread of its own
            [sys.executable, str(script), server.url, str(start)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(3):
                acknowledged = int(process.stdout.readline())
            process.kill()
        # Nothing of the dead one comes late: its connections are gone.
        server.wait_until(lambda: server.connections == 0)
    stored = [int(message) for message in server.streams["/a"].messages]
    assert stored == list(range(len(stored)))
    assert len(stored) > acknowledged
