"""A short run of the fuzz target over the same inputs each time; `nox -s fuzz` takes minutes."""

import fuzz

from durable_streams_server.standalone.familiar import MAX_KNOWN, Block, Familiar, Lately


async def test_mutated_requests_do_no_harm():
    familiar = Familiar("/v1/stream/")
    recognised = 0
    for seed in range(40):
        recognised += await fuzz.one(seed, familiar)
    assert recognised > 300


def test_no_more_is_remembered_than_a_bound():
    lately: Lately[Block] = Lately()
    first = Block({}, 0)
    lately.add(b"first", first)
    for n in range(10 * MAX_KNOWN):
        lately.add(b"%d" % n, Block({}, 0))
        # What is used again stays.
        assert lately.get(b"first") is first
    assert len(lately._newer) + len(lately._older) <= 2 * MAX_KNOWN
    assert lately.get(b"0") is None


def test_a_block_that_begins_like_a_request_is_not_learned():
    """Else a request line could be hidden in the headers of another."""
    familiar = Familiar("/")
    hidden = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
    familiar.learn(b"\r\n" + hidden, {b"host": b"a"}, 0)
    assert familiar.recognise(b"GET /y HTTP/1.1\r\n" + hidden) is None
