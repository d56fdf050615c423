"""Producers: batching, pipelining, backpressure, epochs, fencing, and what is told at the end."""

import gc
import json
import threading
import warnings
from random import Random

import pytest
from hostile import LOST, Asked, Fault, Hostile, refuse

from durable_streams_client import (
    AsyncClient,
    Cancelled,
    Fenced,
    InvalidArgument,
    NotStored,
    ProducerLimits,
    RetryPolicy,
    SequenceGap,
    StreamClosed,
    TooLarge,
    Unavailable,
)

QUICK = RetryPolicy(initial=0.001, maximum=0.01)
JSON = "application/json"


def items(server: Hostile, path: str = "/a") -> list[int]:
    return [int(message) for message in server.streams[path].messages]


async def test_many_appends_are_few_requests(server: Hostile) -> None:
    """A batch waits for what follows it, so that few go: full ones, and one at a flush."""
    server.put("a", content_type=JSON)
    limits = ProducerLimits(batch_items=3_000, linger=60, in_flight=1)
    async with AsyncClient(server.url) as client:
        async with client.stream("a").producer(limits=limits) as producer:
            for n in range(10_000):
                await producer.append(n)
            assert producer.pending > 0
            await producer.flush()
            assert producer.pending == 0
            assert producer.acknowledged == 10_000
            assert producer.offset == "00010000"
            await producer.append_many([10_000, 10_001])
    assert items(server) == list(range(10_002))
    assert [len(json.loads(asked.body)) for asked in server.asked if asked.method == "POST"] == [
        *[3_000] * 3, 1_000, 2,
    ]  # fmt: skip


async def test_bytes_and_text_are_joined(server: Hostile) -> None:
    server.put("a", content_type="text/plain")
    async with AsyncClient(server.url) as client:
        async with client.stream("a").producer() as producer:
            for piece in ("a", b"b", "ä"):
                await producer.append(piece)
    assert b"".join(server.streams["/a"].messages) == "abä".encode()


