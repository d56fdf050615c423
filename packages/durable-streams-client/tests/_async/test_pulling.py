"""A worker of a pull-wake subscription (§7.2): what it acks, gives back, waits for and gives up."""

import json
import logging
import threading
import time
from typing import Any

import pytest
from hostile import LOST, Asked, Fault, refuse
from subscribed import Subscribed

from durable_streams_client import (
    AsyncClient,
    AsyncPullWorker,
    Cancelled,
    InvalidArgument,
    NotFound,
    RetryPolicy,
    SubscriptionRefused,
    Unavailable,
)
from durable_streams_client._async import runtime

QUICK = RetryPolicy(initial=0.001, maximum=0.01, attempts=2, read_attempts=2)


async def ignore(path: str, batch: Any) -> None:
    pass


async def test_each_batch_is_handled_then_acked_and_the_lease_ended(hub: Subscribed) -> None:
    sub = hub.subscribe("s", "a", "b", "idle")
    hub.page = 2
    hub.put("a", b"12", b"34", b"5")
    hub.put("b", b"x")
    hub.put("idle")
    seen = []

    async def handle(path: str, batch: Any) -> None:
        seen.append((path, batch.data, dict(sub.acked)[path]))

    async with AsyncClient(hub.url) as client:
        worker = AsyncPullWorker(client, "s", handle, name="w")
        assert await worker.work_once()
        assert not await worker.work_once()
    assert seen == [
        ("a", b"12", "-1"),
        ("a", b"34", "00000002"),
        ("a", b"5", "00000004"),
        ("b", b"x", "-1"),
    ]
    assert sub.acked == {"a": "00000005", "b": "00000001", "idle": "-1"}
    assert sub.holder is None
    assert json.loads(hub.asked[0].body) == {"worker": "w"}


async def test_work_ends_at_the_tail_that_the_claim_told(hub: Subscribed) -> None:
    """Data written in the meantime belongs to another wake: a busy stream does not hold up the
    others."""
    sub = hub.subscribe("s", "a")
    hub.page = 1
    held = hub.put("a", b"1", b"2")
    seen = []

    async def handle(path: str, batch: Any) -> None:
        seen.append(batch.data)
        held.messages.append(b"x")

    async with AsyncClient(hub.url) as client:
        assert await AsyncPullWorker(client, "s", handle, name="w").work_once()
    assert seen == [b"1", b"2"]
    assert sub.acked == {"a": "00000002"}


async def test_run_waits_for_wakes_until_it_is_stopped(hub: Subscribed) -> None:
    hub.subscribe("s", "a")
    hub.subscribe("other", "b")
    hub.put("a", b"1")
    hub.put("b")
    seen = []

    def fault(asked: Asked) -> None:
        # The worker waits: now something is written, first what is none of its business.
        if asked.live:
            if not seen or len(seen) < 3:
                hub.write("wake", b'"no wake"', b'{"subscription_id":"another"}')
                hub.feed("b", b"0")
                hub.feed("a", b"%d" % (len(seen) + 1))
            else:
                worker.stop()

    async def handle(path: str, batch: Any) -> None:
        seen.append((path, batch.data))

    hub.faults = fault
    async with AsyncClient(hub.url) as client:
        worker = AsyncPullWorker(client, "s", handle, name="w")
        await worker.run()
        await worker.run()
    assert seen == [("a", b"1"), ("a", b"2"), ("a", b"3")]
    assert hub.subs["s"].holder is None


async def test_stopped_by_its_handler_it_gives_the_rest_back(hub: Subscribed) -> None:
    sub = hub.subscribe("s", "a", "b")
    hub.page = 1
    hub.put("a", b"1", b"2")
    hub.put("b", b"1")

    async def handle(path: str, batch: Any) -> None:
        worker.stop()

    async with AsyncClient(hub.url) as client:
        worker = AsyncPullWorker(client, "s", handle, name="w")
        await worker.run()
    assert sub.acked == {"a": "00000001", "b": "-1"}
    assert sub.holder is None
    assert len(hub.asks("/release")) == 1


async def test_stopped_while_it_reads_it_gives_the_work_back(hub: Subscribed) -> None:
    sub = hub.subscribe("s", "a")
    hub.put("a", b"1")

    def fault(asked: Asked) -> Fault | None:
        if asked.method == "GET" and asked.path == "/a":
            worker.stop()
            return Fault(stall=True)
        return None

    hub.faults = fault
    async with AsyncClient(hub.url) as client:
        worker = AsyncPullWorker(client, "s", ignore, name="w")
        await worker.run()
    assert sub.acked == {"a": "-1"}
    assert sub.holder is None


