"""Limits per principal: appends, bytes, live readers and new streams."""

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from wire import Client, chunked, request_bytes

from durable_streams_core.errors import ProtocolError
from durable_streams_server import Access, Limiter, Principal, PrincipalLimits, Rights, Token
from durable_streams_server.access import limits as principal_limits
from durable_streams_server.http.peers import network_of
from durable_streams_server.operations.clients import TrustedProxies

Serving = Callable[..., Awaitable[Client]]


class Ticks:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


def limiter(ticks: Ticks, **limits: Any) -> Limiter:
    return Limiter(PrincipalLimits(**limits), clock=ticks)


def refused(call: Callable[[], object]) -> int:
    """The seconds that a refusal asks to wait."""
    with pytest.raises(ProtocolError) as caught:
        call()
    assert caught.value.status == 429
    return int(caught.value.headers["Retry-After"])


def test_a_second_holds_as_many_appends_as_the_limit_says(ticks: Ticks) -> None:
    limit = limiter(ticks, appends_per_second=3)
    for _ in range(3):
        limit.charge("a", 1, append=True)
    assert refused(lambda: limit.charge("a", 1, append=True)) == 1
    limit.charge("b", 1, append=True)
    ticks.now += 1 / 3
    limit.charge("a", 1, append=True)
    assert refused(lambda: limit.charge("a", 1, append=True)) == 1


def test_a_rate_below_one_a_second_says_how_long_to_wait(ticks: Ticks) -> None:
    limit = limiter(ticks, appends_per_second=0.1)
    limit.charge("a", 1, append=True)
    wait = refused(lambda: limit.charge("a", 1, append=True))
    assert wait == 10
    ticks.now += wait
    limit.charge("a", 1, append=True)


def test_a_body_larger_than_the_bucket_is_taken_and_paid_for_afterwards(ticks: Ticks) -> None:
    limit = limiter(ticks, bytes_per_second=100)
    limit.charge("a", 1000, append=True)
    wait = refused(lambda: limit.charge("a", 1, append=True))
    ticks.now += wait - 1
    assert refused(lambda: limit.look("a", append=True)) == 1
    ticks.now += 1
    limit.charge("a", 1000, append=True)


def test_what_was_refused_costs_nothing(ticks: Ticks) -> None:
    limit = limiter(ticks, appends_per_second=1, bytes_per_second=10)
    limit.charge("a", 5, append=True)
    for _ in range(100):
        refused(lambda: limit.charge("a", 1000, append=True))
    ticks.now += 1
    limit.charge("a", 5, append=True)


def test_new_streams_are_counted_by_the_hour_and_given_back(ticks: Ticks) -> None:
    limit = limiter(ticks, streams_per_hour=2)
    limit.charge_stream("a")
    limit.charge_stream("a")
    assert refused(lambda: limit.charge_stream("a")) == 1800
    limit.return_stream("a")
    limit.charge_stream("a")


def test_single_principals_have_limits_of_their_own(ticks: Ticks) -> None:
    limit = Limiter(
        PrincipalLimits(live_readers=1), {"token:big": PrincipalLimits(live_readers=2)}, clock=ticks
    )
    limit.enter("token:big")
    limit.enter("token:big")
    limit.enter("other")
    assert refused(lambda: limit.enter("token:big"))
    assert refused(lambda: limit.enter("other"))
    limit.leave("other")
    limit.enter("other")


