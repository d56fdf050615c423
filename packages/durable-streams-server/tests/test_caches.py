"""The bounded memory of what was met caches."""

from durable_streams_server.caches import TwoGenerationCache


def test_no_more_is_remembered_than_a_bound_and_what_is_met_again_stays():
    caches: TwoGenerationCache[bytes, int] = TwoGenerationCache(100)
    caches.add(b"first", -1)
    for n in range(1000):
        caches.add(b"%d" % n, n)
        assert caches.get(b"first") == -1
    assert len(list(caches.items())) <= 200
    assert caches.get(b"0") is None
    assert all(caches.get(b"%d" % n) == n for n in range(950, 1000))
