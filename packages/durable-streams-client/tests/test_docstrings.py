"""The examples in the docstrings of public names run as they stand."""

import doctest
import inspect
from pathlib import Path
from typing import Any

import pytest
from hostile import Hostile

import durable_streams_client as ds

EXAMPLES = {
    name: examples
    for name in ds.__all__
    if inspect.isclass(each := getattr(ds, name))
    and (examples := doctest.DocTestParser().get_examples(each.__doc__ or ""))
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of(name: str, server: Hostile, tmp_path: Path) -> None:
    server.extended = True
    server.put("numbers", b"1", b"2", b"3", content_type="application/json").closed = False
    with ds.Client(server.url) as client:
        stream = client.stream("numbers")
        names: dict[str, Any] = {each: getattr(ds, each) for each in ds.__all__}
        names |= {"client": client, "stream": stream, "folder": tmp_path}
        if name == "MemoryCheckpoint":
            server.streams["/numbers"].closed = True
        test = doctest.DocTest(EXAMPLES[name], names, name, None, None, None)
        told: list[str] = []
        doctest.DocTestRunner(verbose=False).run(test, out=told.append)
        assert not told, "".join(told)


def test_enough_names_have_an_example() -> None:
    assert len(EXAMPLES) >= 17
