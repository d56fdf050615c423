"""Managing subscriptions, and taking their work by hand (§6, §7.2)."""

import json

import pytest
from hostile import LOST, Fault, refuse
from subscribed import Subscribed

from durable_streams_client import (
    AccessDenied,
    AsyncClient,
    AsyncSubscriptions,
    ClientError,
    Conflict,
    ConnectionLost,
    InvalidArgument,
    MalformedResponse,
    RetryPolicy,
    SubscriptionRefused,
    Unavailable,
)

QUICK = RetryPolicy(initial=0.001, maximum=0.01)
HOOK = "https://worker.example/hook"


async def test_a_webhook_is_created_confirmed_read_and_deleted(hub: Subscribed) -> None:
    async with AsyncClient(hub.url) as client:
        subscriptions = AsyncSubscriptions(client)
        made = await subscriptions.create_webhook(
            "a b/c", HOOK, streams=["x"], lease_seconds=1.5, description="d"
        )
        assert made.created
        assert (made.id, made.type, made.status) == ("a b/c", "webhook", "active")
        assert (made.webhook_url, made.description) == (HOOK, "d")
        assert made.jwks_url == f"{hub.url}__ds/jwks.json"
        assert made.wake_stream is None
        [link] = made.streams
        assert (link.path, link.link_type, link.acked_offset) == ("x", "explicit", "00000000")
        assert json.loads(hub.asked[0].body) == {
            "type": "webhook",
            "streams": ["x"],
            "webhook": {"url": HOOK},
            "lease_ttl_ms": 1500,
            "description": "d",
        }
        assert hub.asked[0].path == "/__ds/subscriptions/a%20b%2Fc"
        again = await subscriptions.create_webhook(
            "a b/c", HOOK, streams=["x"], lease_seconds=1.5, description="d"
        )
        assert not again.created
        with pytest.raises(SubscriptionRefused) as caught:
            await subscriptions.create_webhook("a b/c", HOOK, streams=["y"])
        assert (caught.value.status, caught.value.code) == (409, "SUBSCRIPTION_EXISTS")
        assert "another configuration" in str(caught.value)
        assert (await subscriptions.get("a b/c")).streams == made.streams
        await subscriptions.delete("a b/c")
        await subscriptions.delete("a b/c")
        with pytest.raises(SubscriptionRefused) as caught:
            await subscriptions.get("a b/c")
        assert (caught.value.status, caught.value.code) == (404, "SUBSCRIPTION_NOT_FOUND")


async def test_streams_are_added_and_removed(hub: Subscribed) -> None:
    async with AsyncClient(hub.url) as client:
        subscriptions = AsyncSubscriptions(client)
        made = await subscriptions.create_pull("s", "wake", pattern="p/*", streams=["x"])
        assert (made.wake_stream, made.pattern, made.webhook_url) == ("wake", "p/*", None)
        await subscriptions.add_streams("s", ["y/z ü?", "x"])
        assert [link.path for link in (await subscriptions.get("s")).streams] == ["x", "y/z ü?"]
        await subscriptions.remove_stream("s", "y/z ü?")
        await subscriptions.remove_stream("s", "/x/")
        await subscriptions.remove_stream("s", "absent")
        assert (await subscriptions.get("s")).streams == ()


async def test_what_cannot_be_meant_is_refused_before_it_is_sent(hub: Subscribed) -> None:
    async with AsyncClient(hub.url) as client:
        subscriptions = AsyncSubscriptions(client)
        for lease in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(InvalidArgument, match="lease_seconds"):
                await subscriptions.create_pull("s", "wake", streams=["x"], lease_seconds=lease)
        with pytest.raises(InvalidArgument, match="id"):
            await subscriptions.get("")
    async with AsyncClient() as homeless:
        with pytest.raises(InvalidArgument, match="base URL"):
            await AsyncSubscriptions(homeless).get("s")
    assert hub.asked == []


async def test_one_path_is_not_taken_for_a_list_of_its_characters(hub: Subscribed) -> None:
    async with AsyncClient(hub.url) as client:
        subscriptions = AsyncSubscriptions(client)
        with pytest.raises(InvalidArgument, match="list"):
            await subscriptions.create_pull("s", "wake", streams="events/a")
        with pytest.raises(InvalidArgument, match="list"):
            await subscriptions.add_streams("s", "events/a")
    assert hub.asked == []


async def test_dots_in_a_path_do_not_reach_another_subscription(hub: Subscribed) -> None:
    hub.subscribe("other", "x")
    async with AsyncClient(hub.url) as client:
        subscriptions = AsyncSubscriptions(client)
        for path in ("../../other", "a/./b", "..", "", "/"):
            with pytest.raises(InvalidArgument, match="path"):
                await subscriptions.remove_stream("s", path)
        for name in (".", ".."):
            with pytest.raises(InvalidArgument, match="id"):
                await subscriptions.delete(name)
    assert "other" in hub.subs
    assert hub.asked == []