def test_a_flood_of_principals_costs_bounded_memory(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(principal_limits, "MAX_PRINCIPALS", 500)
    limit = limiter(ticks, appends_per_second=1, bytes_per_second=1000, live_readers=1)

    def flood(begin: int) -> int:
        for number in range(begin, begin + 2000):
            limit.charge(f"address:{number}", 1, append=True)
            limit.enter(f"address:{number}")
            limit.leave(f"address:{number}")
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        first = flood(0)
        assert flood(2000) < first + 20_000
    finally:
        tracemalloc.stop()


def test_a_principal_that_goes_on_is_not_forgotten_in_a_flood(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(principal_limits, "MAX_PRINCIPALS", 100)
    limit = limiter(ticks, appends_per_second=0.001)
    limit.charge("greedy", 1, append=True)
    for number in range(1000):
        limit.charge(f"address:{number}", 1, append=True)
        if number % 50 == 0:
            assert refused(lambda: limit.charge("greedy", 1, append=True))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_a_positive_number(value: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        PrincipalLimits(appends_per_second=value)


@pytest.mark.parametrize(
    "address, network",
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        (":::", ":::"),
    ],
)
def test_an_address_of_ipv6_is_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


# Over HTTP.


async def test_a_refused_append_did_nothing_and_goes_through_later(
    serve: Serving, ticks: Ticks
) -> None:
    client = await serve(limiter=limiter(ticks, appends_per_second=1))
    await client.put("a")
    assert (await client.post("a", b"1")).status == 204
    answer = await client.post("a", b"2")
    assert (answer.status, answer.code, answer["retry-after"]) == (429, "rate-limited", "1")
    assert (await client.get("a")).body == b"1"
    ticks.now += 1
    assert (await client.post("a", b"2")).status == 204
    assert (await client.get("a")).body == b"12"


async def test_bodies_are_charged_what_they_were(serve: Serving, ticks: Ticks) -> None:
    client = await serve(limiter=limiter(ticks, bytes_per_second=100))
    await client.put("a")
    fields = {"content-type": "text/plain", "transfer-encoding": "chunked"}
    head = request_bytes("POST", client.root + "a", fields)
    assert (await client.raw(head + chunked(b"x" * 60, b"y" * 60), "POST")).status == 204
    assert (await client.post("a", b"z")).status == 429
    ticks.now += 0.21
    assert (await client.post("a", b"z")).status == 204


async def test_a_body_that_would_be_refused_is_not_asked_for(serve: Serving, ticks: Ticks) -> None:
    client = await serve(limiter=limiter(ticks, appends_per_second=1))
    await client.put("a")
    await client.post("a", b"x")
    fields = {"content-type": "text/plain", "content-length": "9", "expect": "100-continue"}
    async with await client.connect() as connection:
        await connection.send(request_bytes("POST", client.root + "a", fields))
        assert (await connection.answer("POST")).status == 429


async def test_a_producer_gets_its_duplicate_confirmed_after_a_wait(
    serve: Serving, ticks: Ticks
) -> None:
    client = await serve(limiter=limiter(ticks, appends_per_second=1))
    await client.put("a")
    batch = {"producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}
    assert (await client.post("a", b"x", **batch)).status == 200
    assert (await client.post("a", b"x", **batch)).status == 429
    ticks.now += 1
    assert (await client.post("a", b"x", **batch)).status == 204
    assert (await client.get("a")).body == b"x"


async def test_only_streams_that_came_to_be_are_counted(serve: Serving, ticks: Ticks) -> None:
    client = await serve(limiter=limiter(ticks, streams_per_hour=2))
    assert (await client.put("a")).status == 201
    for _ in range(3):
        assert (await client.put("a")).status == 200
        assert (await client.put("a", content_type="image/png")).status == 409
        fork = await client.request("PUT", "b", {"stream-forked-from": "missing"})
        assert fork.status == 404
    assert (await client.put("b")).status == 201
    refusal = await client.put("c")
    assert (refusal.status, refusal["retry-after"]) == (429, "1800")
    # A stream that exists may still be confirmed.
    assert (await client.put("b")).status == 200
    assert [info.path for info in await client.engine.list()] == ["a", "b"]


async def test_live_readers_are_counted_while_they_wait(serve: Serving, ticks: Ticks) -> None:
    client = await serve(limiter=limiter(ticks, live_readers=2), long_poll_timeout=20.0)
    await client.put("a")
    first = await client.sse("a?offset=-1&live=sse")
    waiting = asyncio.create_task(client.get("a?offset=now&live=long-poll"))
    await client.listening("a", 2)
    refusal = await client.get("a?offset=now&live=long-poll")
    assert (refusal.status, refusal.code) == (429, "too-many-live-readers")
    assert (await client.get("a?offset=-1")).status == 200
    await client.post("a", b"x")
    assert (await waiting).body == b"x"
    second = await client.sse("a?offset=-1&live=sse")
    assert (await client.get("a?offset=now&live=long-poll")).status == 429
    first.connection.abort()
    second.connection.abort()
    await client.quiet()
    assert (await client.get("a?offset=-1&live=long-poll")).status == 200


async def test_principals_are_those_that_access_names(serve: Serving, ticks: Ticks) -> None:
    secrets = {name: f"the-secret-of-{name}" for name in ("ann", "bob")}
    tokens = [Token(name, Rights(all=["**"]), secret=secret) for name, secret in secrets.items()]
    client = await serve(
        authorize=Access(tokens=tokens), limiter=limiter(ticks, appends_per_second=1)
    )
    ann, bob = ({"authorization": f"Bearer {secret}"} for secret in secrets.values())
    await client.put("a", **ann)
    assert (await client.post("a", b"x", **ann)).status == 204
    assert (await client.post("a", b"x", **ann)).status == 429
    assert (await client.post("a", b"y", **bob)).status == 204


async def test_behind_a_trusted_proxy_the_forwarded_address_is_the_principal(
    serve: Serving, ticks: Ticks
) -> None:
    for trusted, answered in ((["127.0.0.0/8"], 204), ([], 429)):
        proxies = TrustedProxies(trusted)
        client = await serve(
            limiter=limiter(ticks, appends_per_second=1), client_of=proxies.client_at
        )
        await client.put("a")
        first, second = ({"x-forwarded-for": f"9.9.9.9, 192.0.2.{n}"} for n in (1, 2))
        assert (await client.post("a", b"x", **first)).status == 204
        assert (await client.post("a", b"x", **first)).status == 429
        assert (await client.post("a", b"x", **second)).status == answered


async def test_an_application_names_principals_itself(serve: Serving, ticks: Ticks) -> None:
    async def authorize(_action: str, path: str, _request: object) -> Principal:
        return Principal(f"tenant:{path.partition('/')[0]}")

    client = await serve(authorize=authorize, limiter=limiter(ticks, appends_per_second=1))
    for path in ("one/a", "two/a"):
        await client.put(path)
        assert (await client.post(path, b"x")).status == 204
    assert (await client.post("one/a", b"x")).status == 429


@pytest.mark.parametrize("status, answered", [(429, 429), (503, 503), (404, 403), (409, 403)])
async def test_a_hook_refuses_by_raising_unless_that_would_tell_what_exists(
    serve: Serving, status: int, answered: int
) -> None:
    def authorize(_action: str, _path: str, _request: object) -> bool:
        raise ProtocolError("Not now.", status=status, code="later", headers={"Retry-After": "7"})

    client = await serve(authorize=authorize)
    answer = await client.get("a")
    assert answer.status == answered
    assert answer.get("retry-after") == ("7" if answered == status else None)


async def test_a_body_in_chunks_that_is_too_large_is_charged_as_far_as_it_came(
    serve: Serving, ticks: Ticks
) -> None:
    limit = limiter(ticks, bytes_per_second=1000)
    client = await serve(limiter=limit, max_body=5000)
    await client.put("a")
    fields = [("content-type", "text/plain"), ("transfer-encoding", "chunked")]
    body = chunked(*[b"x" * 1000] * 6)
    answer = await client.raw(request_bytes("POST", client.root + "a", fields, body))
    assert answer.status == 413
    answer = await client.post("a", body=b"x")
    assert answer.status == 429
    assert int(answer["retry-after"]) >= 5


async def test_a_body_whose_client_leaves_is_charged_as_far_as_it_came(
    serve: Serving, ticks: Ticks
) -> None:
    limit = limiter(ticks, bytes_per_second=1000)
    client = await serve(limiter=limit)
    await client.put("a")
    fields = [("content-type", "text/plain"), ("content-length", "100000")]
    async with await client.connect() as connection:
        connection.writer.write(request_bytes("POST", client.root + "a", fields, b"x" * 50_000))
        await connection.writer.drain()
    async with asyncio.timeout(60):
        while (answer := await client.post("a", body=b"x")).status == 204:
            ticks.now += 0.001
    assert answer.status == 429


@pytest.mark.parametrize("front_end", ["standalone"], indirect=True)
async def test_a_body_that_access_refuses_is_charged_to_its_sender(
    serve: Serving, ticks: Ticks
) -> None:
    tokens = [Token(name, Rights(write=[f"{name}/*"]), secret=name * 16) for name in ("a", "b")]
    limit = limiter(ticks, bytes_per_second=1000)
    client = await serve(authorize=Access(tokens=tokens), limiter=limit)
    for name in ("a", "b"):
        await client.engine.create(f"{name}/1", content_type="text/plain")
    headers = {"authorization": f"Bearer {'a' * 16}"}
    answer = await client.post("b/1", body=b"x" * 5000, **headers)
    assert answer.status == 403
    assert limit_of(limit, "token:a") == 429
    assert limit_of(limit, "token:b") == 204


def limit_of(limit: Limiter, principal: str) -> int:
    """The status that an append of the principal would get."""
    try:
        limit.look(principal, append=True)
    except ProtocolError as error:
        return error.status
    return 204


WEBHOOK = b'{"type":"webhook","pattern":"x/*","webhook":{"url":"https://hooks.example/x"}}'


async def test_new_subscriptions_are_limited_and_those_that_are_there_cost_nothing(
    serve: Serving, ticks: Ticks
) -> None:
    client = await serve(limiter=limiter(ticks, subscriptions_per_hour=2))
    json = {"content-type": "application/json"}

    async def create(name: str, body: bytes = WEBHOOK) -> int:
        return (await client.request("PUT", f"__ds/subscriptions/{name}", json, body)).status

    assert await create("one") == 201
    # Neither a repetition nor an error is a subscription.
    assert await create("one") == 200
    assert await create("bad", b"{}") == 400
    assert await create("two") == 201
    assert await create("three") == 429
    assert await create("two") == 200
    ticks.now += 1800
    assert await create("three") == 201


async def test_pages_of_listings_are_limited_by_principal(serve: Serving, ticks: Ticks) -> None:
    tokens = [Token(name, Rights(read=[f"{name}/*"]), secret=name * 16) for name in ("a", "b")]
    limit = limiter(ticks, listings_per_second=1)
    client = await serve(authorize=Access(tokens=tokens), limiter=limit)

    async def listed(name: str, kind: str = "streams") -> int:
        answer = await client.get(f"__ds/{kind}", authorization=f"Bearer {name * 16}")
        return answer.status

    # The principal counts although it may not list the prefix itself, which is everything.
    assert await listed("a") == 200
    assert await listed("a", "subscriptions") == 429
    assert await listed("b") == 200
    ticks.now += 1
    assert await listed("a", "subscriptions") == 200
