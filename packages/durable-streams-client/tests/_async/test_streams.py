"""Creating, writing, asking about, forking and deleting streams."""

from datetime import UTC, datetime

import httpx
import pytest
from hostile import IGNORED, LOST, Fault, Hostile, refuse

from durable_streams_client import (
    AsyncClient,
    ClientClosed,
    Conflict,
    ConnectFailed,
    InvalidArgument,
    InvalidRequest,
    MalformedResponse,
    NotFound,
    Redirected,
    ResponseError,
    Retry,
    RetryPolicy,
    SequenceConflict,
    StreamClosed,
    StreamExists,
    TimedOut,
    Timeouts,
    Unavailable,
)

QUICK = RetryPolicy(initial=0.001, maximum=0.01)


async def test_create_says_whether_it_did(server: Hostile) -> None:
    async with AsyncClient(server.url) as client:
        stream = client.stream("a", content_type="text/plain")
        assert (await stream.create(ttl=60)).created
        again = await stream.create(ttl=60)
        assert not again.created
        assert again.offset == "00000000"
        assert again.content_type == "text/plain"
        with pytest.raises(StreamExists) as caught:
            await stream.create(exist_ok=False)
        assert "another name" in str(caught.value)
        with pytest.raises(StreamExists, match="configuration"):
            await stream.create(content_type="application/json")


async def test_create_with_first_content_and_end(server: Hostile) -> None:
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        created = await stream.create(content_type="application/json", data=[1], closed=True)
        assert created.closed
        assert await stream.read().read_items() == [[1]]
        info = await stream.head()
        assert info.closed
        assert info.content_type == "application/json"


async def test_head_tells_lifetimes(server: Hostile) -> None:
    async with AsyncClient(server.url) as client:
        await client.stream("a").create(ttl=60)
        await client.stream("b").create(expires_at=datetime(2030, 1, 2, tzinfo=UTC))
        assert (await client.stream("a").head()).ttl == 60
        info = await client.stream("b").head()
        assert info.expires_at == "2030-01-02T00:00:00+00:00"
        assert info.ttl is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl": -1},
        {"ttl": True},
        {"ttl": 1, "expires_at": "2030-01-01T00:00:00Z"},
        {"expires_at": datetime(2030, 1, 1)},  # noqa: DTZ001 - that it has no zone is the point
        {"content_type": "json"},
        {"data": 5},
    ],
)
async def test_create_refuses_nonsense(server: Hostile, wrong: dict[str, object]) -> None:
    async with AsyncClient(server.url) as client:
        with pytest.raises(InvalidArgument):
            await client.stream("a").create(**wrong)  # type: ignore[arg-type]
    assert not server.asked


async def test_append_takes_bytes_text_and_values(server: Hostile) -> None:
    server.put("j", content_type="application/json")
    server.put("t", content_type="text/plain")
    async with AsyncClient(server.url) as client:
        json = client.stream("j")
        for value in ({"a": 1}, [1, 2], "text", None):
            await json.append(value)
        await json.append(b'{"raw": true}')
        await json.append_many([1, 2])
        assert await json.read().read_items() == [
            {"a": 1}, [1, 2], "text", None, {"raw": True}, 1, 2,
        ]  # fmt: skip
        text = client.stream("t")
        await text.append("ä")
        appended = await text.append(bytearray(b"b"))
        assert appended.offset == "00000003"
        assert await text.read().read_text() == "äb"


@pytest.mark.parametrize("wrong", [{1, 2}.__iter__, b"{", b"\xff", object()])
async def test_append_refuses_what_json_cannot_hold(server: Hostile, wrong: object) -> None:
    server.put("j", content_type="application/json")
    async with AsyncClient(server.url) as client:
        with pytest.raises(InvalidArgument):
            await client.stream("j").append(wrong)
    assert [asked.method for asked in server.asked] == ["HEAD"]


async def test_append_of_nothing_is_the_servers_to_refuse(server: Hostile) -> None:
    server.put("a")
    async with AsyncClient(server.url) as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.stream("a").append(b"")
        assert caught.value.status == 400


