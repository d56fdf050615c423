"""Requests for subscriptions, normalised or refused with the protocol's own code (§6.2)."""

from typing import Any

import msgspec
import pytest

from durable_streams_core.entities import Head
from durable_streams_core.errors import SubscriptionError
from durable_streams_core.offsets import NO_TIMELINE, Offset, timeline_at
from durable_streams_core.subscriptions.records import (
    MAX_EXPLICIT,
    BaseUrl,
    Config,
    Cursor,
    LinkedStream,
    decode_base_url,
    decode_cursor,
    encode,
    parse_ack_offset,
    parse_config,
    parse_object,
    parse_streams,
    subscription_path,
)

HOOK = {"url": "https://worker.example/hooks"}
WEBHOOK = {"type": "webhook", "pattern": "events/*", "webhook": HOOK}
PULL = {"type": "pull-wake", "streams": ["a"], "wake_stream": "wake/pool"}


def test_the_same_wish_is_the_same_however_it_is_written() -> None:
    first = parse_config({**WEBHOOK, "streams": ["b", "/a/", "a"]})
    second = parse_config(
        {**WEBHOOK, "pattern": "/events/*/", "streams": ["a", "b"], "lease_ttl_ms": 30000.0,
         "wake_stream": "ignored", "description": None}
    )  # fmt: skip
    assert first == second
    assert first.hash() == second.hash()
    assert first == Config("webhook", "events/*", ("a", "b"), HOOK["url"], None, 30_000, None)


@pytest.mark.parametrize(
    "change",
    [
        {"pattern": "events/**"},
        {"streams": ["a"]},
        {"webhook": {"url": "https://other.example/"}},
        {"lease_ttl_ms": 1000},
        {"description": "another"},
        {"type": "pull-wake", "wake_stream": "w"},
    ],
)
def test_every_part_of_a_wish_counts(change: Any) -> None:
    assert parse_config({**WEBHOOK, **change}).hash() != parse_config(WEBHOOK).hash()


@pytest.mark.parametrize(
    "body",
    [
        [],
        None,
        {},
        {**WEBHOOK, "type": "email"},
        {**WEBHOOK, "type": None},
        {"type": "webhook", "webhook": HOOK},
        {"type": "webhook", "webhook": HOOK, "streams": []},
        {**WEBHOOK, "pattern": ""},
        {**WEBHOOK, "pattern": "/"},
        {**WEBHOOK, "pattern": 5},
        {**WEBHOOK, "pattern": "a//b"},
        {**WEBHOOK, "pattern": "a/../b"},
        {**WEBHOOK, "pattern": "__ds/**"},
        {**WEBHOOK, "pattern": "/".join("a" * 65)},
        {**WEBHOOK, "streams": "a"},
        {**WEBHOOK, "streams": [5]},
        {**WEBHOOK, "streams": [""]},
        {**WEBHOOK, "streams": ["__ds/keys"]},
        {**WEBHOOK, "streams": ["a"] * (MAX_EXPLICIT + 1)},
        {**WEBHOOK, "webhook": None},
        {**WEBHOOK, "webhook": {}},
        {**WEBHOOK, "webhook": {"url": 5}},
        {**WEBHOOK, "webhook": {"url": ""}},
        {**WEBHOOK, "webhook": {"url": "https://a/" + "b" * 3000}},
        {**WEBHOOK, "lease_ttl_ms": 999},
        {**WEBHOOK, "lease_ttl_ms": 600_001},
        {**WEBHOOK, "lease_ttl_ms": 1000.5},
        {**WEBHOOK, "lease_ttl_ms": "1000"},
        {**WEBHOOK, "lease_ttl_ms": True},
        {**WEBHOOK, "lease_ttl_ms": None},
        {**WEBHOOK, "description": 5},
        {**WEBHOOK, "description": "x" * 5000},
        {**PULL, "wake_stream": None},
        {**PULL, "wake_stream": ""},
        {**PULL, "wake_stream": "a"},
        {**PULL, "wake_stream": "__ds/a"},
    ],
)
def test_a_wish_that_cannot_be_is_an_invalid_request(body: Any) -> None:
    with pytest.raises(SubscriptionError) as raised:
        parse_config(body)
    assert (raised.value.code, raised.value.status) == ("INVALID_REQUEST", 400)


def test_leases_last_from_a_second_to_ten_minutes() -> None:
    for lease in (1000, 600_000):
        assert parse_config({**PULL, "lease_ttl_ms": lease}).lease_ttl_ms == lease