async def test_heartbeats_while_a_handler_runs(hub: Subscribed) -> None:
    sub = hub.subscribe("s", "a")
    hub.lease_ms = 30
    hub.put("a", b"1")

    async def handle(path: str, batch: Any) -> None:
        await runtime.blocking(hub.wait_until, lambda: len(sub.worked) >= 3)

    async with AsyncClient(hub.url) as client:
        assert await AsyncPullWorker(client, "s", handle, name="w").work_once()
    *beats, ack, done = sub.worked
    assert len(beats) >= 3
    assert all(beat["acks"] == [] and not beat["done"] for beat in beats)
    assert ack["acks"] == [{"stream": "a", "offset": "00000001"}]
    assert done["done"]


async def test_a_heartbeat_that_fails_is_followed_by_another(
    hub: Subscribed, caplog: pytest.LogCaptureFixture
) -> None:
    sub = hub.subscribe("s", "a")
    hub.lease_ms = 30
    hub.put("a", b"1")
    hub.faults = lambda asked: (
        refuse(503) if asked.path.endswith("/ack") and len(hub.asks("/ack")) <= 2 else None
    )

    async def handle(path: str, batch: Any) -> None:
        await runtime.blocking(hub.wait_until, lambda: bool(sub.worked))

    with caplog.at_level(logging.WARNING, "durable_streams_client"):
        async with AsyncClient(hub.url, retry=QUICK) as client:
            assert await AsyncPullWorker(client, "s", handle, name="w").work_once()
    assert "a heartbeat failed" in caplog.text
    assert sub.acked == {"a": "00000001"}


async def test_fenced_by_a_heartbeat_it_works_no_more_on_it(
    hub: Subscribed, caplog: pytest.LogCaptureFixture
) -> None:
    sub = hub.subscribe("s", "a", "b")
    hub.lease_ms = 30
    hub.page = 1
    hub.put("a", b"1", b"2")
    hub.put("b", b"1")
    seen = []

    async def handle(path: str, batch: Any) -> None:
        seen.append(path)
        hub.fence("s")
        asks = len(hub.asks("/ack"))
        await runtime.blocking(hub.wait_until, lambda: len(hub.asks("/ack")) > asks)
        while not lost:
            await runtime.blocking(time.sleep, 0.001)

    with caplog.at_level(logging.WARNING, "durable_streams_client"):
        lost = Lines(caplog)
        async with AsyncClient(hub.url) as client:
            assert await AsyncPullWorker(client, "s", handle, name="w").work_once()
    assert seen == ["a"]
    assert sub.worked == []
    assert hub.asked[-1].path.endswith("/ack")
    assert len(hub.asks("/ack")) == 1
    assert hub.asks("/release") == []