async def test_refusals_are_errors_of_the_client(hub: Subscribed) -> None:
    """With the protocol's code where the server gave one, and by their status otherwise."""
    async with AsyncClient(hub.url, retry=RetryPolicy(initial=0.001, attempts=2)) as client:
        subscriptions = AsyncSubscriptions(client)
        with pytest.raises(SubscriptionRefused, match="pattern or streams") as caught:
            await subscriptions.create_pull("s", "wake")
        assert isinstance(caught.value, ClientError)
        assert (caught.value.status, caught.value.code) == (400, "INVALID_REQUEST")
        for status, body, kind in (
            (401, b"who?", AccessDenied),
            (403, b"[]", AccessDenied),
            (409, b'{"error":"no"}', Conflict),
            (409, b'{"error":{"message":"no"}}', Conflict),
            (503, b"", Unavailable),
        ):
            no = Fault(apply=False, status=status, body=body)
            hub.faults = lambda asked: no  # noqa: B023 - used before the next turn
            with pytest.raises(kind) as refused:
                await subscriptions.get("s")
            assert refused.value.status == status


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"\xff", b"{}", b'{"id":"s","type":"webhook","streams":5}', b'{"streams":[{}]}'],
)
async def test_malformed_answers_are_errors_of_the_client(hub: Subscribed, body: bytes) -> None:
    hub.faults = lambda asked: Fault(apply=False, status=200, body=body)
    async with AsyncClient(hub.url) as client:
        subscriptions = AsyncSubscriptions(client)
        with pytest.raises(MalformedResponse):
            await subscriptions.get("s")
        with pytest.raises(MalformedResponse):
            await subscriptions.claim("s", "me")


async def test_claim_ack_and_release(hub: Subscribed) -> None:
    sub = hub.subscribe("s", "a", "b")
    hub.put("a", b"12")
    async with AsyncClient(hub.url, headers={"Authorization": "Bearer mine"}) as client:
        subscriptions = AsyncSubscriptions(client)
        claim = await subscriptions.claim("s", "me")
        assert claim is not None
        assert (claim.subscription, claim.generation, claim.lease_seconds) == ("s", 1, 30.0)
        assert [stream.has_pending for stream in claim.streams] == [True, False]
        assert claim.streams[0].tail_offset == "00000002"
        assert await subscriptions.claim("s", "you") is None
        # The claim's own token has taken the place of the client's credentials.
        assert await subscriptions.ack(claim, {"a": "00000001"}) is True
        assert hub.asked[0].headers["authorization"] == "Bearer mine"
        assert hub.asked[-1].headers["authorization"] == "Bearer t1"
        await subscriptions.release(claim)
        assert sub.holder is None
        with pytest.raises(SubscriptionRefused) as caught:
            await subscriptions.ack(claim)
        assert caught.value.code == "FENCED"
        with pytest.raises(SubscriptionRefused) as caught:
            await subscriptions.release(claim)
        assert caught.value.code == "FENCED"
        claim = await subscriptions.claim("s", "you")
        assert claim is not None
        assert claim.streams[0].acked_offset == "00000001"
        assert await subscriptions.ack(claim, {"a": "00000002"}, done=True) is False
        assert await subscriptions.claim("s", "me") is None


async def test_a_refused_claim_tells_what_the_server_said(hub: Subscribed) -> None:
    body = b'{"error":{"code":"BUSY","message":"later","current_holder":"you"}}'
    hub.faults = lambda asked: Fault(apply=False, status=409, body=body)
    async with AsyncClient(hub.url) as client:
        with pytest.raises(SubscriptionRefused, match="BUSY: later") as caught:
            await AsyncSubscriptions(client).claim("s", "me")
    assert caught.value.details == {"current_holder": "you"}


async def test_a_claim_is_not_repeated_when_its_answer_is_lost(hub: Subscribed) -> None:
    """The lease is taken, by nobody who knows of it: a repeat could only be told so."""
    hub.subscribe("s", "a")
    hub.put("a", b"1")
    hub.faults = lambda asked: LOST
    async with AsyncClient(hub.url, retry=QUICK) as client:
        with pytest.raises(ConnectionLost):
            await AsyncSubscriptions(client).claim("s", "me")
    assert len(hub.asked) == 1


async def test_a_claim_turned_away_is_repeated(hub: Subscribed) -> None:
    hub.subscribe("s", "a")
    hub.put("a", b"1")
    hub.faults = lambda asked: refuse(429) if asked.count == 0 else None
    async with AsyncClient(hub.url, retry=QUICK) as client:
        assert await AsyncSubscriptions(client).claim("s", "me") is not None


async def test_the_end_of_a_lease_whose_answer_was_lost_is_no_error(hub: Subscribed) -> None:
    sub = hub.subscribe("s", "a")
    hub.put("a", b"12")
    async with AsyncClient(hub.url, retry=QUICK) as client:
        subscriptions = AsyncSubscriptions(client)
        for end in ("done", "release"):
            claim = await subscriptions.claim("s", "me")
            assert claim is not None
            first = len(hub.asked)
            hub.faults = lambda asked: (
                LOST if len(hub.asked) == first + 1 else None  # noqa: B023 - before the next turn
            )
            if end == "done":
                assert await subscriptions.ack(claim, {"a": "00000001"}, done=True) is False
            else:
                await subscriptions.release(claim)
            assert len(hub.asked) == first + 2
            assert sub.holder is None
        # An ack that goes on with the lease is another matter.
        with pytest.raises(SubscriptionRefused):
            await subscriptions.ack(claim)
