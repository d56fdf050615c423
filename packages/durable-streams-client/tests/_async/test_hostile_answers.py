"""Answers that once raised raw exceptions, hung a producer or made a reader spin."""

import pytest
from hostile import Asked, Fault, Hostile
from wire import Wire, answer

from durable_streams_client import (
    AsyncClient,
    AsyncPullWorker,
    AsyncSubscriptions,
    AsyncWebhookVerifier,
    ClientError,
    MalformedResponse,
    NotStored,
    Retry,
    RetryPolicy,
    Timeouts,
    Unavailable,
    WebhookRejected,
)

QUICK = RetryPolicy(initial=0.001, maximum=0.01)
JSON = "application/json"
DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        b'{"detail":"Stra\xdfe"}',
        b'{"code":' + DEEP,
        b'{"detail":' + b"1" * 5000 + b"}",
        b'{"detail":"\\ud83d"}',
    ],
)
async def test_a_refusal_whose_json_cannot_be_read_is_still_repeated(
    server: Hostile, body: bytes
) -> None:
    server.put("a", b"1").closed = True
    bad = Fault(apply=False, status=502, headers={"Content-Type": JSON}, body=body)
    server.faults = lambda asked: bad if asked.count == 0 else None
    seen: list[Retry] = []
    async with AsyncClient(server.url, retry=QUICK, on_retry=seen.append) as client:
        assert await client.stream("a").follow().read_bytes() == b"1"
    assert [type(retry.error) for retry in seen] == [Unavailable]


async def test_the_words_of_a_refusal_fit_into_a_line_of_a_log(server: Hostile) -> None:
    body = b'{"detail":"a\\nb\\u001b[2J' + b"x" * 5000 + b'","code":"c\\nd"}'
    server.faults = lambda asked: Fault(
        apply=False, status=400, headers={"Content-Type": JSON}, body=body
    )
    async with AsyncClient(server.url) as client:
        with pytest.raises(ClientError) as caught:
            await client.stream("a").read().read_bytes()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert caught.value.code == "c d"


@pytest.mark.parametrize(
    "control",
    [
        DEEP,
        b'{"streamNextOffset":"5","more":' + DEEP,
        b'{"streamNextOffset":' + b"1" * 5000 + b"}",
        b'{"streamNextOffset":"a b"}',
        b'{"streamNextOffset":"a,b"}',
        b'{"streamNextOffset":"\xc3\xbc"}',
        b'{"streamNextOffset":"' + b"1" * 5000 + b'"}',
    ],
)
async def test_a_control_event_that_is_none_is_an_error(server: Hostile, control: bytes) -> None:
    server.put("a", b"1")
    events = Fault(
        apply=False,
        status=200,
        headers={"Content-Type": "text/event-stream"},
        body=b"event: control\ndata: " + control + b"\n\n",
    )
    server.faults = lambda asked: events if asked.live == "sse" else None
    async with AsyncClient(server.url, retry=QUICK) as client:
        with pytest.raises(MalformedResponse):
            await client.stream("a").follow().read_bytes()


@pytest.mark.parametrize("offset", ["a b", "a/b", "a?b", "now", "-1", "1" * 5000, "\xfc"])
async def test_an_offset_that_is_none_is_an_error(server: Hostile, offset: str) -> None:
    server.put("a", b"1")
    server.faults = lambda asked: Fault(headers={"Stream-Next-Offset": offset})
    async with AsyncClient(server.url, retry=QUICK) as client:
        with pytest.raises(MalformedResponse, match="Stream-Next-Offset"):
            await client.stream("a").head()


@pytest.mark.parametrize("number", ["9" * 5000, str(2**53), "-1", "1e3", "\xb2", ""])
async def test_a_number_that_is_none_counts_as_not_given(server: Hostile, number: str) -> None:
    numbers = ("Stream-TTL", "Producer-Seq", "Producer-Epoch")
    server.put("a", content_type=JSON)
    server.faults = lambda asked: Fault(headers=dict.fromkeys(numbers, number))
    async with AsyncClient(server.url, retry=QUICK) as client:
        stream = client.stream("a")
        assert (await stream.head()).ttl is None
        async with stream.producer() as producer:
            await producer.append(1)
            await producer.flush()
        assert producer.acknowledged == 1