class Lines:
    """True once the log says that a lease is over."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def __bool__(self) -> bool:
        return "the lease of s is over: FENCED" in self._caplog.text


@pytest.mark.parametrize("how", ["fenced", "deleted"])
async def test_fenced_at_its_ack_it_works_no_more_on_it(hub: Subscribed, how: str) -> None:
    sub = hub.subscribe("s", "a", "b")
    hub.put("a", b"1")
    hub.put("b", b"1")
    seen = []

    async def handle(path: str, batch: Any) -> None:
        seen.append(path)
        if how == "fenced":
            hub.fence("s")
        else:
            del hub.subs["s"]

    async with AsyncClient(hub.url) as client:
        assert await AsyncPullWorker(client, "s", handle, name="w").work_once()
    assert seen == ["a"]
    assert sub.acked == {"a": "-1", "b": "-1"}
    assert len(hub.asks("/ack")) == 1


async def test_fenced_at_the_end_is_no_error(hub: Subscribed) -> None:
    hub.subscribe("s", "a")
    hub.put("a", b"1")

    def fault(asked: Asked) -> None:
        if asked.path.endswith("/ack") and json.loads(asked.body)["done"]:
            hub.fence("s")

    hub.faults = fault
    async with AsyncClient(hub.url) as client:
        assert await AsyncPullWorker(client, "s", ignore, name="w").work_once()


GONE = Fault(
    apply=False,
    status=410,
    headers={"content-type": "application/problem+json"},
    body=b'{"code":"offset-gone","detail":"It was replaced."}',
)


async def test_a_stream_replaced_while_it_is_read_is_left_to_the_next_claim(
    hub: Subscribed, caplog: pytest.LogCaptureFixture
) -> None:
    sub = hub.subscribe("s", "a", "b")
    hub.page = 1
    hub.put("a", b"1", b"2")
    hub.put("b", b"x")
    hub.faults = lambda asked: (
        GONE if asked.method == "GET" and asked.path == "/a" and asked.count else None
    )
    with caplog.at_level(logging.WARNING, "durable_streams_client"):
        async with AsyncClient(hub.url) as client:
            assert await AsyncPullWorker(client, "s", ignore, name="w").work_once()
    assert "a: It was replaced." in caplog.text
    assert sub.acked == {"a": "00000001", "b": "00000001"}
    assert sub.holder is None


async def test_a_stream_replaced_while_it_is_handled_is_left_to_the_next_claim(
    hub: Subscribed, caplog: pytest.LogCaptureFixture
) -> None:
    """Its ack is of an offset that the new stream does not have."""
    sub = hub.subscribe("s", "a", "b")
    hub.put("a", b"1")
    hub.put("b", b"x")
    no = Fault(apply=False, status=409, body=b'{"error":{"code":"INVALID_OFFSET"}}')
    hub.faults = lambda asked: (
        no if asked.path.endswith("/ack") and b'"stream":"a"' in asked.body else None
    )
    with caplog.at_level(logging.WARNING, "durable_streams_client"):
        async with AsyncClient(hub.url) as client:
            assert await AsyncPullWorker(client, "s", ignore, name="w").work_once()
    assert "a was replaced during the work on it" in caplog.text
    assert sub.acked == {"a": "-1", "b": "00000001"}
    assert sub.holder is None


async def test_a_wake_stream_replaced_under_a_waiting_worker_costs_no_wake(hub: Subscribed) -> None:
    hub.subscribe("s", "a")
    hub.put("a")
    seen = []

    def fault(asked: Asked) -> Fault | None:
        if asked.live and not hub.streams["/a"].messages:
            # Nothing of the old wake stream is repeated.
            hub.streams["/a"].messages.append(b"1")
            return GONE
        return None

    async def handle(path: str, batch: Any) -> None:
        seen.append(batch.data)
        worker.stop()

    hub.faults = fault
    async with AsyncClient(hub.url) as client:
        worker = AsyncPullWorker(client, "s", handle, name="w")
        await worker.run()
    assert seen == [b"1"]


@pytest.mark.parametrize("done", [False, True])
async def test_an_ack_refused_otherwise_is_raised_and_the_work_given_back(
    hub: Subscribed, done: bool
) -> None:
    sub = hub.subscribe("s", "a")
    hub.put("a", b"1")
    no = Fault(apply=False, status=400, body=b'{"error":{"code":"INVALID_REQUEST"}}')
    hub.faults = lambda asked: (
        no if asked.path.endswith("/ack") and json.loads(asked.body)["done"] is done else None
    )
    async with AsyncClient(hub.url) as client:
        with pytest.raises(SubscriptionRefused, match="INVALID_REQUEST"):
            await AsyncPullWorker(client, "s", ignore, name="w").run()
    if not done:
        assert sub.holder is None


async def test_lost_answers_neither_stop_nor_double_the_work(hub: Subscribed) -> None:
    sub = hub.subscribe("s", "a")
    hub.page = 1
    hub.put("a", b"1", b"2", b"3")
    seen = []

    async def handle(path: str, batch: Any) -> None:
        seen.append(batch.data)

    # Every first answer is lost, but that to the claim.
    tried: set[bytes] = set()

    def fault(asked: Asked) -> Fault | None:
        if asked.path.endswith("/ack") and asked.body not in tried:
            tried.add(asked.body)
            return LOST
        return None

    hub.faults = fault
    async with AsyncClient(hub.url, retry=QUICK) as client:
        assert await AsyncPullWorker(client, "s", handle, name="w").work_once()
    assert seen == [b"1", b"2", b"3"]
    assert sub.acked == {"a": "00000003"}
    assert sub.holder is None


async def test_after_a_claim_whose_answer_was_lost_it_waits_for_the_next_wake(
    hub: Subscribed,
) -> None:
    sub = hub.subscribe("s", "a")
    hub.put("a", b"1")

    def fault(asked: Asked) -> Fault | None:
        if asked.path.endswith("/claim") and len(hub.asks("/claim")) == 1:
            return LOST
        if asked.live and sub.acked["a"] == "-1":
            hub.fence("s")  # the lease that nobody knows of has run out
            hub.feed("a", b"2")
        elif asked.live:
            worker.stop()
        return None

    hub.faults = fault
    async with AsyncClient(hub.url, retry=QUICK) as client:
        worker = AsyncPullWorker(client, "s", ignore, name="w")
        await worker.run()
    assert sub.acked == {"a": "00000002"}


async def test_what_a_handler_raises_comes_out_and_the_work_goes_back(hub: Subscribed) -> None:
    sub = hub.subscribe("s", "a")
    hub.put("a", b"1")

    async def handle(path: str, batch: Any) -> None:
        raise LookupError("broken")

    async with AsyncClient(hub.url) as client:
        with pytest.raises(LookupError, match="broken"):
            await AsyncPullWorker(client, "s", handle, name="w").run()
    assert sub.holder is None
    assert sub.acked == {"a": "-1"}


@pytest.mark.parametrize("error", [NotFound("mine"), Unavailable("mine"), Cancelled("mine")])
async def test_errors_of_this_client_in_a_handler_are_not_taken_for_the_workers_own(
    hub: Subscribed, error: Exception
) -> None:
    """A handler that writes to another stream may raise any of them."""
    sub = hub.subscribe("s", "a")
    hub.put("a", b"1")

    async def handle(path: str, batch: Any) -> None:
        raise error

    async with AsyncClient(hub.url, retry=QUICK) as client:
        with pytest.raises(type(error), match="mine"):
            await AsyncPullWorker(client, "s", handle, name="w").run()
    assert sub.holder is None
    assert sub.worked == []
    assert len(hub.asks("/claim")) == 1


async def test_what_cannot_be_given_back_does_not_hide_the_cause(
    hub: Subscribed, caplog: pytest.LogCaptureFixture
) -> None:
    hub.subscribe("s", "a")
    hub.put("a", b"1")
    hub.faults = lambda asked: refuse(503) if asked.path.endswith("/release") else None

    async def handle(path: str, batch: Any) -> None:
        raise LookupError("broken")

    with caplog.at_level(logging.WARNING, "durable_streams_client"):
        async with AsyncClient(hub.url, retry=QUICK) as client:
            with pytest.raises(LookupError):
                await AsyncPullWorker(client, "s", handle, name="w").run()
    assert "could not be released" in caplog.text


async def test_a_stream_that_is_gone_does_not_keep_the_others_waiting(hub: Subscribed) -> None:
    sub = hub.subscribe("s", "a", "b")
    hub.put("a", b"1")
    hub.put("b", b"1")
    hub.faults = lambda asked: refuse(404) if asked.path == "/a" and asked.method == "GET" else None
    async with AsyncClient(hub.url) as client:
        assert await AsyncPullWorker(client, "s", ignore, name="w").work_once()
    assert sub.acked == {"a": "-1", "b": "00000001"}


async def test_a_server_that_goes_on_telling_of_a_stream_that_is_gone_is_asked_ever_less_often(
    hub: Subscribed, monkeypatch: pytest.MonkeyPatch
) -> None:
    sub = hub.subscribe("s", "a", "b")
    hub.put("a", b"1")
    hub.put("b")
    hub.faults = lambda asked: refuse(404) if asked.path == "/a" and asked.method == "GET" else None
    drawn = iter([1.0, 0.5, 1.0, 0.25, 1.0])
    pauses = []

    async def sleep(scope: runtime.Scope, seconds: float) -> None:
        assert len(hub.asks("/claim")) == len(pauses) + 1
        pauses.append(seconds)
        if len(pauses) == 4:
            hub.write("b", b"1")
            monkeypatch.setattr(runtime.Scope, "sleep", sleep_after_progress)

    async def sleep_after_progress(scope: runtime.Scope, seconds: float) -> None:
        pauses.append(seconds)
        worker.stop()

    monkeypatch.setattr(runtime.Scope, "sleep", sleep)
    policy = RetryPolicy(initial=0.1, maximum=0.4, multiplier=2)
    monkeypatch.setattr("random.random", lambda: next(drawn))
    async with AsyncClient(hub.url, retry=policy) as client:
        worker = AsyncPullWorker(client, "s", ignore, name="w")
        await worker.run()
    assert pauses == pytest.approx([0.1, 0.15, 0.4, 0.25, 0.1])
    assert sub.acked == {"a": "-1", "b": "00000001"}
    assert sub.holder is None
    assert len(hub.asks("/claim")) == 6


async def test_stopped_while_it_pauses_it_waits_no_longer(
    hub: Subscribed, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.subscribe("s", "a")
    hub.put("a", b"1")
    hub.faults = lambda asked: refuse(404) if asked.path == "/a" and asked.method == "GET" else None
    sleep = runtime.Scope.sleep

    async def sleep_and_be_stopped(scope: runtime.Scope, seconds: float) -> None:
        threading.Thread(target=worker.stop).start()
        await sleep(scope, seconds)

    monkeypatch.setattr(runtime.Scope, "sleep", sleep_and_be_stopped)
    policy = RetryPolicy(initial=3600.0, maximum=3600.0)
    monkeypatch.setattr("random.random", lambda: 1.0)
    async with AsyncClient(hub.url, retry=policy) as client:
        worker = AsyncPullWorker(client, "s", ignore, name="w")
        await worker.run()
    assert len(hub.asks("/claim")) == 1


async def test_trouble_of_the_server_is_waited_out(hub: Subscribed) -> None:
    sub = hub.subscribe("s", "a")
    hub.put("a", b"1")

    def fault(asked: Asked) -> Fault | None:
        if asked.path.endswith("/claim") and len(hub.asks("/claim")) <= 7:
            return refuse(503)
        if asked.live:
            worker.stop()
        return None

    hub.faults = fault
    async with AsyncClient(hub.url, retry=QUICK) as client:
        worker = AsyncPullWorker(client, "s", ignore, name="w")
        await worker.run()
    assert sub.acked == {"a": "00000001"}
    assert len(hub.asks("/claim")) == 9


async def test_only_pull_subscriptions_have_workers(hub: Subscribed) -> None:
    hub.subscribe("s", "a").wish = {"type": "webhook", "webhook": {"url": "https://x.example"}}
    async with AsyncClient(hub.url) as client:
        with pytest.raises(InvalidArgument, match="not a pull-wake"):
            await AsyncPullWorker(client, "s", ignore, name="w").run()
        with pytest.raises(SubscriptionRefused, match="there is none"):
            await AsyncPullWorker(client, "absent", ignore, name="w").run()


@pytest.mark.parametrize(
    "odd", [rb'"\ud83d"', b"1e400", b"1" * 5000, b"5", b'["a"]', b'{"subscription_id":[]}', b"{"]
)
async def test_what_is_not_a_wake_does_not_end_a_worker(hub: Subscribed, odd: bytes) -> None:
    """Anybody who may write to the wake stream could stop every worker otherwise."""
    sub = hub.subscribe("s", "a")
    hub.put("a")

    def fault(asked: Asked) -> None:
        if asked.path == "/wake" and asked.live:
            hub.faults = lambda asked: None
            hub.write("wake", odd)
            hub.feed("a", b"1")

    async def handle(path: str, batch: Any) -> None:
        worker.stop()

    hub.faults = fault
    async with AsyncClient(hub.url, retry=QUICK) as client:
        worker = AsyncPullWorker(client, "s", handle, name="w")
        await worker.run()
    assert sub.acked == {"a": "00000001"}


async def test_a_wake_stream_that_ends_ends_the_worker(hub: Subscribed) -> None:
    hub.subscribe("s", "a")
    hub.write("wake", close=True)
    async with AsyncClient(hub.url) as client:
        with pytest.raises(NotFound, match="closed"):
            await AsyncPullWorker(client, "s", ignore, name="w").run()


async def test_paths_are_not_read_as_urls_or_queries(hub: Subscribed) -> None:
    """Permission to create a stream must not be enough to send a worker, and its credentials,
    elsewhere."""
    paths = ["http://elsewhere.example/x", "100% ü?", "a#b"]
    quoted = ["/http://elsewhere.example/x", "/100%25%20%C3%BC%3F", "/a%23b"]
    sub = hub.subscribe("s", *paths)
    for path, name in zip(paths, quoted, strict=True):
        hub.streams[f"/{path}"] = hub.put(name[1:], b"1")
    seen = []

    async def handle(path: str, batch: Any) -> None:
        seen.append(path)

    async with AsyncClient(hub.url) as client:
        assert await AsyncPullWorker(client, "s", handle, name="w").work_once()
    assert seen == paths
    assert [asked.path for asked in hub.asked if asked.method == "GET"] == quoted
    assert set(sub.acked.values()) == {"00000001"}


async def test_stop_from_another_thread(hub: Subscribed) -> None:
    hub.subscribe("s", "a")
    hub.put("a")
    async with AsyncClient(hub.url) as client:
        worker = AsyncPullWorker(client, "s", ignore, name="w")
        hub.faults = lambda asked: (
            threading.Thread(target=worker.stop).start() if asked.live else None
        )
        await worker.run()
    hub.wait_until(lambda: hub.live == 0)
