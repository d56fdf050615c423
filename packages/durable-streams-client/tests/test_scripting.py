"""The one-line functions."""

import pytest
from hostile import Hostile

import durable_streams_client as ds


def test_a_stream_in_single_lines(server: Hostile) -> None:
    url = server.url + "a"
    assert ds.create(url, content_type="application/json", ttl=9, data=0).created
    assert ds.append(url, {"n": 1}).offset == "00000002"
    assert ds.head(url).ttl == 9
    assert [item for batch in ds.read(url) for item in batch] == [0, {"n": 1}]
    assert ds.close_stream(url, 2).closed
    assert [item for batch in ds.follow(url, "00000001") for item in batch] == [{"n": 1}, 2]
    ds.delete(url)
    ds.delete(url, missing_ok=True)
    with pytest.raises(ds.NotFound):
        ds.head(url)
