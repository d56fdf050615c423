from importlib.metadata import version

import durable_streams_redis


def test_it_knows_its_version() -> None:
    assert durable_streams_redis.__version__ == version("durable-streams-redis")