async def test_whatever_fails_while_sending_ends_the_wait_of_flush(server: Hostile) -> None:
    """A sender that ended with an exception of its own would leave it waiting for ever."""
    server.put("a", content_type=JSON)

    def token() -> str:
        raise ZeroDivisionError("no token")

    async with AsyncClient(server.url) as client:
        stream = client.stream("a", content_type=JSON, headers={"Authorization": token})
        producer = stream.producer()
        await producer.append(1)
        with pytest.raises(NotStored, match="no token") as caught:
            await producer.flush()
    assert isinstance(caught.value.cause.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("live", [None, "sse", "long-poll"])
async def test_no_answer_leads_a_reader_backwards(server: Hostile, live: str | None) -> None:
    """Offsets that alternate on empty pages once made 1,400 requests in a second."""
    server.put("a", b"1", b"2")

    def swap(asked: Asked) -> Fault | None:
        back = asked.params["offset"] == "00000002"
        return Fault(
            status=200,
            headers={
                "Content-Type": JSON,
                "Stream-Next-Offset": "00000001" if back else "00000002",
            },
            body=b"[]",
        )

    server.faults = swap
    async with AsyncClient(server.url, retry=QUICK) as client:
        stream = client.stream("a")
        reader = stream.read() if live is None else stream.follow(live=live)  # type: ignore[arg-type]
        with pytest.raises(MalformedResponse, match="before the one asked for"):
            await reader.read_items()
    assert len(server.asked) == 2


def _empty_pages(request: bytes) -> bytes:
    """Without data and without an end, each at a higher offset."""
    offset = request.partition(b"offset=")[2].partition(b"&")[0].partition(b" ")[0]
    number = 0 if offset == b"-1" else int(offset) + 1
    return answer(
        200, {"Content-Type": JSON, "Stream-Next-Offset": f"{number:08d}", "ETag": '"e"'}, b"[]"
    )


async def test_a_read_of_empty_pages_without_end_gives_up(wire: Wire) -> None:
    wire.answer = _empty_pages
    async with AsyncClient(wire.url, retry=QUICK) as client:
        with pytest.raises(MalformedResponse, match="hold nothing") as caught:
            await client.stream("a").read().read_items()
    assert caught.value.code == "empty-pages"
    assert len(wire.requests) == QUICK.read_attempts


async def test_following_empty_pages_without_end_slows_down(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire.answer = _empty_pages
    doubling = RetryPolicy(initial=0.05)
    monkeypatch.setattr("random.random", lambda: 1.0)
    async with AsyncClient(wire.url, retry=doubling, timeouts=Timeouts(total=0.5)) as client:
        with pytest.raises(ClientError):
            await client.stream("a").follow().read_items()
    assert len(wire.requests) <= 5  # after 0, 0.05, 0.15, 0.35 and 0.75 s


LEASE = b'{"wake_id":"w","generation":1,"token":"t","streams":[],"lease_ttl_ms":30000}'


@pytest.mark.parametrize(
    "wrong",
    [
        (b"30000", b"9" * 400),
        (b"30000", b"9" * 5000),
        (b"30000", b"0"),
        (b"30000", b"-1"),
        (b'"t"', b'"t\\r\\nX-Other: 1"'),
        (b'"t"', b'"\\u00fc"'),
        (b"[]", b'[{"path":1,"link_type":"x","acked_offset":"1"}]'),
        (b"[]", DEEP),
    ],
)
async def test_a_lease_that_cannot_be_kept_is_an_error(
    wire: Wire, wrong: tuple[bytes, bytes]
) -> None:
    wire.answer = lambda request: answer(200, {}, LEASE.replace(*wrong))
    async with AsyncClient(wire.url, retry=QUICK) as client:
        with pytest.raises(MalformedResponse):
            await AsyncSubscriptions(client).claim("s", "me")
        with pytest.raises(MalformedResponse):
            await AsyncPullWorker(client, "s", print, name="me").work_once()


async def test_a_key_set_or_a_webhook_nested_too_deeply_is_an_error(wire: Wire) -> None:
    wire.answer = lambda request: answer(200, {}, b'{"keys":' + DEEP)
    signed = {"webhook-signature": "t=1,kid=k,ed25519=" + "A" * 86}
    async with AsyncClient(wire.url, retry=QUICK) as client:
        verifier = AsyncWebhookVerifier(client, f"{wire.url}jwks", window=float("inf"))
        with pytest.raises((MalformedResponse, WebhookRejected)):
            await verifier.verify(signed, DEEP)