def test_a_pattern_never_means_its_own_wake_stream_nor_what_is_reserved() -> None:
    config = parse_config({"type": "pull-wake", "pattern": "**", "wake_stream": "wake/pool"})
    assert config.means("wake/other")
    assert not config.means("wake/pool")
    assert not config.means("__ds/keys")
    assert config.prefix == ""


def test_a_pull_wake_pattern_means_no_wake_stream_of_others_and_a_webhooks_does() -> None:
    """Those of two that cover each other's would wake each other for ever; a webhook wakes none."""
    wake_streams = {"wake/pool", "wake/other"}
    pulling = parse_config({"type": "pull-wake", "pattern": "**", "wake_stream": "wake/pool"})
    told = parse_config({**WEBHOOK, "pattern": "**"})
    assert not pulling.means("wake/other", wake_streams)
    assert pulling.means("wake/third", wake_streams)
    assert told.means("wake/other", wake_streams)


def test_a_subscription_without_a_pattern_means_nothing() -> None:
    explicit = parse_config(PULL)
    assert explicit.glob is None
    assert not explicit.means("a")
    assert explicit.prefix == ""


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\nb", "é" * 200])
def test_ids_that_no_subscription_has(name: str) -> None:
    with pytest.raises(SubscriptionError):
        subscription_path(name)


def test_ids_are_names_of_one_segment() -> None:
    assert subscription_path("sub 1 ü") == "__ds/subscriptions/sub 1 ü"


@pytest.mark.parametrize("offset", ["-1", "now", "", "1", None, 5, "0000000000000001_00"])
def test_an_ack_names_an_offset_that_was_given_out(offset: int | str | None) -> None:
    with pytest.raises(SubscriptionError) as raised:
        parse_ack_offset(offset)
    assert (raised.value.code, raised.value.status) == ("INVALID_OFFSET", 409)
    assert parse_ack_offset("0000000000000000_0000000000000007") == Offset(NO_TIMELINE, 7)


def test_more_streams_are_named_in_an_array() -> None:
    assert parse_streams({"streams": ["b", "a", "b"]}) == ("a", "b")
    for bad in ({}, {"streams": []}, {"streams": {}}):
        with pytest.raises(SubscriptionError):
            parse_streams(parse_object(bad))


def test_how_a_stream_stands() -> None:
    head = Head("i", b"", tail=9)
    four = Offset(NO_TIMELINE, 4)
    for cursor, acked in [(None, None), (Cursor("i", 4), four), (Cursor("old", 9), None)]:
        linked = LinkedStream("a", cursor, head)
        assert linked.acked == acked
        assert linked.pending
    assert not LinkedStream("a", Cursor("i", 9), head).pending
    assert not LinkedStream("a", Cursor("i", 9), None).pending
    assert not LinkedStream("a", None, Head("i", b"")).pending
    assert LinkedStream("a", Cursor("i", 4, True), head).described(tail=True) == {
        "path": "a",
        "link_type": "explicit",
        "acked_offset": "0000000000000000_0000000000000004",
        "tail_offset": "0000000000000000_0000000000000009",
        "has_pending": True,
    }
    assert LinkedStream("a", None, None).described(tail=True) == {
        "path": "a",
        "link_type": "glob",
        "acked_offset": "-1",
        "tail_offset": "0000000000000000_0000000000000000",
        "has_pending": False,
    }
    assert "tail_offset" not in LinkedStream("a", None, None).described(tail=False)


def test_a_cursor_in_data_that_the_store_lost_counts_from_the_start() -> None:
    one, two = timeline_at(1), timeline_at(2)
    head = Head("i", b"", tail=5, timeline=one).moved_on(two)
    lost = LinkedStream("a", Cursor("i", 9, timeline=one), head)
    assert (lost.acked, lost.pending) == (None, True)
    kept = LinkedStream("a", Cursor("i", 5, timeline=one), head)
    assert (kept.acked, kept.pending) == (Offset(one, 5), False)


def test_a_cursor_newer_than_the_head_that_was_seen_stands() -> None:
    older = Head("i", b"", tail=5, timeline=timeline_at(1))
    newer = LinkedStream("a", Cursor("i", 9, timeline=timeline_at(2)), older)
    assert (newer.acked, newer.pending) == (Offset(timeline_at(2), 9), False)


def test_a_cursor_written_before_there_were_timelines_is_read() -> None:
    assert decode_cursor(msgspec.msgpack.encode(["i", 7, True])) == Cursor("i", 7, True)


def test_records_are_stored_and_read_back() -> None:
    cursor, base_url = Cursor("i", 7, True), BaseUrl("https://a.example", "/v1/stream/")
    assert decode_cursor(encode(cursor)) == cursor
    assert decode_base_url(encode(base_url)) == base_url
    assert decode_cursor(None) is None
    assert decode_base_url(None) is None
