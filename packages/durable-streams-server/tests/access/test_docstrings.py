"""The examples in the docstrings of access run."""

import doctest
from importlib import import_module

import pytest

import durable_streams_server

MODULES = ["access", "certificates", "config", "jwt_tokens", "rights", "tokens"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    module = import_module(f"durable_streams_server.access.{name}")
    names = {each: getattr(durable_streams_server, each) for each in durable_streams_server.__all__}
    result = doctest.testmod(module, extraglobs=names)
    assert result.attempted
    assert not result.failed