async def test_close_is_the_end_and_may_be_repeated(server: Hostile) -> None:
    server.put("a")
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        await stream.append(b"1")
        assert (await stream.close_stream(b"2")).closed
        assert (await stream.close_stream()).offset == "00000002"
        with pytest.raises(StreamClosed) as caught:
            await stream.append(b"3")
        assert caught.value.offset == "00000002"
        assert caught.value.status == 409
        with pytest.raises(StreamClosed):
            await stream.close_stream(b"4")


async def test_seq_must_rise(server: Hostile) -> None:
    server.put("a")
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        await stream.append(b"1", seq="b")
        with pytest.raises(SequenceConflict):
            await stream.append(b"2", seq="a")
        await stream.append(b"3", seq="c")
        assert server.streams["/a"].messages == [b"1", b"3"]


async def test_fork(server: Hostile) -> None:
    server.put("a", b"1", b"2", b"3", content_type="application/json")
    async with AsyncClient(server.url) as client:
        fork = client.stream("b")
        made = await fork.fork(client.stream("a"), offset="00000001", sub_offset=1, ttl=5)
        assert made.content_type == "application/json"
        assert await fork.read().read_items() == [1, 2]
        assert (await fork.head()).ttl == 5
        with pytest.raises(NotFound):
            await client.stream("c").fork("/none")
        with pytest.raises(InvalidArgument):
            await client.stream("c").fork("/a", sub_offset=-1)


async def test_delete(server: Hostile) -> None:
    server.put("a")
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        assert await stream.exists()
        await stream.delete()
        assert not await stream.exists()
        with pytest.raises(NotFound):
            await stream.delete()
        await stream.delete(missing_ok=True)


async def test_names_are_encoded_and_queries_kept(server: Hostile) -> None:
    async with AsyncClient(server.url, params=[("z", "1"), ("b", 2), ("b", 3)]) as client:
        stream = client.stream(f"{server.url}ä b/ü?token=x", params={"a": "&"})
        await stream.create()
        asked = server.asked[-1]
        assert asked.path == "/%C3%A4%20b/%C3%BC"
        assert asked.query == "token=x&a=%26&b=2&b=3&z=1"


@pytest.mark.parametrize("name", ["http://other/a", "https://h/streams/a", "http://h:8080/a"])
async def test_a_url_of_another_server_gets_no_credentials_of_this_one(name: str) -> None:
    async with AsyncClient("http://h/streams") as client:
        with pytest.raises(InvalidArgument, match="another server"):
            client.stream(name)
        assert client.stream("http://h:80/elsewhere").url == "http://h:80/elsewhere"


@pytest.mark.parametrize(
    "name", ["..", "../admin", "a/../b", "./a", "http://h/a/%2e%2E/b", "http://h/a/../b", "../a?x"]
)
async def test_names_do_not_lead_out_of_the_base(name: str) -> None:
    async with AsyncClient("http://h/streams/") as client:
        with pytest.raises(InvalidArgument, match="segment"):
            client.stream(name)
        assert client.stream("a..b/...y").url == "http://h/streams/a..b/...y"


@pytest.mark.parametrize("name", ["", "http://", "http://:0/x", "http://h:99999/x"])
async def test_names_that_are_none(name: str) -> None:
    async with AsyncClient("http://h/") as client:
        with pytest.raises(InvalidArgument):
            client.stream(name)
    async with AsyncClient() as client:
        with pytest.raises(InvalidArgument, match="base URL"):
            client.stream("relative")


async def test_headers_are_asked_for_at_every_request(server: Hostile) -> None:
    asked = iter(range(10))

    async def token() -> str:
        return f"token-{next(asked)}"

    server.faults = lambda asked: refuse(503) if asked.count == 0 else None
    async with AsyncClient(
        server.url, headers={"Authorization": token, "X-A": "a"}, retry=QUICK
    ) as client:
        await client.stream("a", headers={"X-A": "b"}).create()
    assert [asked.headers["authorization"] for asked in server.asked] == ["token-0", "token-1"]
    assert {asked.headers["x-a"] for asked in server.asked} == {"b"}


