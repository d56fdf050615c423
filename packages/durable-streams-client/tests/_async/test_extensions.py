"""Extensions of our server: appends that expect a tail, and listings."""

import pytest
from hostile import LOST, Asked, Fault, Hostile, refuse

from durable_streams_client import (
    NOW,
    START,
    AccessDenied,
    AsyncClient,
    InvalidArgument,
    MalformedResponse,
    NotFound,
    NotSupported,
    RetryPolicy,
    StreamClosed,
    TailMoved,
)
from durable_streams_core import errors as core

QUICK = RetryPolicy(initial=0.001, maximum=0.01)
JSON = "application/json"


@pytest.mark.parametrize("safe_append", [True, False])
async def test_an_append_happens_only_at_the_tail_that_it_expects(
    server: Hostile, *, safe_append: bool
) -> None:
    server.extended = True
    server.put("a", content_type=JSON)
    async with AsyncClient(server.url, safe_append=safe_append) as client:
        stream = client.stream("a")
        tail = (await stream.head()).offset
        appended = await stream.append(1, expected=tail)
        with pytest.raises(TailMoved) as caught:
            await stream.append(2, expected=tail)
        assert caught.value.offset == appended.offset == "00000001"
        assert "00000001" in str(caught.value)
        assert isinstance(caught.value, core.TailMoved)
        await stream.append_many([2, 3], expected=caught.value.offset)
        with pytest.raises(TailMoved):
            await stream.close_stream(4, expected=tail)
        with pytest.raises(TailMoved):
            await stream.close_stream(expected=tail)
        assert (await stream.close_stream(4, expected="00000003")).closed
        with pytest.raises(StreamClosed):
            await stream.append(5, expected="00000004")
    assert server.streams["/a"].messages == [b"1", b"2", b"3", b"4"]
    # Whether the server has the extension was asked once.
    assert len([asked for asked in server.asked if "no-offset" in str(asked.headers)]) == 1


async def test_an_append_whose_answer_was_lost_does_not_take_its_own_tail_for_anothers(
    server: Hostile,
) -> None:
    server.extended = True
    server.put("a", content_type=JSON)
    server.faults = lambda asked: LOST if asked.method == "POST" and asked.count == 0 else None
    async with AsyncClient(server.url, retry=QUICK) as client:
        appended = await client.stream("a").append(1, expected="00000000")
        assert (appended.offset, appended.duplicate) == ("00000001", True)


async def test_a_server_that_would_append_all_the_same_is_not_sent_the_append(
    server: Hostile,
) -> None:
    server.put("a", content_type=JSON)
    async with AsyncClient(server.url) as client:
        for _ in range(2):
            with pytest.raises(NotSupported, match="If-Match"):
                await client.stream("a").append(1, expected="00000000")
        with pytest.raises(NotFound):
            await client.stream("b", content_type=JSON).append(1, expected="00000000")
    assert not server.streams["/a"].messages
    assert "POST" not in {asked.method for asked in server.asked}


@pytest.mark.parametrize("offset", [START, NOW, "", "00000001/2", 'a"b', "a b"])
async def test_only_an_offset_of_the_server_can_be_expected(server: Hostile, offset: str) -> None:
    async with AsyncClient(server.url) as client:
        with pytest.raises(InvalidArgument, match="expected"):
            await client.stream("a", content_type=JSON).append(1, expected=offset)
    assert not server.asked


async def test_what_was_decided_on_an_old_tail_is_decided_again(server: Hostile) -> None:
    server.extended = True
    server.put("a", b"1", content_type=JSON)

    def another_writer(asked: Asked) -> None:
        if asked.method == "POST" and asked.count < 2:
            server.streams["/a"].messages.append(b"10")

    server.faults = another_writer
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        refused = 0
        while True:
            reader = stream.read()
            total = sum(await reader.read_items())
            try:
                await stream.append(total, expected=reader.offset)
            except TailMoved:
                refused += 1
            else:
                break
    assert refused == 2
    assert server.streams["/a"].messages == [b"1", b"10", b"10", b"21"]


async def test_streams_are_listed_page_by_page(server: Hostile) -> None:
    server.extended = True
    server.page = 2
    for name in ("chats/1", "chats/2", "chats/3", "jobs/1", "chats/ä ?"):
        server.put(name, b"1", content_type=JSON)
    async with AsyncClient(server.url) as client:
        listed = [each async for each in client.list("chats/")]
        assert [each.path for each in listed] == ["chats/1", "chats/2", "chats/3", "chats/ä ?"]
        assert [asked.params.get("after") for asked in server.asked] == [None, "chats/2"]
        assert (listed[0].content_type, listed[0].offset, listed[0].closed) == (
            *(JSON, "00000001", False),
        )
        assert [each.path async for each in client.list(after="chats/3")] == ["chats/ä ?", "jobs/1"]
        assert [each async for each in client.list("none/")] == []


async def test_a_server_without_a_listing_says_so(server: Hostile) -> None:
    server.put("__ds/streams", b"[]")
    async with AsyncClient(server.url) as client:
        for answer in (None, refuse(404), refuse(405), Fault(body=b'{"streams": [1]}')):
            server.faults = lambda asked, answer=answer: answer
            with pytest.raises(NotSupported, match="does not list"):
                await anext(client.list())
        server.faults = lambda asked: refuse(403)
        with pytest.raises(AccessDenied):
            await anext(client.list())


async def test_a_listing_that_leads_backwards_is_an_error(server: Hostile) -> None:
    def lead_backwards(asked: Asked) -> Fault:
        return Fault(status=200, body=b'{"streams": [], "next": "b"}', apply=False)

    server.faults = lead_backwards
    async with AsyncClient(server.url) as client:
        with pytest.raises(MalformedResponse, match="listing"):
            assert [each async for each in client.list()] == []
    assert len(server.asked) == 2


async def test_a_listing_needs_a_base_url() -> None:
    async with AsyncClient() as client:
        with pytest.raises(InvalidArgument, match="base URL"):
            await anext(client.list())
