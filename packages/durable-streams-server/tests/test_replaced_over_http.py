"""A stream deleted and created again, as clients of every front end see it: 410 and offset-gone."""

from typing import Any

import pytest
from tokens import at, position
from wire import Client

from durable_streams_core.offsets import BEGINNING

TAIL = "stream-next-offset"
TEXT = {"content-type": "text/plain"}


async def replaced(client: Any) -> str:
    """An offset of a stream that was deleted; a longer one is at its path now."""
    old = (await client.put("a", body=b"old"))[TAIL]
    await client.delete("a")
    assert (await client.put("a", body=b"newer data"))[TAIL] > old
    return old


@pytest.mark.parametrize("mode", ["", "&live=long-poll", "&live=sse"])
async def test_a_read_from_an_old_offset_is_told_to_start_again(client: Client, mode: str) -> None:
    old = await replaced(client)
    answer = await client.get(f"a?offset={old}{mode}")
    assert (answer.status, answer.code) == (410, "offset-gone")
    assert "start again" in answer.json["detail"]
    assert (await client.get("a?offset=-1")).body == b"newer data"
    assert (await client.get(f"a?offset={BEGINNING}")).body == b"newer data"


async def test_a_condition_and_a_fork_with_an_old_offset_are_refused(client: Client) -> None:
    old = await replaced(client)
    append = await client.post("a", b"x", if_match=f'"{old}"')
    assert (append.status, append.code) == (410, "offset-gone")
    fork = await client.request(
        "PUT", "fork", {"stream-forked-from": "/v1/stream/a", "stream-fork-offset": old}
    )
    assert (fork.status, fork.code) == (410, "offset-gone")
    assert (await client.head("a"))[TAIL] > old


async def test_a_waiting_long_poll_of_a_replaced_stream_is_told(client: Client) -> None:
    await client.put("a", body=b"old")
    _, answer = await client.waiting("a?offset=now&live=long-poll")
    await client.delete("a")
    await client.put("a", body=b"newer data")
    response = await answer
    assert (response.status, response.code) in ((410, "offset-gone"), (404, "not-found"))


async def test_an_event_stream_of_a_replaced_stream_ends_before_the_new_data(
    client: Client,
) -> None:
    await client.put("a", body=b"old")
    events = await client.sse("a?offset=-1&live=sse")
    data, control = await events.batch()
    assert data == "old"
    await client.delete("a")
    await client.put("a", body=b"newer data")
    assert await events.rest() == []
    again = await client.get(f"a?offset={control['streamNextOffset']}&live=sse")
    assert (again.status, again.code) == (410, "offset-gone")


async def test_a_page_that_was_cached_is_not_that_of_the_new_stream(client: Client) -> None:
    first = await client.put("a", body=b"same")
    page = await client.get("a?offset=-1")
    await client.delete("a")
    await client.put("a", body=b"same")
    answer = await client.request("GET", "a?offset=-1", {"if-none-match": page["etag"]})
    assert (answer.status, answer.body) == (200, b"same")
    assert answer[TAIL] > first[TAIL]


async def test_offsets_in_inherited_data_are_those_of_the_source(client: Client) -> None:
    source = await client.put("source", body=b"0123456789")
    fork = await client.request(
        "PUT", "fork", {"stream-forked-from": "/v1/stream/source", **TEXT}, b"own"
    )
    shared, own = at(source[TAIL], 4), fork[TAIL]
    assert position(own) == 13
    assert (await client.get(f"source?offset={shared}")).body == b"456789"
    assert (await client.get(f"fork?offset={shared}")).body == b"456789own"
    assert (await client.get(f"fork?offset={source[TAIL]}")).body == b"own"
    assert (await client.get(f"source?offset={own}")).status == 400
