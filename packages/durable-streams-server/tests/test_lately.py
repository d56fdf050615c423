"""The bounded memory of what was met lately."""

from durable_streams_server.lately import Lately


def test_no_more_is_remembered_than_a_bound_and_what_is_met_again_stays():
    lately: Lately[bytes, int] = Lately(100)
    lately.add(b"first", -1)
    for n in range(1000):
        lately.add(b"%d" % n, n)
        assert lately.get(b"first") == -1
    assert len(list(lately.items())) <= 200
    assert lately.get(b"0") is None
    assert all(lately.get(b"%d" % n) == n for n in range(950, 1000))
