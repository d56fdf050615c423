"""Caches keep what was used last, within a bound of entries or of bytes."""

from hypothesis import given
from hypothesis import strategies as st

from durable_streams_server.caches import ByteCache, TwoGenerationCache


def test_no_more_is_remembered_than_a_bound_and_what_is_met_again_stays() -> None:
    caches: TwoGenerationCache[bytes, int] = TwoGenerationCache(100)
    caches.add(b"first", -1)
    for n in range(1000):
        caches.add(b"%d" % n, n)
        assert caches.get(b"first") == -1
    assert len(list(caches.items())) <= 200
    assert caches.get(b"0") is None
    assert all(caches.get(b"%d" % n) == n for n in range(950, 1000))


@given(st.lists(st.integers(0, 150), max_size=60))
def test_a_cache_of_bytes_holds_what_was_used_last_within_its_bound(sizes: list[int]) -> None:
    cache: ByteCache[int, bytes] = ByteCache(100)
    for key, size in enumerate(sizes):
        cache.add(key, b"x" * size, size)
        found = [value for other in range(key + 1) if (value := cache.get(other)) is not None]
        assert sum(map(len, found)) <= 100
        assert (cache.get(key) is not None) == (size <= 100)


def test_a_cache_of_bytes_drops_what_was_used_longest_ago() -> None:
    cache: ByteCache[str, bytes] = ByteCache(100)
    for key in "abcd":
        cache.add(key, b"x" * 25, 25)
    assert cache.get("a")
    cache.add("e", b"x" * 25, 25)
    assert cache.get("b") is None
    assert all(cache.get(key) for key in "acde")
