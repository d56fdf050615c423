"""Half an answer is never taken for a whole one, and none grows without bound."""

import gzip
import zlib

import pytest
from wire import Wire, answer

from durable_streams_client import (
    AsyncClient,
    ConnectionLost,
    MalformedResponse,
    NotFound,
    Retry,
    RetryPolicy,
)

QUICK = RetryPolicy(initial=0.001, maximum=0.002, read_attempts=3)
TEXT = b"".join(b"line %06d\n" % n for n in range(5000))
PAGE = {
    "Content-Type": "text/plain",
    "Stream-Next-Offset": "60000",
    "Stream-Up-To-Date": "true",
    "Stream-Closed": "true",
}


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def zeros(megabytes: int) -> bytes:
    """That much of nothing, compressed to a thousandth."""
    packer = zlib.compressobj(wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()


CODED = {
    "gzip": gzip.compress(TEXT),
    "x-gzip": gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:]),
    "deflate": zlib.compress(TEXT),
    "Deflate": raw_deflate(TEXT),
    "gzip, deflate": zlib.compress(gzip.compress(TEXT)),
    "identity": TEXT,
}


@pytest.mark.parametrize(
    "coding,length",
    [*((coding, True) for coding in CODED), *((c, False) for c in CODED if c != "identity")],
)
async def test_a_whole_page_in_any_coding_is_read(wire: Wire, coding: str, length: bool) -> None:
    page = answer(200, {**PAGE, "Content-Encoding": coding}, CODED[coding], length=length)
    wire.answer = lambda request: page
    async with AsyncClient(wire.url) as client:
        assert await client.stream("a").read().read_bytes() == TEXT


@pytest.mark.parametrize("coding", [coding for coding in CODED if coding != "identity"])
@pytest.mark.parametrize("left", [0.0, 0.6, 0.999])
async def test_a_compressed_page_without_its_end_mark_is_repeated(
    wire: Wire, coding: str, left: float
) -> None:
    """The HTTP message is complete: only the compressed data itself shows that it was cut."""
    whole = CODED[coding]
    headers = {**PAGE, "Content-Encoding": coding}
    pages = [answer(200, headers, whole[: int(len(whole) * left)]), answer(200, headers, whole)]
    wire.answer = lambda request: pages.pop(0) if len(pages) > 1 else pages[0]
    seen: list[Retry] = []
    async with AsyncClient(wire.url, retry=QUICK, on_retry=seen.append) as client:
        assert await client.stream("a").read().read_bytes() == TEXT
    assert [type(retry.error) for retry in seen] == [ConnectionLost]


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_page_cut_at_close_is_an_error_after_some_tries(
    wire: Wire, coding: str, version: str
) -> None:
    page = answer(
        200,
        {**PAGE, "Content-Encoding": coding},
        CODED[coding][:-5],
        version=version,
        length=False,
    )
    wire.answer = lambda request: page
    async with AsyncClient(wire.url, retry=QUICK) as client:
        reader = client.stream("a").read()
        with pytest.raises(ConnectionLost):
            await reader.read_bytes()
        assert reader.offset == "-1"
    assert len(wire.requests) == QUICK.read_attempts


@pytest.mark.parametrize("live", ["long-poll", "sse"])
async def test_following_goes_on_where_the_cut_page_began(wire: Wire, live: str) -> None:
    page = {**PAGE, "Content-Encoding": "gzip"}
    pages = [answer(200, page, CODED["gzip"][:-1]), answer(200, page, CODED["gzip"])]
    wire.answer = lambda request: pages.pop(0)
    async with AsyncClient(wire.url, retry=QUICK) as client:
        reader = client.stream("a").follow(live=live)  # type: ignore[arg-type]
        assert await reader.read_bytes() == TEXT
    assert all(b"offset=-1" in request for request in wire.requests)