async def test_batches_keep_their_limits(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    limits = ProducerLimits(batch_bytes=10, batch_items=3, in_flight=1, linger=60)
    async with AsyncClient(server.url) as client:
        async with client.stream("a").producer(limits=limits) as producer:
            for n in [*range(7), 10**11, 10**5, 10**5]:
                await producer.append(n)
    bodies = [asked.body for asked in server.asked if asked.method == "POST"]
    assert bodies == [
        b"[0,1,2]", b"[3,4,5]", b"[6]", b"[100000000000]", b"[100000]", b"[100000]",
    ]  # fmt: skip


async def test_linger_sends_without_being_asked(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    async with AsyncClient(server.url) as client:
        async with client.stream("a").producer() as producer:
            await producer.append(1)
            await client.stream("a").head()
            await client.stream("a").head()
            reader = client.stream("a").follow()
            async for batch in reader:
                if batch.items():
                    break
            await reader.aclose()
            assert items(server) == [1]


async def test_append_waits_while_the_queue_is_full(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    gate = threading.Event()
    server.faults = lambda asked: Fault(hold=gate) if asked.method == "POST" else None
    limits = ProducerLimits(queue_items=100, batch_items=10, linger=0)
    async with AsyncClient(server.url) as client:
        async with client.stream("a").producer(limits=limits) as producer:
            for n in range(100):
                await producer.append(n)
            assert producer.pending == 100
            threading.Timer(0.05, gate.set).start()
            for n in range(100, 300):
                await producer.append(n)
                assert producer.pending <= 100
    assert items(server) == list(range(300))


async def test_the_queue_is_bounded_by_bytes_but_takes_one_of_any_size(server: Hostile) -> None:
    server.put("a")
    limits = ProducerLimits(queue_bytes=100, batch_bytes=50)
    async with AsyncClient(server.url) as client:
        async with client.stream("a").producer(limits=limits) as producer:
            await producer.append(b"x" * 1000)
            for _ in range(20):
                await producer.append(b"y" * 10)
    assert server.streams["/a"].tail == 1200


async def test_batches_that_overtake_each_other(server: Hostile) -> None:
    """The second batch arrives while the first is held: one gap, one repeat, no storm."""
    server.put("a", content_type=JSON)
    gate = threading.Event()
    gaps = 0

    def fault(asked: Asked) -> Fault | None:
        nonlocal gaps
        seq = asked.headers.get("producer-seq")
        if seq == "1" and not gate.is_set():
            return Fault(hold=gate)
        if seq in ("2", "3") and not gate.is_set():
            gaps += 1
            if gaps == 2:
                gate.set()
        return None

    server.faults = fault
    limits = ProducerLimits(batch_items=1, linger=0, in_flight=3)
    async with AsyncClient(server.url, retry=QUICK) as client:
        async with client.stream("a").producer(limits=limits) as producer:
            for n in range(6):
                await producer.append(n)
    assert items(server) == list(range(6))
    posts = [asked.headers["producer-seq"] for asked in server.asked if asked.method == "POST"]
    assert len(posts) <= 6 + 2 * 2 + 1


@pytest.mark.parametrize("fault", [LOST, Fault(cut=5), refuse(503), Fault(status=502)])
async def test_faults_neither_lose_nor_double(server: Hostile, fault: Fault) -> None:
    server.put("a", content_type=JSON)
    chance = Random(7)
    server.faults = lambda asked: (
        fault if asked.method == "POST" and chance.random() < 0.6 else None
    )
    limits = ProducerLimits(batch_items=7, linger=0)
    patient = RetryPolicy(initial=0.001, maximum=0.01, attempts=100)
    async with AsyncClient(server.url, retry=patient) as client:
        async with client.stream("a").producer(limits=limits) as producer:
            for n in range(200):
                await producer.append(n)
            await producer.close_stream(200)
            assert producer.duplicates == 0
    assert items(server) == list(range(201))
    assert server.streams["/a"].closed


async def test_what_was_not_stored_is_raised(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    server.faults = lambda asked: refuse(503) if asked.method == "POST" and asked.count else None
    limits = ProducerLimits(batch_items=2, in_flight=1, linger=60)
    policy = RetryPolicy(initial=0.001, attempts=3)
    async with AsyncClient(server.url, retry=policy) as client:
        producer = client.stream("a").producer(limits=limits)
        for n in range(5):
            await producer.append(n)
        with pytest.raises(NotStored) as caught:
            await producer.flush()
        assert caught.value.items == [b"2", b"3", b"4"]
        assert isinstance(caught.value.cause, Unavailable)
        assert caught.value.uncertain == 2
        with pytest.raises(NotStored):
            await producer.append(6)
        with pytest.raises(NotStored):
            await producer.close_stream()
        with pytest.raises(NotStored):
            await producer.aclose()
        await producer.aclose()
    assert items(server) == [0, 1]


async def test_leaving_the_block_raises_what_was_not_stored(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    server.faults = lambda asked: refuse(400) if asked.method == "POST" else None
    async with AsyncClient(server.url) as client:
        with pytest.raises(NotStored) as caught:
            async with client.stream("a").producer() as producer:
                await producer.append(1)
        assert caught.value.items == [b"1"]
        assert caught.value.uncertain == 0
        with pytest.raises(ZeroDivisionError) as other:
            async with client.stream("a").producer() as producer:
                await producer.append(1)
                _ = 1 / 0
        assert "The producer also failed" in other.value.__notes__[0]


async def test_an_error_in_the_block_does_not_keep_what_was_accepted(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    async with AsyncClient(server.url) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.stream("a").producer() as producer:
                await producer.append(1)
                _ = 1 / 0
    assert items(server) == [1]


async def test_an_interrupt_does_not_wait_and_says_what_it_dropped(
    server: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    server.put("a", content_type=JSON)
    server.faults = lambda asked: refuse(503, Retry_After="60") if asked.method == "POST" else None
    async with AsyncClient(server.url) as client:
        with pytest.raises(KeyboardInterrupt):
            async with client.stream("a").producer() as producer:
                await producer.append(1)
                raise KeyboardInterrupt
        assert "was interrupted: 1 of 1 items were not stored" in caplog.text
        with pytest.raises(NotStored, match="1 of 1"):
            await producer.append(2)


# -- epochs ----------------------------------------------------------------------------------------


async def test_a_restarted_producer_goes_on(server: Hostile) -> None:
    """The name is enough: nothing that the new one sends is taken for the old one's."""
    server.put("a", content_type=JSON)
    async with AsyncClient(server.url) as client:
        for run in range(3):
            async with client.stream("a").producer("me") as producer:
                await producer.append(run)
    assert items(server) == [0, 1, 2]


async def test_the_former_instance_is_fenced_off(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    async with AsyncClient(server.url) as client:
        old = client.stream("a").producer("me")
        await old.append(1)
        await old.flush()
        new = client.stream("a").producer("me")
        await new.append(2)
        await new.flush()
        await old.append(3)
        with pytest.raises(NotStored) as caught:
            await old.flush()
        assert isinstance(caught.value.cause, Fenced)
        assert caught.value.cause.epoch == new.epoch
        assert caught.value.items == [b"3"]
        assert caught.value.uncertain == 0
        await new.aclose()
        await old.aclose(flush=False)
    assert items(server) == [1, 2]


async def test_a_higher_epoch_is_outbid_at_the_start_only(server: Hostile) -> None:
    server.put("a", content_type=JSON).producers["me"] = (2**52, 7)
    async with AsyncClient(server.url) as client:
        async with client.stream("a").producer("me") as producer:
            await producer.append(1)
        assert producer.epoch == 2**52 + 1
        with pytest.raises(NotStored) as caught:
            async with client.stream("a").producer("me", epoch=3) as producer:
                await producer.append(2)
        assert isinstance(caught.value.cause, Fenced)
    assert items(server) == [1]


async def test_an_epoch_that_was_used_is_told_from_ones_own(server: Hostile) -> None:
    server.put("a", content_type=JSON).producers["me"] = (0, 4)
    async with AsyncClient(server.url) as client:
        async with client.stream("a").producer("me", epoch=0, auto_claim=True) as producer:
            await producer.append(1)
        assert producer.epoch == 1
        async with client.stream("a").producer("you", epoch=0) as producer:
            await producer.append(2)
        async with client.stream("a").producer("you", epoch=0) as producer:
            await producer.append(2)
        assert producer.duplicates == 1
    assert items(server) == [1, 2]


async def test_claiming_ends(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    fenced = Fault(apply=False, status=403)

    def fault(asked: Asked) -> Fault | None:
        if asked.method != "POST":
            return None
        fenced.headers = {"Producer-Epoch": str(int(asked.headers["producer-epoch"]) + 1)}
        return fenced

    server.faults = fault
    async with AsyncClient(server.url) as client:
        with pytest.raises(NotStored):
            async with client.stream("a").producer("me") as producer:
                await producer.append(1)
    assert len(server.asked) == 7


async def test_a_server_that_forgot_what_it_acknowledged(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    async with AsyncClient(server.url) as client:
        producer = client.stream("a").producer()
        await producer.append(1)
        await producer.flush()
        server.put("a", content_type=JSON)
        await producer.append(2)
        with pytest.raises(NotStored) as caught:
            await producer.flush()
        assert isinstance(caught.value.cause, SequenceGap)
        await producer.aclose(flush=False)


async def test_batches_too_large_for_the_server_are_halved(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    server.faults = lambda asked: (
        refuse(413) if asked.method == "POST" and len(asked.body) > 60 else None
    )
    limits = ProducerLimits(batch_items=50)
    async with AsyncClient(server.url) as client:
        async with client.stream("a").producer(limits=limits) as producer:
            for n in range(500):
                await producer.append(n)
        with pytest.raises(NotStored) as caught:
            async with client.stream("a").producer(limits=limits) as producer:
                await producer.append("x" * 100)
        assert isinstance(caught.value.cause, TooLarge)
    assert items(server) == list(range(500))


# -- ending ----------------------------------------------------------------------------------------


async def test_close_stream_is_the_last_word(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    async with AsyncClient(server.url) as client:
        async with client.stream("a").producer() as producer:
            await producer.append(1)
            assert (await producer.close_stream(2)).offset == "00000002"
            assert (await producer.close_stream()).offset == "00000002"
            with pytest.raises(StreamClosed):
                await producer.append(3)
        with pytest.raises(NotStored) as caught:
            async with client.stream("a").producer() as late:
                await late.append(4)
        assert isinstance(caught.value.cause, StreamClosed)
        async with client.stream("a").producer() as late:
            assert (await late.close_stream()).offset == "00000002"
    assert items(server) == [1, 2]


async def test_close_of_a_stopped_producer(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    async with AsyncClient(server.url) as client:
        producer = client.stream("a").producer()
        await producer.aclose()
        with pytest.raises((InvalidArgument, Cancelled)):
            await producer.close_stream()


async def test_a_producer_collected_with_items_in_it_warns(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    server.faults = lambda asked: refuse(403) if asked.method == "POST" else None
    async with AsyncClient(server.url) as client:
        producer = client.stream("a").producer()
        assert producer.id in repr(producer)
        await producer.append_many(range(3))
        del producer
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            while not caught:  # its senders end once the server has refused
                await client.stream("a").head()
                gc.collect()
        assert "3 of 3 items were not stored" in str(caught[0].message)
        assert caught[0].category is RuntimeWarning


async def test_encoding_happens_at_once(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    async with AsyncClient(server.url) as client:
        async with client.stream("a").producer() as producer:
            value = [1]
            await producer.append(value)
            value.append(2)
            with pytest.raises(InvalidArgument):
                await producer.append(object())
            await producer.append(b'"raw"')
    assert server.streams["/a"].messages == [b"[1]", b'"raw"']


@pytest.mark.parametrize(
    "wrong",
    [
        {"producer_id": ""},
        {"producer_id": " a"},
        {"producer_id": "ä"},
        {"epoch": -1},
        {"epoch": 2**53},
        {"epoch": True},
    ],
)
async def test_nonsense_is_refused(server: Hostile, wrong: dict[str, object]) -> None:
    async with AsyncClient(server.url) as client:
        with pytest.raises(InvalidArgument):
            client.stream("a").producer(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [{"batch_bytes": 0}, {"batch_items": -1}, {"in_flight": True}, {"linger": -1.0}],
)
def test_nonsense_limits_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        ProducerLimits(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [None, "me"])
async def test_a_batch_that_a_proxy_sends_twice_is_stored_once(
    server: Hostile, name: str | None
) -> None:
    """The producer sees only the answer to the second one: a duplicate, at its first try."""
    server.put("a", content_type=JSON)
    server.faults = lambda asked: Fault(twice=True) if asked.method == "POST" else None
    async with AsyncClient(server.url) as client:
        async with client.stream("a").producer(name) as producer:
            for n in range(3):
                await producer.append(n)
                await producer.flush()
        assert producer.duplicates == 0
    assert server.streams["/a"].messages == [b"0", b"1", b"2"]