# -- repeating -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507])
async def test_trouble_of_the_server_is_waited_out(server: Hostile, status: int) -> None:
    server.put("a")
    seen: list[Retry] = []
    server.faults = lambda asked: refuse(status) if asked.count < 2 else None
    async with AsyncClient(server.url, retry=QUICK, on_retry=seen.append) as client:
        assert (await client.stream("a").append(b"1")).offset == "00000001"
    assert [retry.attempt for retry in seen] == [1, 2, 1, 2]  # of HEAD, then of POST
    assert seen[0].error.status == status
    assert server.streams["/a"].messages == [b"1"]


async def test_retry_after_is_the_least_delay(server: Hostile) -> None:
    seen: list[Retry] = []
    server.faults = lambda asked: refuse(503, Retry_After="1") if asked.count == 0 else None
    policy = RetryPolicy(initial=0.001, maximum=0.01, retry_after_limit=0.05)
    async with AsyncClient(server.url, retry=policy, on_retry=seen.append) as client:
        await client.stream("a").create()
    assert seen[0].delay == 0.05


async def test_tries_run_out(server: Hostile) -> None:
    server.faults = lambda asked: refuse(503)
    async with AsyncClient(server.url, retry=RetryPolicy(initial=0.001, attempts=3)) as client:
        with pytest.raises(Unavailable) as caught:
            await client.stream("a").create()
    assert len(server.asked) == 3
    assert caught.value.status == 503
    assert server.url in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 413, 501])
async def test_refusals_are_final(server: Hostile, status: int) -> None:
    server.faults = lambda asked: refuse(status)
    async with AsyncClient(server.url, retry=QUICK) as client:
        with pytest.raises(ResponseError) as caught:
            await client.stream("a", content_type="text/plain").append("x")
    assert caught.value.status == status
    assert len(server.asked) == 1
    assert caught.value.advice in str(caught.value)


@pytest.mark.parametrize("fault", [LOST, IGNORED, Fault(cut=9), Fault(status=500)])
async def test_append_is_stored_once_whatever_was_lost(server: Hostile, fault: Fault) -> None:
    server.put("a")
    server.faults = lambda asked: fault if asked.method == "POST" and asked.count < 2 else None
    async with AsyncClient(server.url, retry=QUICK) as client:
        await client.stream("a").append(b"1")
        await client.stream("a").append(b"2")
        await client.stream("a").close_stream(b"3")
    assert server.streams["/a"].messages == [b"1", b"2", b"3"]


async def test_append_of_unknown_outcome_never_comes_late(server: Hostile) -> None:
    """The identity it used is not used again, so what follows is stored."""
    server.put("a")
    server.faults = lambda asked: LOST if asked.method == "POST" and asked.count < 2 else None
    async with AsyncClient(server.url, retry=RetryPolicy(initial=0.001, attempts=2)) as client:
        stream = client.stream("a")
        with pytest.raises(Exception, match="broke"):
            await stream.append(b"1")
        await stream.append(b"2")
        await stream.append(b"3")
    assert server.streams["/a"].messages == [b"1", b"2", b"3"]
    assert len(server.streams["/a"].producers) == 1


async def test_append_to_a_stream_made_anew(server: Hostile) -> None:
    server.put("a")
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        await stream.append(b"1")
        await stream.append(b"2")
        server.put("a")
        await stream.append(b"3")
        await stream.append(b"4")
    assert server.streams["/a"].messages == [b"3", b"4"]


async def test_plain_append_is_repeated_only_if_it_did_not_arrive(server: Hostile) -> None:
    server.put("a")
    async with AsyncClient(server.url, retry=QUICK, safe_append=False) as client:
        stream = client.stream("a", content_type="application/octet-stream")
        server.faults = lambda asked: refuse(429) if asked.count == 0 else None
        await stream.append(b"1")
        assert "producer-id" not in server.asked[-1].headers
        server.faults = lambda asked: LOST
        before = len(server.asked)
        with pytest.raises(Exception, match="broke"):
            await stream.append(b"2")
        assert len(server.asked) == before + 1
    assert server.streams["/a"].messages == [b"1", b"2"]


async def test_create_and_delete_survive_lost_answers(server: Hostile) -> None:
    server.faults = lambda asked: LOST if asked.count == 0 else None
    async with AsyncClient(server.url, retry=QUICK) as client:
        stream = client.stream("a")
        await stream.create(exist_ok=False)
        await stream.delete()
    assert not server.streams