async def test_a_damaged_coding_is_repeated(wire: Wire) -> None:
    damaged = bytearray(CODED["gzip"])
    damaged[len(damaged) // 2] ^= 0xFF
    page = answer(200, {**PAGE, "Content-Encoding": "gzip"}, bytes(damaged))
    wire.answer = lambda request: page
    async with AsyncClient(wire.url, retry=QUICK) as client:
        with pytest.raises(ConnectionLost, match="compressed"):
            await client.stream("a").read().read_bytes()


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip, gzip", "x" * 1000])
async def test_a_coding_that_was_not_asked_for_is_an_error(wire: Wire, coding: str) -> None:
    page = answer(200, {**PAGE, "Content-Encoding": coding}, CODED["gzip"])
    wire.answer = lambda request: page
    async with AsyncClient(wire.url, retry=QUICK) as client:
        with pytest.raises(MalformedResponse) as caught:
            await client.stream("a").read().read_bytes()
    assert caught.value.code == "unknown-encoding"


async def test_a_page_that_decompresses_without_bound_is_refused(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_streams_client._async.transport.MAX_BODY_BYTES", 3 << 20)
    page = answer(200, {**PAGE, "Content-Encoding": "gzip"}, zeros(4))
    assert len(page) < 1 << 14
    wire.answer = lambda request: page
    async with AsyncClient(wire.url, retry=QUICK) as client:
        with pytest.raises(MalformedResponse, match="more than 3145728 bytes") as caught:
            await client.stream("a").read().read_bytes()
    assert caught.value.code == "response-too-large"


async def test_a_refusal_is_believed_however_large_or_damaged_its_body_is(wire: Wire) -> None:
    bodies = [
        answer(404, {"Content-Encoding": "gzip"}, zeros(4)),
        answer(404, {"Content-Encoding": "gzip"}, b"no gzip"),
        answer(404, {"Content-Encoding": "br"}, b"?"),
        answer(404, {"Content-Type": "text/plain"}, b"cut", length=False),
        answer(404, {"Content-Type": "text/plain"}, b"no such stream")[:-7],
    ]
    wire.answer = lambda request: bodies.pop(0)
    async with AsyncClient(wire.url, retry=QUICK) as client:
        for _ in range(len(bodies)):
            with pytest.raises(NotFound) as caught:
                await client.stream("a").read().read_bytes()
            assert len(str(caught.value)) < 1000
    assert not bodies


async def test_the_answer_to_a_write_needs_no_end_mark(wire: Wire) -> None:
    """Nothing of its body is used, and an HTTP/1.0 proxy sends no length."""
    done = answer(200, {"Stream-Next-Offset": "3"}, b"stored", version="1.0", length=False)
    wire.answer = lambda request: done
    async with AsyncClient(wire.url, retry=QUICK) as client:
        assert (await client.stream("a", content_type="text/plain").append("abc")).offset == "3"
    assert len(wire.requests) == 1


async def test_an_event_stream_needs_no_end_mark(wire: Wire) -> None:
    """Its data counts once a control event has followed, so a cut takes nothing with it."""
    events = b'event: data\ndata: 12\n\nevent: control\ndata: {"streamNextOffset":"2"}\n\n'
    rest = b'event: data\ndata: 3\n\nevent: control\ndata: {"streamNextOffset":"3","streamClosed":true}\n\n'
    start = {"Content-Type": "text/plain", "Stream-Next-Offset": "0", "Stream-Up-To-Date": "true"}
    stream = {"Content-Type": "text/event-stream"}
    answers = [
        answer(200, start),
        answer(200, stream, events + rest[:20], version="1.0", length=False),
        answer(200, stream, rest, version="1.0", length=False),
    ]
    wire.answer = lambda request: answers.pop(0)
    async with AsyncClient(wire.url, retry=QUICK) as client:
        assert await client.stream("a").follow(live="sse").read_bytes() == b"123"
    assert b"offset=2&" in wire.requests[-1] or b"offset=2 " in wire.requests[-1]
