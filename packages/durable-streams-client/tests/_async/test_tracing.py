"""Traces: one span for each call of a user, which all requests of the call carry."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hostile import LOST, Asked, Fault, Hostile, refuse
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode, TraceFlags
from subscribed import Signer, Subscribed
from traced import Traced, about, carried, current, id_of, parent_id, traceparent

from durable_streams_client import (
    AsyncClient,
    AsyncPullWorker,
    AsyncSubscriptions,
    AsyncWebhookVerifier,
    Cancelled,
    ClientError,
    InvalidArgument,
    NotFound,
    NotStored,
    ProducerLimits,
    RetryPolicy,
    StreamExists,
    Unavailable,
)
from durable_streams_client._async import runtime
from durable_streams_client.tracing import Tracing

QUICK = RetryPolicy(initial=0.001, maximum=0.01, attempts=3, read_attempts=3)
JSON = "application/json"
WHOLE = ProducerLimits(linger=60)
"""All items that are appended before a flush make one batch."""
OURS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def traced() -> Iterator[Traced]:
    traced = Traced()
    yield traced
    assert current() is INVALID_SPAN  # nothing stays behind in the context of the user


def client_of(server: Hostile, traced: Traced, **options: Any) -> AsyncClient:
    return AsyncClient(server.url, tracing=traced.tracing, retry=QUICK, **options)


# -- one span for each call ------------------------------------------------------------------------


async def test_each_call_has_a_span_named_as_the_server_counts_it(
    hub: Subscribed, traced: Traced
) -> None:
    hub.put("source", b"1", content_type=JSON)
    hub.extended = True
    async with client_of(hub, traced) as client:
        stream = client.stream("a")
        await stream.create(content_type=JSON)
        await client.stream("fork").fork(client.stream("source"))
        await stream.append(1)
        await stream.close_stream(2)
        await stream.head()
        await stream.exists()
        await stream.read().read_items()
        assert [listed.path async for listed in client.list()] == ["a", "fork", "source"]
        await stream.delete()
    assert traced.names == [
        "PUT create",
        "PUT create",
        "POST append",
        "POST append",
        "HEAD head",
        "HEAD head",
        "GET read",
        "GET list",
        "DELETE delete",
    ]
    assert carried(hub.asked) == [traceparent(span) for span in traced.spans]


async def test_the_calls_of_subscriptions_have_spans_too(hub: Subscribed, traced: Traced) -> None:
    hub.put("a", content_type=JSON)
    signer = Signer("k")
    hub.keys.append(signer)
    async with client_of(hub, traced) as client:
        subscriptions = AsyncSubscriptions(client)
        await subscriptions.create_pull("jobs", "wake", streams=["a"])
        await subscriptions.get("jobs")
        await subscriptions.add_streams("jobs", ["b"])
        await subscriptions.remove_stream("jobs", "b")
        assert await subscriptions.claim("jobs", "w") is None
        hub.write("a", b"1")
        claim = await subscriptions.claim("jobs", "w")
        assert claim is not None
        await subscriptions.ack(claim)
        await subscriptions.release(claim)
        await subscriptions.delete("jobs")
        verifier = AsyncWebhookVerifier(client, f"{hub.url}__ds/jwks.json", window=1e12)
        await verifier.verify(signer.headers(b"{}", 1), b"{}")
    assert traced.names == [
        "PUT subscribe",
        "GET subscribe",
        "POST subscribe",
        "DELETE subscribe",
        "POST claim",
        "POST claim",
        "POST ack",
        "POST release",
        "DELETE subscribe",
        "GET jwks",
    ]
    assert carried(hub.asked) == [traceparent(span) for span in traced.spans]
    # No work is a result, not an error.
    assert about(traced.spans[4])["http.response.status_code"] == 409
    assert {span.status.status_code for span in traced.spans} == {StatusCode.UNSET}


async def test_a_span_is_below_the_users_and_says_what_was_asked_of_whom(
    server: Hostile, traced: Traced
) -> None:
    server.put("a/b c", content_type=JSON)
    server.streams["/a/b%20c"] = server.streams.pop("/a/b c")
    async with client_of(server, traced) as client:
        with traced.tracer.start_as_current_span("work") as work:
            await client.stream("a/b c", content_type=JSON).append(1)
            assert current() is work
    span = traced.named("POST append")
    assert span.kind is SpanKind.CLIENT
    assert parent_id(span) == id_of(work)
    assert about(span) == {
        "http.request.method": "POST",
        "durable_streams.action": "append",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "url.full": f"{server.url}a/b%20c",
        "url.path": "/a/b%20c",
        "http.response.status_code": 200,
    }


async def test_an_append_that_first_asks_for_other_things_is_one_span(
    server: Hostile, traced: Traced
) -> None:
    server.put("a", content_type=JSON)
    server.extended = True
    async with client_of(server, traced) as client:
        await client.stream("a").append(1, expected="00000000")
    assert [asked.method for asked in server.asked] == ["HEAD", "HEAD", "POST"]
    (span,) = traced.spans
    assert span.name == "POST append"
    assert about(span)["http.response.status_code"] == 200
    assert set(carried(server.asked)) == {traceparent(span)}


async def test_no_span_holds_a_secret_of_the_url(server: Hostile, traced: Traced) -> None:
    server.put("a", content_type=JSON)
    url = f"http://someone:word@127.0.0.1:{server.port}/a?signature=sealed"
    async with AsyncClient(tracing=traced.tracing, params={"key": "sealed"}) as client:
        await client.stream(url).append(1)
        await client.stream(url).read().read_items()
    for span in traced.spans:
        assert not {"someone", "word", "sealed"} & set(span.to_json().replace("@", '"').split('"'))
        assert "sealed" not in span.to_json()
        assert about(span)["url.full"] == f"{server.url}a"


# -- repeats and errors ----------------------------------------------------------------------------


async def test_the_attempts_of_a_call_are_events_of_its_span(
    server: Hostile, traced: Traced
) -> None:
    server.put("a", content_type=JSON)
    faults = [refuse(503), LOST]
    server.faults = lambda asked: faults.pop(0) if faults else None
    async with client_of(server, traced) as client:
        await client.stream("a", content_type=JSON).append(1)
    (span,) = traced.spans
    assert carried(server.asked) == [traceparent(span)] * 3
    assert about(span)["http.request.resend_count"] == 2
    assert about(span)["http.response.status_code"] == 204
    assert span.status.status_code is StatusCode.UNSET
    assert [event.name for event in span.events] == ["retry", "retry"]
    first, second = [dict(event.attributes or {}) for event in span.events]
    assert first["error.type"] == "Unavailable"
    assert first["http.response.status_code"] == 503
    assert second["error.type"] == "ConnectionLost"
    assert "http.response.status_code" not in second


async def test_a_call_that_raises_marks_its_span_as_an_error(
    server: Hostile, traced: Traced
) -> None:
    server.put("made", content_type=JSON)
    async with client_of(server, traced) as client:
        missing = client.stream("missing")
        with pytest.raises(NotFound):
            await missing.head()
        with pytest.raises(NotFound):
            await missing.delete()
        with pytest.raises(StreamExists):
            await client.stream("made").create(content_type=JSON, exist_ok=False)
        server.faults = lambda asked: LOST
        with pytest.raises(ClientError):
            await missing.head()
    assert {span.status.status_code for span in traced.spans} == {StatusCode.ERROR}
    assert [about(span)["error.type"] for span in traced.spans] == [
        *("NotFound", "NotFound", "StreamExists", "ConnectionLost")
    ]
    status = [about(span).get("http.response.status_code") for span in traced.spans]
    assert status == [404, 404, 200, None]


async def test_a_refusal_that_a_call_takes_for_an_answer_is_not_an_error(
    server: Hostile, traced: Traced
) -> None:
    async with client_of(server, traced) as client:
        assert not await client.stream("missing").exists()
        await client.stream("missing").delete(missing_ok=True)
    assert [about(span)["http.response.status_code"] for span in traced.spans] == [404, 404]
    assert {span.status.status_code for span in traced.spans} == {StatusCode.UNSET}


async def test_a_hook_that_raises_ends_the_span(server: Hostile, traced: Traced) -> None:
    def give_up(_retry: object) -> None:
        raise RuntimeError

    server.faults = lambda asked: refuse(503)
    async with client_of(server, traced, on_retry=give_up) as client:
        with pytest.raises(RuntimeError):
            await client.stream("a").head()
    assert about(traced.named("HEAD head"))["error.type"] == "RuntimeError"


async def test_data_that_cannot_be_encoded_ends_the_span(server: Hostile, traced: Traced) -> None:
    async with client_of(server, traced) as client:
        with pytest.raises(InvalidArgument):
            await client.stream("a", content_type=JSON).append(object())
    assert about(traced.named("POST append"))["error.type"] == "InvalidArgument"
    assert server.asked == []


# -- what requests carry ---------------------------------------------------------------------------


async def test_the_span_replaces_a_trace_that_the_headers_name(
    server: Hostile, traced: Traced
) -> None:
    server.put("a", content_type=JSON)
    own = {"Traceparent": lambda: OURS, "tracestate": "a=1", "X-Tag": "kept"}
    async with client_of(server, traced, headers=own) as client:
        await client.stream("a").head()
    (asked,) = server.asked
    assert carried([asked]) == [traceparent(traced.named("HEAD head"))]
    assert "tracestate" not in asked.headers
    assert asked.headers["x-tag"] == "kept"


async def test_without_a_provider_the_headers_of_the_user_stay(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    tracing = Tracing(provider=trace.NoOpTracerProvider())
    async with AsyncClient(server.url, tracing=tracing, headers={"traceparent": OURS}) as client:
        await client.stream("a").head()
    assert carried(server.asked) == [OURS]


async def test_a_span_that_is_not_sampled_says_so_to_the_server(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    faults = [refuse(503)]
    server.faults = lambda asked: faults.pop() if faults else None
    traced = Traced(ALWAYS_OFF)
    async with client_of(server, traced) as client:
        await client.stream("a").head()
    assert traced.spans == []
    flags = [int(value.rpartition("-")[2], 16) for value in carried(server.asked)]
    assert [each & TraceFlags.SAMPLED for each in flags] == [0, 0]


async def test_functions_that_return_headers_run_below_the_span(
    server: Hostile, traced: Traced
) -> None:
    server.put("a", content_type=JSON)
    seen = []

    def token() -> str:
        seen.append(id_of(current()))
        return "t"

    async with client_of(server, traced, headers={"Authorization": token}) as client:
        await client.stream("a").head()
    assert seen == [int(carried(server.asked)[0].split("-")[2], 16)]


async def test_an_instrumented_http_client_sends_below_the_span(
    server: Hostile, traced: Traced
) -> None:
    server.put("a", content_type=JSON)
    seen = []

    async def sending(_request: object) -> None:
        seen.append(id_of(current()))

    async with httpx.AsyncClient(event_hooks={"request": [sending]}) as http:
        async with client_of(server, traced, http=http) as client:
            await client.stream("a").head()
    assert seen == [int(carried(server.asked)[0].split("-")[2], 16)]


# -- readers ---------------------------------------------------------------------------------------


async def test_a_reader_has_a_span_for_each_page(server: Hostile, traced: Traced) -> None:
    server.page = 1
    server.put("a", b"1", b"2", content_type=JSON)
    async with client_of(server, traced) as client:
        async for _ in client.stream("a").read().items():
            assert current() is INVALID_SPAN
    assert traced.names == ["GET read"] * len(server.asked)
    assert len(server.asked) > 1
    assert carried(server.asked) == [traceparent(span) for span in traced.spans]


async def test_the_span_of_an_event_stream_ends_when_the_stream_is_open(
    server: Hostile, traced: Traced
) -> None:
    server.put("a", b"1", content_type=JSON)
    async with client_of(server, traced) as client:
        items = client.stream("a").follow(live="sse").items()
        with traced.tracer.start_as_current_span("work") as work:
            assert await anext(items) == 1
            server.write("a", b"2")
            assert await anext(items) == 2
            assert current() is work
        assert traced.names == ["GET read", "GET sse", "work"]
        assert {parent_id(span) for span in traced.spans[:2]} == {id_of(work)}
        server.write("a", b"3", close=True)
        assert [item async for item in items] == [3]
    assert len(traced.spans) == 3


async def test_long_polls_have_spans(server: Hostile, traced: Traced) -> None:
    server.put("a", content_type=JSON)
    async with client_of(server, traced) as client:
        items = client.stream("a").follow(live="long-poll").items()
        server.faults = lambda asked: server.write("a", b"1", close=True) if asked.live else None
        assert [item async for item in items] == [1]
    assert set(traced.names) == {"GET read", "GET long-poll"}
    assert {span.status.status_code for span in traced.spans} == {StatusCode.UNSET}


async def test_what_a_reader_repeats_has_a_span_of_its_own(server: Hostile, traced: Traced) -> None:
    server.put("a", b"1", content_type=JSON)
    faults = [refuse(503), refuse(503)]
    server.faults = lambda asked: faults.pop(0) if faults else None
    async with client_of(server, traced) as client:
        assert await client.stream("a").read().read_items() == [1]
        assert await client.stream("a").read().read_items() == [1]
    first, second, third, fourth = traced.spans
    assert first.status.status_code is second.status.status_code is StatusCode.ERROR
    assert third.status.status_code is StatusCode.UNSET
    counts = [about(span).get("http.request.resend_count") for span in traced.spans]
    assert counts == [None, 1, 2, None]
    assert about(first)["error.type"] == "Unavailable"
    assert about(fourth)["http.response.status_code"] in {200, 304}


async def test_a_cancelled_reader_ends_its_span(server: Hostile, traced: Traced) -> None:
    server.put("a", content_type=JSON)
    server.poll = 60
    async with client_of(server, traced) as client:
        reader = client.stream("a").follow(live="long-poll")

        def cancel() -> None:
            server.wait_until(lambda: server.asked[-1].live == "long-poll")
            reader.cancel()

        batch = await anext(reader)
        assert batch.up_to_date
        cancelling = threading.Thread(target=cancel)
        cancelling.start()
        with pytest.raises(Cancelled):
            await anext(reader)
        cancelling.join()
    span = traced.named("GET long-poll")
    assert about(span)["error.type"].startswith("Cancelled")
    assert span.status.status_code is StatusCode.UNSET


async def test_a_generator_that_is_closed_leaves_no_span_open(
    server: Hostile, traced: Traced
) -> None:
    server.page = 1
    server.extended = True
    server.put("a", b"1", b"2", content_type=JSON)
    server.put("b", content_type=JSON)
    async with client_of(server, traced) as client:
        listing = client.list()
        assert (await anext(listing)).path == "a"
        await listing.aclose()
        items = client.stream("a").read().items()
        assert await anext(items) == 1
        await items.aclose()
    assert traced.names == ["GET list", "GET read"]


# -- workers ---------------------------------------------------------------------------------------


async def test_heartbeats_are_below_the_span_of_who_runs_the_worker(
    hub: Subscribed, traced: Traced
) -> None:
    """In a thread they had no parent."""
    sub = hub.subscribe("s", "a")
    hub.lease_ms = 30
    hub.put("a", b"1")

    async def handle(path: str, batch: Any) -> None:
        await runtime.blocking(hub.wait_until, lambda: bool(sub.worked))

    async with client_of(hub, traced) as client:
        with traced.tracer.start_as_current_span("job") as job:
            assert await AsyncPullWorker(client, "s", handle, name="w").work_once()
    assert {parent_id(span) for span in traced.spans if span.name == "POST ack"} == {id_of(job)}


# -- producers -------------------------------------------------------------------------------------


async def test_a_batch_below_one_span_is_its_child_whoever_started_the_worker(
    server: Hostile, traced: Traced
) -> None:
    server.put("a", content_type=JSON)
    async with client_of(server, traced) as client:
        async with client.stream("a", content_type=JSON).producer(limits=WHOLE) as producer:
            with traced.tracer.start_as_current_span("first"):
                await producer.append(1)
                await producer.flush()
            with traced.tracer.start_as_current_span("second") as second:
                await producer.append_many([2, 3])
                await producer.flush()
    batches = [span for span in traced.spans if span.name == "POST append"]
    assert parent_id(batches[1]) == id_of(second)
    assert [len(span.links) for span in batches] == [0, 0]
    assert carried(server.asked) == [traceparent(span) for span in batches]


async def test_a_batch_below_several_spans_is_linked_to_each(
    server: Hostile, traced: Traced
) -> None:
    server.put("a", content_type=JSON)
    limits = ProducerLimits(batch_items=4, linger=60)
    async with client_of(server, traced) as client:
        with traced.tracer.start_as_current_span("one") as one:
            producer = client.stream("a", content_type=JSON).producer(limits=limits)
            await producer.append_many([1, 2])
        with traced.tracer.start_as_current_span("two") as two:
            await producer.append(3)
        await producer.append(4)
        await producer.append(5)
        await producer.aclose()
    first, second = [span for span in traced.spans if span.name == "POST append"]
    assert first.parent is second.parent is None
    assert [link.context.span_id for link in first.links] == [id_of(one), id_of(two)]
    assert list(second.links) == []


async def test_a_close_of_a_producer_is_a_batch_too(server: Hostile, traced: Traced) -> None:
    server.put("a", content_type=JSON)
    async with client_of(server, traced) as client:
        async with client.stream("a").producer() as producer:
            await producer.append(1)
            with traced.tracer.start_as_current_span("closing") as closing:
                await producer.close_stream(2)
    asks, batch, close = [span for span in traced.spans if span.name != "closing"]
    assert asks.name == "HEAD head"
    assert batch.parent is None
    assert parent_id(close) == id_of(closing)


async def test_the_halves_of_a_batch_that_was_too_large_keep_their_span(
    server: Hostile, traced: Traced
) -> None:
    server.put("a", content_type=JSON)

    def small(asked: Asked) -> Fault | None:
        return refuse(413) if len(asked.body) > 4 else None

    server.faults = small
    async with client_of(server, traced) as client:
        async with client.stream("a", content_type=JSON).producer(limits=WHOLE) as producer:
            with traced.tracer.start_as_current_span("work") as work:
                await producer.append_many([1, 2])
                await producer.flush()
    sent = [span for span in traced.spans if span.name == "POST append"]
    assert [about(span)["http.response.status_code"] for span in sent] == [413, 200, 200]
    assert {parent_id(span) for span in sent} == {id_of(work)}


async def test_a_batch_that_is_repeated_and_one_that_fails_are_one_span_each(
    server: Hostile, traced: Traced
) -> None:
    server.put("a", content_type=JSON)
    faults = [refuse(503), None]
    server.faults = lambda asked: faults.pop(0) if faults else refuse(503)
    async with client_of(server, traced) as client:
        producer = client.stream("a", content_type=JSON).producer()
        await producer.append(1)
        await producer.flush()
        await producer.append(2)
        with pytest.raises(NotStored):
            await producer.aclose()
    stored, lost = traced.spans
    assert about(stored)["http.request.resend_count"] == 1
    assert stored.status.status_code is StatusCode.UNSET
    assert about(lost)["error.type"] == Unavailable.__name__
    assert about(lost)["http.request.resend_count"] == 2
    assert lost.status.status_code is StatusCode.ERROR