# -- faults of the network and of answers ----------------------------------------------------------


async def test_no_server() -> None:
    async with AsyncClient(
        "http://127.0.0.1:9/", retry=RetryPolicy(initial=0.001, attempts=2)
    ) as client:
        with pytest.raises(ConnectFailed) as caught:
            await client.stream("a").head()
    assert isinstance(caught.value.__cause__, Exception)
    assert "http://127.0.0.1:9/a" in str(caught.value)


async def test_errors_do_not_tell_secrets(server: Hostile) -> None:
    async with AsyncClient(server.url) as client:
        with pytest.raises(NotFound) as caught:
            await client.stream(f"http://me:pw@127.0.0.1:{server.port}/a?token=secret").head()
    assert "secret" not in str(caught.value)
    assert "pw" not in str(caught.value)


async def test_silence_is_bounded(server: Hostile) -> None:
    server.faults = lambda asked: Fault(stall=True)
    policy = RetryPolicy(initial=0.001, attempts=2)
    repeats: list[Retry] = []
    async with AsyncClient(
        server.url, timeouts=Timeouts(read=0.05), retry=policy, on_retry=repeats.append
    ) as client:
        with pytest.raises(TimedOut):
            await client.stream("a").head()
    assert [type(repeat.error) for repeat in repeats] == [TimedOut]


async def test_a_call_has_a_total_limit(server: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    server.faults = lambda asked: refuse(503)
    # The limit is met in the wait for the second try, however slow the first has been.
    policy = RetryPolicy(initial=60, maximum=60, attempts=1000)
    monkeypatch.setattr("random.random", lambda: 1.0)
    async with AsyncClient(server.url, timeouts=Timeouts(total=1.0), retry=policy) as client:
        with pytest.raises(TimedOut, match="last fault") as caught:
            await client.stream("a").head()
    assert isinstance(caught.value.__cause__, Unavailable)
    assert isinstance(caught.value, TimeoutError)


async def test_an_answer_without_its_offset(server: Hostile) -> None:
    server.put("a")
    server.faults = lambda asked: Fault(drop=["Stream-Next-Offset"])
    async with AsyncClient(server.url) as client:
        for call in (client.stream("a").head, client.stream("a").create):
            with pytest.raises(MalformedResponse, match="Stream-Next-Offset"):
                await call()


async def test_writes_are_not_redirected(server: Hostile) -> None:
    server.put("b")
    server.faults = lambda asked: refuse(302, Location="/b") if asked.path == "/a" else None
    async with AsyncClient(server.url) as client:
        with pytest.raises(Redirected):
            await client.stream("a", content_type="application/octet-stream").append(b"1")
        assert (await client.stream("a").head()).offset == "00000000"


async def test_problem_details_become_code_and_message(server: Hostile) -> None:
    server.faults = lambda asked: Fault(
        apply=False,
        status=409,
        headers={"Content-Type": "application/problem+json"},
        body=b'{"code":"fork-offset","detail":"Too far."}',
    )
    async with AsyncClient(server.url) as client:
        with pytest.raises(Conflict) as caught:
            await client.stream("a", content_type="text/plain").append("x")
    assert caught.value.code == "fork-offset"
    assert "Too far." in str(caught.value)


# -- the client itself -----------------------------------------------------------------------------


async def test_closed_client(server: Hostile) -> None:
    client = AsyncClient(server.url)
    stream = client.stream("a")
    await stream.create()
    await client.aclose()
    with pytest.raises(ClientClosed):
        await stream.head()


async def test_an_http_client_handed_in_stays_open(server: Hostile) -> None:
    async with httpx.AsyncClient() as http:
        async with AsyncClient(server.url, http=http) as client:
            await client.stream("a").create()
        assert not http.is_closed


async def test_a_transport_handed_in() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(201, headers={"Stream-Next-Offset": "7"})

    async with AsyncClient("http://x/", http=httpx.MockTransport(answer)) as client:
        assert (await client.stream("a").create()).offset == "7"
        assert repr(client.stream("a")).endswith("http://x/a>")
